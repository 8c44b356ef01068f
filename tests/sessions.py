"""What tests of sessions are made with: a manager's desk and dispatcher, an agent's handler, quick clocks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from skep.agent.wants import Wants
from skep.edge.clock import SystemClock, SystemDice
from skep.model.assignment import Delta
from skep.model.errors import SkepError
from skep.model.node import NodeDescription, Role, TLSInfo
from skep.model.session import (
    Answer,
    CertificateHeld,
    Hello,
    ManagerAddress,
    Question,
    StreamData,
    StreamRequest,
    TaskReport,
)
from skep.store.changes import Batch
from skep.store.state import View

SOON_S = 5.0
PERIOD = 50_000_000


async def until(condition: Callable[[], object], within_s: float = SOON_S) -> None:
    """Wait for a condition; fails if it does not come true in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 — the conditions are other code's, which sets no event
            await asyncio.sleep(0.005)


@dataclass
class FakeDesk:
    """Stores what it is told, unless `refusal` is set."""

    registered: list[tuple[str, Hello]] = field(default_factory=list)
    beats: list[str] = field(default_factory=list)
    reports: list[tuple[str, Sequence[TaskReport]]] = field(default_factory=list)
    held: list[tuple[str, CertificateHeld]] = field(default_factory=list)
    refusal: SkepError | None = None
    heartbeat_period: int = PERIOD

    async def register(self, node_id: str, hello: Hello) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.registered.append((node_id, hello))

    def beat(self, node_id: str) -> None:
        self.beats.append(node_id)

    async def hold(self, node_id: str, held: CertificateHeld) -> None:
        self.held.append((node_id, held))

    async def report(self, node_id: str, reports: Sequence[TaskReport]) -> None:
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        self.reports.append((node_id, reports))


class SettledPapers:
    """A certificate that stays; notes what the swarm wants."""

    held = CertificateHeld(serial="1", trust=TLSInfo())

    def __init__(self) -> None:
        self.wanted: list[TLSInfo] = []

    async def wait_other(self, told: CertificateHeld) -> CertificateHeld:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # Never.

    def follow(self, wanted: TLSInfo, role: Role | None) -> None:
        self.wanted.append(wanted)


@dataclass
class FakeDispatch:
    """Gives every node an empty set at version 1; the test pushes what else there is through `pending`."""

    attached: dict[str, tuple[str, int]] = field(default_factory=dict)
    detached: list[str] = field(default_factory=list)
    acknowledged: list[tuple[str, int]] = field(default_factory=list)
    pending: dict[str, Delta] = field(default_factory=dict)
    wake_at: int | None = None
    ticks: int = 0

    def attach(self, node_id: str, epoch: str, version: int) -> Delta:
        self.attached[node_id] = (epoch, version)
        return Delta(base=0, version=1)

    def detach(self, node_id: str) -> None:
        self.detached.append(node_id)

    def _take(self) -> Mapping[str, Delta]:
        taken, self.pending = self.pending, {}
        return taken

    def observe(self, batch: Batch, view: View, now: int) -> Mapping[str, Delta]:
        return self._take()

    def applied(self, node_id: str, version: int, now: int) -> Mapping[str, Delta]:
        self.acknowledged.append((node_id, version))
        return {}

    def tick(self, now: int) -> tuple[Mapping[str, Delta], int | None]:
        self.ticks += 1
        due, self.wake_at = self.wake_at, None
        return (self._take(), None) if due is None or due <= now else ({}, self._again(due))

    def _again(self, due: int) -> int:
        self.wake_at = due
        return due


@dataclass
class FakeHandler:
    """A node that takes every assignment into force at once, and reports what the test puts up."""

    epoch: str = ""
    version: int = 0
    applied_version: int = 0
    deltas: list[tuple[str, Delta]] = field(default_factory=list)
    stored: list[TaskReport] = field(default_factory=list)
    managers: Sequence[ManagerAddress] = ()
    removal: str = ""
    hellos: int = 0
    source: Callable[[StreamRequest], AsyncIterator[StreamData]] | None = None
    is_strict: bool = True
    unstored: dict[str, TaskReport] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    outdated: asyncio.Event = field(default_factory=asyncio.Event)
    wants: Wants = field(default_factory=Wants)
    applied: asyncio.Condition = field(default_factory=asyncio.Condition)

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    async def hello(self) -> Hello:
        self.hellos += 1
        self.wants.renew()
        if self.unstored:
            self.news.set()
        description = NodeDescription(hostname="host")
        return Hello(description=description, underlay="192.0.2.1", epoch=self.epoch, assignment_version=self.version)

    async def wait_outdated(self) -> None:
        await self.outdated.wait()

    async def assign(self, epoch: str, delta: Delta) -> None:
        if delta.base and (delta.base, epoch) != (self.version, self.epoch) and self.is_strict:
            raise ValueError("does not follow")
        self.deltas.append((epoch, delta))
        self.epoch, self.version = epoch, delta.version
        async with self.applied:
            self.applied_version = delta.version
            self.applied.notify_all()

    async def wait_applied(self, after: int) -> int:
        async with self.applied:
            await self.applied.wait_for(lambda: self.applied_version > after)
            return self.applied_version

    def note(self, report: TaskReport) -> None:
        self.unstored[report.task_id] = report
        self.news.set()

    async def next_reports(self) -> Sequence[TaskReport]:
        await self.news.wait()
        self.news.clear()
        return list(self.unstored.values())

    async def reported(self, reports: Sequence[TaskReport]) -> None:
        self.stored.extend(reports)
        for report in reports:
            if self.unstored.get(report.task_id) == report:
                del self.unstored[report.task_id]

    async def next_wanted(self) -> Sequence[Question]:
        return await self.wants.next()

    def answered(self, answer: Answer) -> None:
        self.wants.take(answer)

    async def managers_changed(self, managers: Sequence[ManagerAddress]) -> None:
        self.managers = managers

    def open_stream(self, request: StreamRequest) -> AsyncIterator[StreamData]:
        assert self.source is not None
        return self.source(request)

    async def removed(self, reason: str) -> None:
        self.removal = reason


@dataclass
class QuickClock:
    """The machine's clock, with long sleeps cut short so that back-off and limits do not slow tests."""

    longest_s: float = 0.05
    clock: SystemClock = field(default_factory=SystemClock)
    ahead: int = 0

    def now(self) -> int:
        return self.clock.now() + self.ahead

    async def sleep(self, length: int) -> None:
        await asyncio.sleep(min(length / 1e9, self.longest_s))


__all__ = ["FakeDesk", "FakeDispatch", "FakeHandler", "QuickClock", "SystemClock", "SystemDice", "until"]
