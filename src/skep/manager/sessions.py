"""The sessions agents hold with this manager: who is connected, what each is sent, what each reports.

Edge: asyncio; channels come in open. A node is who its certificate says, holds one session (a newer one replaces the
older), and can report its own tasks only. Everything is resumable by version: a session that breaks, is too slow or
misbehaves is simply ended, and the agent comes back for what it has not got.
Long, because what a node is sent and what its reports change go through the same table of who is connected.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, assert_never

import structlog

from skep.core import trust
from skep.core.roles import certified_role
from skep.manager.race import first_of
from skep.manager.session import Session, SessionOver
from skep.model import session as protocol
from skep.model.assignment import Delta
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority, Cluster
from skep.model.credit import Overdrawn
from skep.model.errors import NotFound, SkepError, Unavailable
from skep.model.identity import Identity
from skep.model.node import Node, Role
from skep.model.session import (
    Applied,
    AttachmentAnswered,
    AttachmentWanted,
    CertificateHeld,
    FileSent,
    FileWanted,
    Heartbeat,
    Hello,
    LogRequest,
    ManagerAddress,
    Managers,
    Refused,
    Report,
    ReportStored,
    StreamCredit,
    StreamData,
    StreamEnd,
    TaskReport,
    TrustWanted,
    Welcome,
)
from skep.ports.bytestream import ByteStream
from skep.ports.clock import Clock
from skep.ports.transport import Channel, ChannelClosed
from skep.store.changes import Batch
from skep.store.state import View

log = structlog.get_logger(__name__)

SECOND: Final = 1_000_000_000
HELLO_S: Final = 5.0
SILENCE: Final = 15 * SECOND
SILENT_BEATS: Final = 10
SWEEP: Final = 2 * SECOND
RETRY: Final = SECOND // 4
REGISTER_S: Final = 4.0
FAREWELL: Final = SECOND
REMOVED: Final = "this node was removed from the swarm"
REPLACED: Final = "a newer session of this node took its place"


Attach = Callable[[str, AttachmentWanted], Coroutine[Any, Any, AttachmentAnswered]]


class Desk(Protocol):
    """What decides: where sessions bring what they hear. Async ones return once it is committed."""

    @property
    def heartbeat_period(self) -> Nanoseconds: ...

    async def register(self, node_id: str, hello: Hello) -> None:
        """The node is here. Raises `skep.model.errors` where that cannot be stored at present."""
        ...

    def beat(self, node_id: str) -> None: ...

    async def report(self, node_id: str, reports: Sequence[TaskReport]) -> None:
        """Raises `skep.model.errors` where they cannot be stored at present."""
        ...

    async def hold(self, node_id: str, held: CertificateHeld) -> None:
        """Raises `skep.model.errors` where it cannot be stored at present."""
        ...


class Dispatch(Protocol):
    """Who is to be told what; see `core.dispatch.dispatcher`."""

    def attach(self, node_id: str, epoch: str, version: int) -> Delta: ...
    def detach(self, node_id: str) -> None: ...
    def observe(self, batch: Batch, view: View, now: Nanoseconds) -> Mapping[str, Delta]: ...
    def applied(self, node_id: str, version: int, now: Nanoseconds) -> Mapping[str, Delta]: ...
    def tick(self, now: Nanoseconds) -> tuple[Mapping[str, Delta], Nanoseconds | None]: ...


def no_files(_node_id: str, wanted: FileWanted) -> FileSent:
    """The answer of a manager that has no secrets and configs to give."""
    return FileSent(wanted=wanted, error=f"{wanted.kind} {wanted.file_id} not found")


async def no_attachments(_node_id: str, wanted: AttachmentWanted) -> AttachmentAnswered:
    """The answer of a manager that gives no places on networks."""
    return AttachmentAnswered(wanted=wanted, error=f"network {wanted.network} not found", refusal="NotFound")


class Sessions:
    """All sessions with this manager."""

    def __init__(
        self,
        desk: Desk,
        dispatch: Dispatch,
        view: Callable[[], View],
        clock: Clock,
        *,
        epoch: str,
        files: Callable[[str, FileWanted], FileSent] = no_files,
        attachments: Attach | None = None,
    ) -> None:
        """Prepare.

        Args:
            view: The state as of the last commit this manager saw.
            epoch: The dispatcher's: it names its numbering of versions.
            files: Answers a node, by id, that asks for a secret or config; see `Shelf`.
            attachments: Answers one that asks for a plain container's place on a network; see `Attachments`.
        """
        self._attachments = attachments or no_attachments
        self._files = files
        self._epoch = epoch
        self._desk = desk
        self._dispatch = dispatch
        self._view = view
        self._clock = clock
        self._by_node: dict[str, Session] = {}
        self._due = asyncio.Event()
        self._over = ""

    # --- for the rest of the manager -------------------------------------------------

    @property
    def connected(self) -> frozenset[str]:
        """Ids of the nodes that hold a session here."""
        return frozenset(self._by_node)

    def open_stream(self, node_id: str, request: LogRequest) -> AsyncIterator[StreamData]:
        """Open a stream to a node's agent.

        Raises:
            Unavailable: The node holds no session here; while iterating: the agent or the session failed.
        """
        return self._session_of(node_id).streams.open(request)

    def open_engine(self, node_id: str) -> ByteStream:
        """Open a connection to a node's container engine; whether there is one shows when it is first read.

        Raises:
            Unavailable: The node holds no session here.
        """
        return self._session_of(node_id).streams.open_engine()

    def _session_of(self, node_id: str) -> Session:
        session = self._by_node.get(node_id)
        if session is None:
            raise Unavailable(f"node {node_id} is not available")
        return session

    def observe(self, batch: Batch) -> None:
        """Take in a committed batch: give it to `Replica.observers`."""
        view = self._view()
        self._tell(self._dispatch.observe(batch, view, self._clock.now()))
        self._due.set()
        if any(event.kind == "cluster" for event in batch.events):
            self._dismiss_removed(view.cluster)
        if any(_authority(event.old) != _authority(event.new) for event in batch.events):
            for session in self._by_node.values():
                self._tell_trust(session, view.cluster)
        for event in batch.events:
            if event.id in self._by_node and _role(event.old) != _role(event.new):
                self._tell_trust(self._by_node[event.id], view.cluster)
        if any(_manager_address(event.old) != _manager_address(event.new) for event in batch.events):
            message = Managers(managers=manager_addresses(view))
            for session in self._by_node.values():
                session.push(message)

    async def run(self) -> None:
        """Let limits pass and end silent sessions, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            group.create_task(self._sweep())

    def close(self, reason: str = "the manager stops; turn to another one") -> None:
        """This manager holds no more sessions: its agents go elsewhere."""
        self._over = reason
        for session in self._by_node.values():
            session.end(reason, Refused(reason=reason))

    def _tell(self, deltas: Mapping[str, Delta]) -> None:
        for node_id, delta in deltas.items():
            session = self._by_node.get(node_id)
            if session is not None:
                session.tell(delta)

    def _tell_trust(self, session: Session, cluster: Cluster | None) -> None:
        if cluster is not None and cluster.authority is not None:
            node = self._view().nodes.get(session.node_id)
            role = certified_role(node) if node is not None else None
            session.push(TrustWanted(trust=trust.wanted(cluster.authority), role=role))

    def _dismiss_removed(self, cluster: Cluster | None) -> None:
        removed = cluster.removed_nodes if cluster else {}
        for node_id in self._by_node.keys() & removed.keys():
            self._by_node[node_id].end(REMOVED, Refused(reason=REMOVED, removed=True))

    async def _tick(self) -> None:
        """Call the dispatcher when one of its limits passes, and look for a nearer limit whenever it was used."""
        while True:
            self._due.clear()
            deltas, wake_at = self._dispatch.tick(self._clock.now())
            self._tell(deltas)
            if wake_at is None:
                await self._due.wait()
            else:
                await self._wait_due(max(wake_at - self._clock.now(), 0))

    async def _wait_due(self, at_most: Nanoseconds) -> None:
        limit = asyncio.ensure_future(self._clock.sleep(at_most))
        due = asyncio.ensure_future(self._due.wait())
        try:
            await asyncio.wait({limit, due}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
            due.cancel()

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP)
            limit = max(SILENCE, SILENT_BEATS * self._desk.heartbeat_period)
            oldest = self._clock.now() - limit
            for session in self._by_node.values():
                if session.heard_at < oldest:
                    session.end("nothing was heard from the node for too long")

    # --- one session -------------------------------------------------------------------

    async def serve(self, identity: Identity, channel: Channel, *, is_carried: bool = False) -> None:
        """Hold a node's session until it ends; never raises for what an agent does.

        Args:
            is_carried: Whether it comes by way of another manager.
        """
        node_id = identity.node_id
        session = Session(node_id, channel, self._clock.now())
        try:
            await self._open(session, is_carried=is_carried)
            await self._hold(session)
        except (SessionOver, ChannelClosed, TimeoutError) as over:
            log.info("a session ended", node=node_id, reason=str(over) or "the agent said nothing")
        except SkepError as refusal:
            log.info("a session was refused", node=node_id, reason=str(refusal))
            await send_refusal(channel, Refused(reason=str(refusal), removed=isinstance(refusal, _Removed)))
        finally:
            self._leave(session)
            await channel.close()

    async def _open(self, session: Session, *, is_carried: bool) -> None:
        """From hello to the first assignments.

        Raises:
            SkepError: The node is refused, with why.
        """
        self._check_not_removed(session.node_id)
        async with asyncio.timeout(HELLO_S):
            hello = await session.receive()
        if not isinstance(hello, Hello):
            raise SessionOver("the agent did not begin with hello")
        self._check(session.node_id, hello)
        try:
            async with asyncio.timeout(REGISTER_S):
                await self._desk.register(session.node_id, hello)
        except TimeoutError as error:
            raise Unavailable("the swarm cannot store changes at present; try again") from error
        self._check(session.node_id, hello)
        older = self._by_node.get(session.node_id)
        if older is not None:
            older.end(REPLACED, Refused(reason=REPLACED))
        self._by_node[session.node_id] = session
        view = self._view()
        session.push(
            Welcome(
                epoch=self._epoch,
                heartbeat_period=self._desk.heartbeat_period,
                managers=manager_addresses(view),
                is_carried=is_carried,
            )
        )
        self._tell_trust(session, view.cluster)
        session.tell(self._dispatch.attach(session.node_id, hello.epoch, hello.assignment_version))
        self._due.set()
        log.info("a session began", node=session.node_id, version=session.sent)

    def _check_not_removed(self, node_id: str) -> None:
        cluster = self._view().cluster
        if cluster is not None and node_id in cluster.removed_nodes:
            raise _Removed(REMOVED)

    def _check(self, node_id: str, hello: Hello) -> None:
        self._check_not_removed(node_id)
        if self._over:
            raise Unavailable(self._over)
        if node_id not in self._view().nodes:
            raise Unavailable("this manager does not know the node yet; try again or turn to another one")
        if hello.protocol != protocol.PROTOCOL:
            raise Unavailable(
                f"the agent speaks session protocol {hello.protocol}, this manager {protocol.PROTOCOL}; "
                "run the same version of Skep on both"
            )

    async def _hold(self, session: Session) -> None:
        """Run the session's parts until the first of them ends; raises what that one raised."""
        await first_of(session.write(), self._read(session), self._store_reports(session), self._cut(session))

    async def _cut(self, session: Session) -> None:
        """End a session whose agent does not even take the farewell."""
        reason = await session.wait_ending()
        await self._clock.sleep(FAREWELL)
        raise SessionOver(reason)

    def _leave(self, session: Session) -> None:
        session.streams.fail(f"the session of node {session.node_id} ended")
        session.drop_answers()
        if self._by_node.get(session.node_id) is session:
            del self._by_node[session.node_id]
            self._dispatch.detach(session.node_id)
            self._due.set()

    async def _read(self, session: Session) -> None:
        while True:
            message = await session.receive()
            session.heard_at = self._clock.now()
            self._desk.beat(session.node_id)
            try:
                self._take(session, message)
            except (Overdrawn, asyncio.QueueFull) as error:
                raise SessionOver(f"the agent sent more than it may: {error}") from error

    def _take(self, session: Session, message: protocol.FromAgent) -> None:
        match message:
            case Heartbeat(applied=version) | Applied(version=version):
                self._note_applied(session, version)
            case FileWanted():
                session.push(self._files(session.node_id, message))
            case AttachmentWanted():
                session.answer(self._attachments(session.node_id, message))
            case Report() | CertificateHeld():
                session.reports.put_nowait(message)
            case StreamData() | StreamEnd() | StreamCredit():
                session.streams.take(message)
            case Hello():
                raise SessionOver("the agent said hello twice")
            case _:
                assert_never(message)

    def _note_applied(self, session: Session, version: int) -> None:
        if session.applied < version <= session.sent:
            session.applied = version
            self._tell(self._dispatch.applied(session.node_id, version, self._clock.now()))
            self._due.set()

    async def _store_reports(self, session: Session) -> None:
        """Have reports committed, one after the other, and say so; what cannot be stored now is tried until it can."""
        while True:
            report = await session.reports.get()
            while True:
                try:
                    await self._store_report(session.node_id, report)
                    break
                except SkepError as error:
                    log.warning("a report cannot be stored yet", node=session.node_id, reason=str(error))
                    await self._clock.sleep(RETRY)
            if isinstance(report, Report):
                session.push(ReportStored(number=report.number))

    async def _store_report(self, node_id: str, report: Report | CertificateHeld) -> None:
        if isinstance(report, CertificateHeld):
            await self._desk.hold(node_id, report)
        elif own := self._own(node_id, report.tasks):
            await self._desk.report(node_id, own)

    def _own(self, node_id: str, reports: Iterable[TaskReport]) -> list[TaskReport]:
        """Leave out tasks that are gone or another node's."""
        tasks = self._view().tasks
        own: list[TaskReport] = []
        for report in reports:
            task = tasks.get(report.task_id)
            if task is not None and task.node_id == node_id:
                own.append(report)
            elif task is not None:
                log.warning("a node reported another node's task", node=node_id, task=report.task_id)
        return own


class _Removed(NotFound):
    """The node is no longer of the swarm."""


async def send_refusal(channel: Channel, refusal: Refused) -> None:
    """Say no to a node, if it listens."""
    try:
        async with asyncio.timeout(1):
            await channel.send(protocol.encoder.encode(refusal))
    except (ChannelClosed, TimeoutError):
        pass  # It will hear it the next time.


def _manager_address(value: object) -> str:
    return value.manager_status.addr if isinstance(value, Node) and value.manager_status else ""


def _role(value: object) -> Role | None:
    return certified_role(value) if isinstance(value, Node) else None


def _authority(value: object) -> Authority | None:
    return value.authority if isinstance(value, Cluster) else None


def manager_addresses(view: View) -> list[ManagerAddress]:
    """Where the swarm's managers listen, by node id."""
    found = [
        ManagerAddress(node_id=node.id, addr=node.manager_status.addr)
        for node in view.nodes.values()
        if node.manager_status is not None and node.manager_status.addr
    ]
    return sorted(found, key=lambda manager: manager.node_id)
