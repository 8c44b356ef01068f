"""How a manager's store fares, whichever kind it is.

Pure.
"""

from typing import Final

from skep.model.base import Record

EXTERNAL: Final = "external etcd"


class StoreMember(Record, frozen=True, kw_only=True):
    """One manager's part in a store that several keep.

    Attributes:
        node_id: "" for one that was let in and has not started yet.
        lag: Changes that any manager knows of and it has not taken in yet; None where it did not say in time.
    """

    node_id: str
    is_voter: bool = True
    is_reachable: bool = True
    lag: int | None = None


class StoreEndpoint(Record, frozen=True, kw_only=True):
    """Where an etcd that is not the managers' own is asked.

    Attributes:
        failure: Why it does not answer; "" if it does.
    """

    url: str
    failure: str = ""


class StoreStatus(Record, frozen=True, kw_only=True):
    """A store as its manager sees it.

    Attributes:
        kind: `sqlite`, `etcd` or `external etcd`. version: of etcd; "" for SQLite.
        size_bytes: On disk. limit_bytes: of that; 0 where only the disk is one. free_bytes: of the disk.
        alarms: What the store itself holds to be wrong.
        members: Of a store that several managers keep or, in an external one, use.
        endpoints: Of an external one.
        failure: Why it could not be asked; the rest is then what can be known without it.
    """

    kind: str
    version: str = ""
    size_bytes: int = 0
    limit_bytes: int = 0
    free_bytes: int = 0
    alarms: list[str] = []
    members: list[StoreMember] = []
    endpoints: list[StoreEndpoint] = []
    failure: str = ""
