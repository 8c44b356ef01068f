"""The cluster's objects in memory, with indexes, and drafts to write on.

Pure: values in, values out; the replicated store feeds `State.apply`. A `Draft` lays changes over a view without
touching it, so that one decision can build on another's changes and all of them are committed together.
Objects are immutable; a reader may keep what it was given.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar, cast

import msgspec

from skep.model.base import Object
from skep.model.cluster import Cluster
from skep.model.codec import KIND_OF
from skep.model.lifecycle import TaskState
from skep.model.network import Network
from skep.model.node import Node
from skep.model.secret import Config, Secret
from skep.model.service import Service
from skep.model.task import Task
from skep.store.changes import Batch, Change, Delete, Event, Put

T = TypeVar("T", bound=Object)
T_co = TypeVar("T_co", bound=Object, covariant=True)
IndexFunction = Callable[[T], Collection[Hashable]]


class TableView(Protocol[T_co]):
    """All objects of one kind."""

    def get(self, id: str, /) -> T_co | None: ...
    def values(self) -> Iterable[T_co]: ...
    def where(self, index: str, key: Hashable, /) -> Sequence[T_co]: ...
    def __len__(self) -> int: ...
    def __contains__(self, id: object, /) -> bool: ...


class View(Protocol):
    """What a decision may read."""

    @property
    def revision(self) -> int: ...
    @property
    def cluster(self) -> Cluster | None: ...
    @property
    def nodes(self) -> TableView[Node]: ...
    @property
    def services(self) -> TableView[Service]: ...
    @property
    def tasks(self) -> TableView[Task]: ...
    @property
    def networks(self) -> TableView[Network]: ...
    @property
    def secrets(self) -> TableView[Secret]: ...
    @property
    def configs(self) -> TableView[Config]: ...


def _if(is_true: bool) -> Collection[Hashable]:
    """The keys of an index that only holds what a condition is true of."""
    return (True,) if is_true else ()


def _unplaced(task: Task) -> Collection[Hashable]:
    is_waiting = task.status.state == TaskState.PENDING and not task.node_id
    return _if(is_waiting and task.desired_state <= TaskState.COMPLETE)


def _updating(service: Service) -> Collection[Hashable]:
    status = service.update_status
    return _if(status is not None and status.state in ("updating", "rollback_started"))


def _per_node(service: Service) -> Collection[Hashable]:
    return _if(service.spec.mode.global_ is not None or service.spec.mode.global_job is not None)


def _service_networks(service: Service) -> set[Hashable]:
    wanted = list(service.spec.task_template.networks or []) + list(service.spec.networks or [])
    return {attachment.target for attachment in wanted}


def _published_ports(service: Service) -> set[Hashable]:
    wanted = (service.spec.endpoint_spec.ports or []) if service.spec.endpoint_spec else []
    given = (service.endpoint.ports or []) if service.endpoint else []
    return {(port.protocol, port.published_port) for port in (*wanted, *given) if port.published_port}


NODE_INDEXES: Final[dict[str, IndexFunction[Node]]] = {
    "hostname": lambda node: (node.description.hostname,),
}
SERVICE_INDEXES: Final[dict[str, IndexFunction[Service]]] = {
    "name": lambda service: (service.spec.name,),
    "network": _service_networks,
    "port": _published_ports,
    "updating": _updating,
    "per_node": _per_node,
    "secret": lambda service: {
        reference.secret_id
        for spec in [service.spec.task_template.container_spec]
        if spec
        for reference in spec.secrets or []
    },
    "config": lambda service: {
        reference.config_id
        for spec in [service.spec.task_template.container_spec]
        if spec
        for reference in spec.configs or []
    },
}
TASK_INDEXES: Final[dict[str, IndexFunction[Task]]] = {
    "service": lambda task: (task.service_id,),
    "node": lambda task: (task.node_id,) if task.node_id else (),
    "slot": lambda task: ((task.service_id, task.slot or task.node_id),),
    "network": lambda task: {attachment.network_id for attachment in task.attachments},
    "unplaced": _unplaced,
    "timed": lambda task: _if(bool(task.look_at)),
}
NETWORK_INDEXES: Final[dict[str, IndexFunction[Network]]] = {"name": lambda network: (network.spec.name,)}
SECRET_INDEXES: Final[dict[str, IndexFunction[Secret]]] = {"name": lambda secret: (secret.spec.name,)}
CONFIG_INDEXES: Final[dict[str, IndexFunction[Config]]] = {"name": lambda config: (config.spec.name,)}


class Table(Generic[T]):
    """Objects by id, and by each index's keys, in the order they were first put."""

    __slots__ = ("functions", "indexes", "rows")

    def __init__(self, functions: Mapping[str, IndexFunction[T]]) -> None:
        self.functions = functions
        self.rows: dict[str, T] = {}
        self.indexes: dict[str, dict[Hashable, dict[str, T]]] = {name: {} for name in functions}

    def get(self, id: str, /) -> T | None:
        return self.rows.get(id)

    def values(self) -> Iterable[T]:
        return self.rows.values()

    def where(self, index: str, key: Hashable, /) -> Sequence[T]:
        found = self.indexes[index].get(key)
        return tuple(found.values()) if found else ()

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, id: object, /) -> bool:
        return id in self.rows

    def put(self, value: T) -> T | None:
        """Store a value; returns what it replaced."""
        id = value.id
        old = self.rows.get(id)
        for name, function in self.functions.items():
            index = self.indexes[name]
            keys = function(value)
            if old is not None and (before := function(old)) != keys:
                self._unindex(index, set(before).difference(keys), id)
            for key in keys:
                entries = index.get(key)
                if entries is None:
                    index[key] = {id: value}
                else:
                    entries[id] = value
        self.rows[id] = value
        return old

    def delete(self, id: str) -> T | None:
        """Remove a value; returns it, or None if there was none."""
        old = self.rows.pop(id, None)
        if old is not None:
            for name, function in self.functions.items():
                self._unindex(self.indexes[name], function(old), id)
        return old

    @staticmethod
    def _unindex(index: dict[Hashable, dict[str, T]], keys: Iterable[Hashable], id: str) -> None:
        for key in keys:
            entries = index.get(key)
            if entries is not None:
                entries.pop(id, None)
                if not entries:
                    del index[key]


