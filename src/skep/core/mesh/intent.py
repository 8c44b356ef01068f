"""Everything one node must program, as a value, and how a delta changes it.

Pure. An intent is a node's assignment items sorted by kind. It is never changed in place: folding a delta copies the
tables the delta touches and shares the others, so that comparing two intents needs to look only at tables (and in
them at items) that are not the very same object.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeVar, assert_never

import msgspec

from skep.model.assignment import (
    AssignedTask,
    BalancedService,
    ClusterFacts,
    Delta,
    Item,
    ItemKey,
    NetworkEndpoint,
    OverlayNetwork,
    Peer,
    PublishedService,
)
from skep.model.base import Record


class NodeIntent(Record, frozen=True, kw_only=True):
    """One version of a node's assignments; every table is keyed by `ItemKey`.

    Attributes:
        version: Of the assignment set this is.
        node_id: The node it is for; empty before the first delta.
    """

    version: int = 0
    node_id: str = ""
    cluster: ClusterFacts | None = None
    peers: dict[ItemKey, Peer] = {}
    networks: dict[ItemKey, OverlayNetwork] = {}
    endpoints: dict[ItemKey, NetworkEndpoint] = {}
    services: dict[ItemKey, BalancedService] = {}
    published: dict[ItemKey, PublishedService] = {}
    tasks: dict[ItemKey, AssignedTask] = {}


TABLE_OF_PREFIX: Final = {
    "peer": "peers",
    "network": "networks",
    "endpoint": "endpoints",
    "service": "services",
    "published": "published",
    "task": "tasks",
}


def fold(intent: NodeIntent, delta: Delta, self_node_id: str) -> NodeIntent:
    """Apply a delta.

    Args:
        intent: What the node held; ignored when the delta is a full set (base 0).
        delta: What to put and remove.
        self_node_id: The node the result is for.
    Returns:
        A new intent of the delta's version, sharing every table the delta leaves alone.
    Raises:
        ValueError: The delta's base is not the version held: ask for a full set.
    """
    if delta.base == 0:
        intent = NodeIntent()
    elif delta.base != intent.version:
        raise ValueError(
            f"a delta from version {delta.base} does not apply to version {intent.version}: ask for a full set"
        )
    cluster = intent.cluster
    touched: dict[str, dict[ItemKey, Item]] = {}

    def table(name: str) -> dict[ItemKey, Item]:
        if name not in touched:
            touched[name] = dict(getattr(intent, name))
        return touched[name]

    for key in delta.remove:
        prefix = key.partition("/")[0]
        if prefix == "cluster":
            cluster = None
        elif prefix in TABLE_OF_PREFIX:
            table(TABLE_OF_PREFIX[prefix]).pop(key, None)
    for item in delta.put:
        if isinstance(item, ClusterFacts):
            cluster = item
        else:
            table(_table_of(item))[item.key] = item
    return msgspec.structs.replace(intent, version=delta.version, node_id=self_node_id, cluster=cluster, **touched)


def _table_of(item: Peer | OverlayNetwork | NetworkEndpoint | BalancedService | PublishedService | AssignedTask) -> str:
    match item:
        case Peer():
            return "peers"
        case OverlayNetwork():
            return "networks"
        case NetworkEndpoint():
            return "endpoints"
        case BalancedService():
            return "services"
        case PublishedService():
            return "published"
        case AssignedTask():
            return "tasks"
        case _:
            assert_never(item)


V = TypeVar("V")


def changes(before: Mapping[ItemKey, V], after: Mapping[ItemKey, V]) -> Iterator[tuple[V | None, V | None]]:
    """Pairs of old and new item, one of them None, for what two versions of a table do not share.

    A table that is the very same object costs nothing; otherwise identity is compared per item, equality never.
    """
    if before is after:
        return
    for key, new in after.items():
        old = before.get(key)
        if old is not new:
            yield old, new
    for key, old in before.items():
        if key not in after:
            yield old, None
