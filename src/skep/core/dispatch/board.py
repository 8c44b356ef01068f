"""What every node has been told, and the delta to what it shall know.

Pure. Items hang under topics: everyone's, one network's, one node's. A node reads the first, its own and those of its
networks, so an item is kept once however many nodes read it. A clock counts changes; each item carries the moment it
last changed, and removed keys are remembered for a while, so a node that comes back with an older version of its set
gets only what changed since. A version numbers what one node was sent.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from skep.model.assignment import Delta, Item, ItemKey

Topic = tuple[str, str]
EVERYONE: Topic = ("all", "")

REMEMBERED_VERSIONS = 32
REMEMBERED_REMOVALS = 20_000
_LARGEST_CLAIM = 1 << 53


def network_topic(network_id: str) -> Topic:
    return ("network", network_id)


def node_topic(node_id: str) -> Topic:
    return ("node", node_id)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a node held at one version. Attributes: clock: everything until then; networks: whose topics."""

    clock: int
    networks: frozenset[str]


@dataclass(slots=True)
class Reader:
    """A node that is or was attached.

    Attributes:
        sent: By version, the newest last; a node may come back without the last ones.
    """

    is_attached: bool = False
    version: int = 0
    sent: dict[int, _Sent] = field(default_factory=dict)

    def remember(self, clock: int, networks: frozenset[str]) -> None:
        self.sent[self.version] = _Sent(clock, networks)
        while len(self.sent) > REMEMBERED_VERSIONS:
            del self.sent[next(iter(self.sent))]


