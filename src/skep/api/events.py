"""What happens in the swarm, told in Docker's words to everyone who listens.

Edge: one task follows the control state and feeds every listener; an event is spelled once, however many
listen. The last 256 are kept for `--since`. A listener that does not keep up is cut off rather than waited for.
Source: moby's daemon/events.go (logNodeEvent, logServiceEvent, …) and daemon/events/events.go.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from skep.api import wire
from skep.api.backend import Control, LocalNode
from skep.api.filters import Filters
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.base import Labels, Nanoseconds, Object
from skep.model.errors import SkepError
from skep.model.network import Network
from skep.model.node import Node
from skep.model.secret import Config, Secret
from skep.model.service import Service
from skep.ports.clock import Clock
from skep.store import changes

log = structlog.get_logger()

KEPT: Final = 256
QUEUE: Final = 2048
GAP: Final = 100 * MILLISECOND
"""How long events are held back after others went out."""
_LOOK_AGAIN: Final = 250 * MILLISECOND
"""How often to see whether this node has become a manager, or stopped being one."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Docker's event. Attributes: line: it as JSON, one line."""

    type: str
    action: str
    actor_id: str
    attributes: Labels
    time: Nanoseconds
    scope: str = "swarm"
    line: bytes = field(init=False)

    def __post_init__(self) -> None:
        document = {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.actor_id, "Attributes": self.attributes},
            "scope": self.scope,
            "time": self.time // SECOND,
            "timeNano": self.time,
        }
        object.__setattr__(self, "line", wire.encode(document) + b"\n")


def is_wanted(event: Happening, wanted: Filters) -> bool:
    """Whether a listener's filters let the event pass."""
    action = event.action.partition(":")[0]
    return (
        wanted.is_exact("type", event.type)
        and wanted.is_exact("scope", event.scope)
        and (wanted.is_exact("event", event.action) or wanted.is_exact("event", action))
        and wanted.has_labels("label", event.attributes)
        and all(_is_actor(event, key, wanted) for key in ACTORS if key in wanted)
    )


ACTORS: Final = ("container", "image", "volume", "network", "node", "service", "secret", "config", "plugin", "daemon")


def _is_actor(event: Happening, key: str, wanted: Filters) -> bool:
    name = event.attributes.get("name", "")
    if key == "image" and event.type == "container":
        name = event.attributes.get("image", "")
    elif key != event.type:
        return False
    return any(text == name or event.actor_id.startswith(text) for text in wanted.values(key))


# --- what a committed change is called -------------------------------------------


def happenings(batch: changes.Batch, now: Nanoseconds) -> Iterator[Happening]:
    """What to tell of a committed batch."""
    for event in batch.events:
        subject = event.new or event.old
        if subject is None or event.kind not in {"node", "service", "network", "secret", "config"}:
            continue
        action = "create" if event.old is None else "remove" if event.new is None else "update"
        attributes = _attributes(event.old if action == "update" else None, subject)
        moment = now if action == "remove" else subject.updated_at or subject.created_at or now
        yield Happening(event.kind, action, event.id, attributes, moment)


def _attributes(old: Object | None, new: Object) -> Labels:
    match new:
        case Service():
            return {"name": new.spec.name, **(_service_changes(old, new) if isinstance(old, Service) else {})}
        case Node():
            name = new.spec.name or new.description.hostname
            return {"name": name, **(_node_changes(old, new) if isinstance(old, Node) else {})}
        case Network() | Secret() | Config():
            return {"name": new.spec.name}
        case _:
            return {}


def _service_changes(old: Service, new: Service) -> Labels:
    return {
        **_change("image", _image(old), _image(new)),
        **_change("replicas", _replicas(old), _replicas(new)),
        **_change(
            "updatestate",
            old.update_status.state if old.update_status else "",
            new.update_status.state if new.update_status else "",
        ),
    }


def _node_changes(old: Node, new: Node) -> Labels:
    found = {
        **_change("availability", old.spec.availability.value, new.spec.availability.value),
        **_change("role", old.spec.role.value, new.spec.role.value),
        **_change("state", old.status.state.value, new.status.state.value),
    }
    if old.manager_status and new.manager_status:
        before, after = old.manager_status, new.manager_status
        found |= _change("leader", str(before.leader).lower(), str(after.leader).lower())
        found |= _change("reachability", before.reachability, after.reachability)
    return found


def _change(name: str, old: str, new: str) -> Labels:
    if old == new:
        return {}
    return {f"{name}.new": new, **({f"{name}.old": old} if old else {})}


