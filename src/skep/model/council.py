"""How a manager is let into the circle of those that keep the swarm's state: what it asks of another, and is answered.

Pure. Both questions may be asked again: the answer tells how far it has come.
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
    """

    initial: dict[str, str]
    base: int
    data_key: bytes
    is_new: bool

    def __repr__(self) -> str:  # Never the key: what is printed ends up in logs.
        return f"Entry(initial={self.initial!r})"