class TableDraft(Generic[T]):
    """A table with changes laid over it. Most drafts of most tables never get any, and then cost next to nothing."""

    __slots__ = ("_changed", "_functions", "base", "deleted")

    def __init__(self, base: TableView[T], functions: Mapping[str, IndexFunction[T]]) -> None:
        self.base = base
        self.deleted: dict[str, T] = {}
        self._functions = functions
        self._changed: Table[T] | None = None

    @property
    def puts(self) -> Iterable[T]:
        """What was put, in the order it was first put."""
        return self._changed.values() if self._changed is not None else ()

    def get(self, id: str, /) -> T | None:
        if self._changed is not None and (found := self._changed.rows.get(id)) is not None:
            return found
        return None if id in self.deleted else self.base.get(id)

    def values(self) -> Iterable[T]:
        if self._changed is None and not self.deleted:
            return self.base.values()
        return [*(row for row in self.base.values() if not self._hides(row.id)), *self.puts]

    def where(self, index: str, key: Hashable, /) -> Sequence[T]:
        kept = self.base.where(index, key)
        if kept and (self._changed is not None or self.deleted):
            kept = tuple(row for row in kept if not self._hides(row.id))
        added = self._changed.where(index, key) if self._changed is not None else ()
        return (*kept, *added) if added else kept

    def __len__(self) -> int:
        return sum(1 for _ in self.values())

    def __contains__(self, id: object, /) -> bool:
        return isinstance(id, str) and self.get(id) is not None

    def put(self, value: T) -> None:
        self.deleted.pop(value.id, None)
        if self._changed is None:
            self._changed = Table(self._functions)
        self._changed.put(value)

    def delete(self, id: str) -> None:
        if self._changed is not None:
            self._changed.delete(id)
        old = self.base.get(id)
        if old is not None:
            self.deleted[id] = old

    def _hides(self, id: str) -> bool:
        return id in self.deleted or (self._changed is not None and id in self._changed.rows)


