"""What managers ask of each other about the state they keep: to be let in among them, and how far each has come.

Pure. Every question may be asked again. To be let in, the answer tells how far that has come.
"""

from skep.model.base import Record


class EntryRequest(Record, frozen=True, kw_only=True):
    """A manager asks to be let in.

    Attributes:
        peer_url: Where its member of the store will be reached.
        control_addr: host:port of its control listener: nodes have to find it as soon as it may lead.
        has_data: It has what a member keeps already, from an attempt before.
    """

    peer_url: str
    control_addr: str
    has_data: bool = False


class Entry(Record, frozen=True, kw_only=True):
    """What a new manager begins with.

    Attributes:
        initial: Peer URLs by node id, of all members, the new one included.
        base: What the store's revisions begin at; see `edge.rebase`.
        data_key: Of the cluster.
        is_new: Its member never ran; whatever it has of one is of another life.
        is_external: The state is in an etcd that is not the managers' own: it needs no member.
    """

    initial: dict[str, str]
    base: int
    data_key: bytes
    is_new: bool
    is_external: bool = False

    def __repr__(self) -> str:  # Never the key: what is printed ends up in logs.
        return f"Entry(initial={self.initial!r})"


class Progress(Record, frozen=True, kw_only=True):
    """How far one manager's own member of the store has come.

    Attributes:
        member_id: Which member says so; another one than expected is of another life, and counts differently.
        committed: The newest entry it knows more than half of the members to have.
        applied: The newest entry it has taken in.
    """

    member_id: int
    committed: int
    applied: int
