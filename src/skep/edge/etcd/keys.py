"""Where the swarm's things are among etcd's keys.

Pure. Everything is under one prefix, so that an etcd may be shared. Under `o/` is what managers watch: the rows, and
who leads. Under `w/` each writer has its epoch and its receipts.
"""

from dataclasses import dataclass

from skep.edge.etcd.wire import prefix_end


@dataclass(frozen=True, slots=True)
class Keys:
    """Attributes: prefix: of all keys of one swarm, such as `/skep/CLUSTER/`; ends in a slash."""

    prefix: bytes

    @classmethod
    def of(cls, cluster_id: str) -> "Keys":
        return cls(f"/skep/{cluster_id}/".encode())

    @property
    def watched(self) -> bytes:
        return self.prefix + b"o/"

    @property
    def watched_end(self) -> bytes:
        return prefix_end(self.watched)

    @property
    def leader(self) -> bytes:
        """Has no second slash, which tells it from a row."""
        return self.watched + b"leader"

    @property
    def settled(self) -> bytes:
        """That the swarm's state counts here; only in an etcd that is not the managers' own."""
        return self.prefix + b"settled"

    def row(self, kind: str, id: str) -> bytes:
        return self.watched + f"{kind}/{id}".encode()

    def row_of(self, key: bytes) -> tuple[str, str] | None:
        """Kind and id of a watched key; None if it is no row."""
        kind, slash, id = key[len(self.watched) :].decode().partition("/")
        return (kind, id) if slash else None

    def epoch(self, writer: str) -> bytes:
        return self.prefix + f"w/{writer}/epoch".encode()

    def receipts(self, writer: str) -> bytes:
        """The prefix of a writer's receipts."""
        return self.prefix + f"w/{writer}/receipt/".encode()

    def receipt(self, writer: str, lane: int) -> bytes:
        return self.receipts(writer) + str(lane).encode()