def _image(service: Service) -> str:
    container = service.spec.task_template.container_spec
    return container.image if container else ""


def _replicas(service: Service) -> str:
    replicated = service.spec.mode.replicated
    return str(replicated.replicas) if replicated and replicated.replicas is not None else ""


# --- listeners -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Burst:
    """Happenings that go out together, in order. Attributes: lines: all of them as JSON, spelled once for everyone."""

    events: Sequence[Happening]
    lines: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", b"".join(event.line for event in self.events))

    def wanted_lines(self, wanted: Filters) -> bytes:
        """Those that a listener's filters let pass; empty if none."""
        return b"".join(event.line for event in self.events if is_wanted(event, wanted)) if wanted else self.lines


class Listener:
    """What one listener has not been told yet. Attributes: is_overrun: it did not keep up and gets no more."""

    def __init__(self) -> None:
        self._waiting: deque[Burst] = deque()
        self._n_waiting = 0
        self._news = asyncio.Event()
        self.is_overrun = False

    def offer(self, burst: Burst) -> None:
        self._news.set()
        if self._n_waiting + len(burst.events) > QUEUE:
            self.is_overrun = True
            return
        self._n_waiting += len(burst.events)
        self._waiting.append(burst)

    def take(self) -> Burst | None:
        """The oldest burst, or None."""
        if not self._waiting:
            self._news.clear()
            return None
        burst = self._waiting.popleft()
        self._n_waiting -= len(burst.events)
        return burst

    def take_all(self) -> Sequence[Happening]:
        """Everything that waits, in the order it was offered."""
        found: list[Happening] = []
        while (burst := self.take()) is not None:
            found += burst.events
        return found

    async def wait(self) -> None:
        """Return once there may be something to take, or the listener is overrun."""
        await self._news.wait()


class EventHub:
    """Follows the swarm's state while this node is a manager, and tells its listeners.

    After a quiet moment an event goes out at once; those within `GAP` of the last ones wait and go together. Why:
    waking a listener costs more than anything else of an event, and two hundred of them, each woken for each event,
    took three quarters of a manager's throughput.
    """

    def __init__(self, node: LocalNode, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self._held: list[Happening] = []
        self._pause: asyncio.Task[None] | None = None
        self._listeners: set[Listener] = set()
        self._followed: Control | None = None
        self._follower: asyncio.Task[None] | None = None

    def listen(self) -> Listener:
        """Get everything that happens from now on. Pair with `forget`."""
        self.flush()
        listener = Listener()
        self._listeners.add(listener)
        return listener

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def since(self, moment: Nanoseconds) -> tuple[Happening, ...]:
        """What is still known of the time from `moment` on, oldest first."""
        return tuple(event for event in self._kept if event.time >= moment)

    def tell(self, event: Happening) -> None:
        self._kept.append(event)
        self._held.append(event)
        if self._pause is None or self._pause.done():
            self.flush()
            self._pause = asyncio.create_task(self._hold_back())
        elif len(self._held) >= KEPT:
            self.flush()

    def flush(self) -> None:
        """Hand out what is held back."""
        if not self._held:
            return
        burst = Burst(tuple(self._held))
        self._held.clear()
        for listener in tuple(self._listeners):
            listener.offer(burst)
            if listener.is_overrun:
                self.forget(listener)

    async def _hold_back(self) -> None:
        """Until a whole pause has passed in which nothing happened."""
        await self._clock.sleep(GAP)
        while self._held:
            self.flush()
            await self._clock.sleep(GAP)

    async def run(self) -> None:
        """Follow the state until cancelled, through joining, leaving and losing the swarm."""
        try:
            while True:
                self.look()
                await self._clock.sleep(_LOOK_AGAIN)
        finally:
            await self._stop()

    def look(self) -> None:
        """See whether this node has become a manager, or is one no longer; called when that is likely."""
        control = self._current()
        is_lost = self._follower is not None and self._follower.done()
        if control is self._followed and not is_lost:
            return
        if is_lost and self._follower is not None and (error := self._follower.exception()) is not None:
            log.warning("events are followed anew", reason=str(error))
        if self._follower is not None:
            self._follower.cancel()
        self._followed = control
        self._follower = None if control is None else asyncio.create_task(self._follow(control.watch()))

    def _current(self) -> Control | None:
        try:
            return self._node.control()
        except SkepError:
            return None

    async def _stop(self) -> None:
        running = [task for task in (self._follower, self._pause) if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _follow(self, batches: AsyncIterator[changes.Batch]) -> None:
        async for batch in batches:
            for event in happenings(batch, self._clock.now()):
                self.tell(event)