class Board:
    """Items under topics, readers, and which networks each node takes part in."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.readers: dict[str, Reader] = {}
        self.items: dict[Topic, dict[ItemKey, Item]] = {}
        self.interest: dict[str, dict[str, set[str]]] = {}
        """Network id, node id: the tasks that make the node take part."""
        self._networks: dict[str, set[str]] = {}
        self._clock = 0
        self._changed_at: dict[ItemKey, int] = {}
        self._removals: deque[tuple[int, Topic, ItemKey]] = deque()
        self._forgotten = 0  # Removals at or before this moment are no longer known.
        self._pending: dict[Topic, dict[ItemKey, Item | None]] = {}
        self._moved: set[str] = set()

    # --- writing -----------------------------------------------------------------

    def put(self, topic: Topic, item: Item) -> None:
        """Show an item under a topic; nothing happens if it is there already as it is."""
        items = self.items.setdefault(topic, {})
        key = item.key
        if items.get(key) != item:
            items[key] = item
            self._changed_at[key] = self._clock + 1
            self._pending.setdefault(topic, {})[key] = item

    def remove(self, topic: Topic, key: ItemKey) -> None:
        """Take an item down; nothing happens if it is not there."""
        items = self.items.get(topic, {})
        if items.pop(key, None) is not None:
            if not items:
                del self.items[topic]
            del self._changed_at[key]
            self._removals.append((self._clock + 1, topic, key))
            self._pending.setdefault(topic, {})[key] = None

    def join(self, node_id: str, network_id: str, task_id: str) -> None:
        """A task makes its node take part in a network."""
        nodes = self.interest.setdefault(network_id, {})
        if node_id not in nodes:
            self._networks.setdefault(node_id, set()).add(network_id)
            self._moved.add(node_id)
        nodes.setdefault(node_id, set()).add(task_id)

    def part(self, node_id: str, network_id: str, task_id: str) -> None:
        """A task no longer makes its node take part in a network."""
        nodes = self.interest.get(network_id, {})
        tasks = nodes.get(node_id, set())
        tasks.discard(task_id)
        if node_id in nodes and not tasks:
            del nodes[node_id]
            self._networks[node_id].discard(network_id)
            self._moved.add(node_id)
            if not nodes:
                del self.interest[network_id]

    # --- reading -----------------------------------------------------------------

    def followers(self, topic: Topic) -> Iterable[str]:
        """The nodes, attached or not, that read a network's topic."""
        return self.interest.get(topic[1], {})

    def get(self, topic: Topic, key: ItemKey) -> Item | None:
        """The item as it is shown now."""
        return self.items.get(topic, {}).get(key)

    def is_attached(self, node_id: str) -> bool:
        """Whether a node has a session."""
        return node_id in self.readers and self.readers[node_id].is_attached

    def flush(self) -> dict[str, Delta]:
        """Turn what was written since the last flush into deltas of the attached nodes, each a new version."""
        if not self._pending and not self._moved:
            return {}
        self._clock += 1
        deltas = {node_id: self._delta(node_id) for node_id in self._readers_of_pending()}
        self._pending, self._moved = {}, set()
        while len(self._removals) > REMEMBERED_REMOVALS:
            self._forgotten = self._removals.popleft()[0]
        return {node_id: delta for node_id, delta in deltas.items() if delta is not None}

    def attach(self, node_id: str, epoch: str, version: int) -> Delta:
        """Start telling a node; everything written must be flushed.

        Args:
            epoch, version: What the node says it holds; "" and 0 for nothing.
        Returns:
            Only what changed since if that is known, else the full set (base 0).
        """
        reader = self.readers.setdefault(node_id, Reader())
        reader.is_attached = True
        held = reader.sent.get(version) if epoch == self.epoch else None
        if held is None or held.clock < self._forgotten:
            # Above what the node holds of another epoch, so that a late acknowledgement of that is not taken for ours.
            reader.version = max(reader.version, version if version < _LARGEST_CLAIM else 0)
            put = [item for topic in self._topics(node_id) for item in self.items.get(topic, {}).values()]
            return self._send(reader, node_id, 0, put, [])
        put, remove = self._since(node_id, held)
        if version == reader.version and not put and not remove:
            return Delta(base=version, version=version)
        return self._send(reader, node_id, version, put, remove)

    def detach(self, node_id: str) -> None:
        """Stop telling a node; what it holds is remembered."""
        reader = self.readers.get(node_id)
        if reader is not None and reader.is_attached:
            reader.is_attached = False
            reader.remember(self._clock, frozenset(self._networks.get(node_id, ())))

    def forget(self, node_id: str) -> None:
        """The node is no longer of the swarm."""
        self.readers.pop(node_id, None)

    def _topics(self, node_id: str) -> list[Topic]:
        networks = sorted(self._networks.get(node_id, ()))
        return [EVERYONE, *map(network_topic, networks), node_topic(node_id)]

    def _readers_of_pending(self) -> list[str]:
        if EVERYONE in self._pending:
            found: Iterable[str] = self.readers
        else:
            touched = set(self._moved)
            for topic in self._pending:
                touched.update([topic[1]] if topic[0] == "node" else self.followers(topic))
            found = sorted(touched)
        return [id for id in found if id in self.readers and self.readers[id].is_attached]

    def _delta(self, node_id: str) -> Delta | None:
        reader = self.readers[node_id]
        before = reader.sent[reader.version].networks
        networks = self._networks.get(node_id, set())
        put: list[Item] = []
        remove: list[ItemKey] = []
        for topic in [EVERYONE, *(network_topic(id) for id in sorted(networks & before)), node_topic(node_id)]:
            for key, item in self._pending.get(topic, {}).items():
                if item is None:
                    remove.append(key)
                else:
                    put.append(item)
        for id in sorted(networks - before):
            put.extend(self.items.get(network_topic(id), {}).values())
        for id in sorted(before - networks):
            remove.extend(self._all_keys(network_topic(id)))
        if not put and not remove:
            reader.remember(self._clock, frozenset(networks))
            return None
        return self._send(reader, node_id, reader.version, put, remove)

    def _all_keys(self, topic: Topic) -> list[ItemKey]:
        """What a reader of the topic may hold as of the last flush."""
        gone = [key for key, item in self._pending.get(topic, {}).items() if item is None]
        return [*self.items.get(topic, {}), *gone]

    def _since(self, node_id: str, held: _Sent) -> tuple[list[Item], list[ItemKey]]:
        now_topics, before = self._topics(node_id), {network_topic(id) for id in held.networks}
        before |= {EVERYONE, node_topic(node_id)}
        put: dict[ItemKey, Item] = {}
        for topic in now_topics:
            since = held.clock if topic in before else -1
            put |= {key: item for key, item in self.items.get(topic, {}).items() if self._changed_at[key] > since}
        remove = {key for clock, topic, key in self._removals if clock > held.clock and topic in before}
        remove |= {key for topic in before.difference(now_topics) for key in self.items.get(topic, {})}
        return list(put.values()), sorted(remove - put.keys() - self._shown(now_topics, remove))

    def _shown(self, topics: Iterable[Topic], keys: set[ItemKey]) -> set[ItemKey]:
        return {key for topic in topics for key in keys if key in self.items.get(topic, {})}

    def _send(self, reader: Reader, node_id: str, base: int, put: list[Item], remove: list[ItemKey]) -> Delta:
        reader.version += 1
        reader.remember(self._clock, frozenset(self._networks.get(node_id, ())))
        return Delta(base=base, version=reader.version, put=put, remove=remove)