class State:
    """The whole state at one revision. Implements `View`."""

    def __init__(self) -> None:
        self.revision = 0
        self.cluster: Cluster | None = None
        self.nodes: Table[Node] = Table(NODE_INDEXES)
        self.services: Table[Service] = Table(SERVICE_INDEXES)
        self.tasks: Table[Task] = Table(TASK_INDEXES)
        self.networks: Table[Network] = Table(NETWORK_INDEXES)
        self.secrets: Table[Secret] = Table(SECRET_INDEXES)
        self.configs: Table[Config] = Table(CONFIG_INDEXES)

    def table(self, kind: str) -> Table[Object]:
        """The table of a kind other than `cluster`."""
        return cast("Table[Object]", getattr(self, f"{kind}s"))

    def apply(self, changes: Iterable[Change], revision: int) -> Batch:
        """Take in a committed transaction.

        Args:
            changes: In order; every put object's version becomes `revision`.
        Returns:
            What changed, old beside new.
        """
        events: list[Event] = []
        for change in changes:
            match change:
                case Put(value):
                    is_stamped = value.version == revision
                    stamped = value if is_stamped else msgspec.structs.replace(value, version=revision)
                    events.append(Event(change.kind, change.id, self._put(stamped), stamped))
                case Delete(kind, id, _):
                    old = self._delete(kind, id)
                    if old is not None:
                        events.append(Event(kind, id, old, None))
        self.revision = revision
        return Batch(revision, events)

    def load(self, objects: Iterable[Object], revision: int) -> None:
        """Put objects just as they are, versions included, and stand at `revision`: the way a state begins."""
        for value in objects:
            self._put(value)
        self.revision = revision

    def find(self, kind: str, id: str) -> Object | None:
        """The object of a kind and id, the cluster included."""
        if kind == "cluster":
            return self.cluster if self.cluster is not None and self.cluster.id == id else None
        return self.table(kind).get(id)

    def objects(self) -> Iterator[tuple[str, Object]]:
        """Every object with its kind."""
        if self.cluster is not None:
            yield "cluster", self.cluster
        for kind in KIND_OF.values():
            if kind != "cluster":
                yield from ((kind, value) for value in self.table(kind).values())

    def _put(self, value: Object) -> Object | None:
        if isinstance(value, Cluster):
            old, self.cluster = self.cluster, value
            return old
        return self.table(KIND_OF[type(value)]).put(value)

    def _delete(self, kind: str, id: str) -> Object | None:
        if kind == "cluster":
            old, self.cluster = self.cluster, None
            return old
        return self.table(kind).delete(id)


class Draft:
    """Changes laid over a view. Implements `View`, so drafts can be stacked."""

    def __init__(self, base: View) -> None:
        self.base = base
        self.cluster: Cluster | None = base.cluster
        self.nodes: TableDraft[Node] = TableDraft(base.nodes, NODE_INDEXES)
        self.services: TableDraft[Service] = TableDraft(base.services, SERVICE_INDEXES)
        self.tasks: TableDraft[Task] = TableDraft(base.tasks, TASK_INDEXES)
        self.networks: TableDraft[Network] = TableDraft(base.networks, NETWORK_INDEXES)
        self.secrets: TableDraft[Secret] = TableDraft(base.secrets, SECRET_INDEXES)
        self.configs: TableDraft[Config] = TableDraft(base.configs, CONFIG_INDEXES)

    @property
    def revision(self) -> int:
        return self.base.revision

    def table(self, kind: str) -> TableDraft[Object]:
        """The table of a kind other than `cluster`."""
        return cast("TableDraft[Object]", getattr(self, f"{kind}s"))

    def put(self, value: Object) -> None:
        """Create or replace an object, keeping the version it was read at."""
        if isinstance(value, Cluster):
            self.cluster = value
        else:
            self.table(KIND_OF[type(value)]).put(value)

    def delete(self, value: Object) -> None:
        """Remove an object."""
        self.table(KIND_OF[type(value)]).delete(value.id)

    def lay(self, changes: Iterable[Change]) -> None:
        """Lay another decision's changes over this draft."""
        for change in changes:
            match change:
                case Put(value):
                    self.put(value)
                case Delete(kind, id, _):
                    self.table(kind).delete(id)

    def changes(self) -> tuple[Change, ...]:
        """What differs from the base: puts that change something, then deletions, kind by kind."""
        found: list[Change] = []
        if self.cluster is not None and self.cluster != self.base.cluster:
            found.append(Put(self.cluster))
        for kind in ("network", "node", "secret", "config", "service", "task"):
            table = self.table(kind)
            found.extend(Put(value) for value in table.puts if value != table.base.get(value.id))
            found.extend(Delete(kind, old.id, old.version) for old in table.deleted.values())
        return tuple(found)


def committed(view: View) -> View:
    """What a view was before any draft was laid over it."""
    while isinstance(view, Draft):
        view = view.base
    return view
