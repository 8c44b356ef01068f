"""An event loop without a world: time jumps to the next timer as soon as nothing is left to do.

Edge: asyncio's machinery, no selector, no thread, no real clock. Everything runs in the order in which it became due,
so one seed gives one history. Tasks hash by a serial number, so that sets of them are in the same order in every run.
What belongs to one simulated daemon carries its `Process` in its context: it is killed, or frozen, as a whole.
"""

import asyncio
import contextvars
import heapq
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from skep.model.base import Nanoseconds

T = TypeVar("T")
SECOND = 1_000_000_000


class Stuck(RuntimeError):
    """Nothing is left that could ever happen, and somebody still waits."""


class Process:
    """A daemon, an engine or a machine: tasks that live and die together.

    Attributes:
        is_alive: False from its death on; what it still does while unwinding must have no effect.
        held: What it would have done since it was frozen.
    """

    def __init__(self, loop: "SimLoop", name: str) -> None:
        self.name = name
        self.is_alive = True
        self.held: list[asyncio.Handle] = []
        self.thawed_at: Nanoseconds = 0
        self._loop = loop
        self._tasks: list[asyncio.Task[Any]] = []
        self._limit = 64
        self._context = contextvars.Context()
        self._context.run(_process.set, self)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
        """Run a coroutine as part of this process."""
        return self.enter(lambda: self._loop.create_task(work, name=name))

    def enter(self, call: Callable[[], T]) -> T:
        """Call something so that the tasks it makes belong to this process."""
        return self._context.copy().run(call)

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Count a task among this process's; told by the loop."""
        self._tasks.append(task)
        if len(self._tasks) > self._limit:
            self._tasks = [each for each in self._tasks if not each.done()]
            self._limit = 2 * len(self._tasks) + 64

    def kill(self) -> None:
        """End it where it stands, as SIGKILL does."""
        self.thaw()
        self.is_alive = False
        self.end_tasks()

    def end_tasks(self) -> int:
        """Cancel what is left; returns how many there were."""
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        return len(left)

    def freeze(self) -> None:
        """Stop it, as SIGSTOP does: the world goes on without it."""
        self._loop.frozen.add(self)

    def thaw(self) -> None:
        """Let it go on with everything that came due meanwhile."""
        if self in self._loop.frozen:
            self._loop.frozen.discard(self)
            self.thawed_at = self._loop.now
            self._loop.take_back(self.held)
            self.held = []

    def check(self) -> None:
        """Raises: CancelledError: It is dead; to be asked before every effect on the world."""
        if not self.is_alive:
            raise asyncio.CancelledError


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """Whose code is running."""
    return _process.get()


class _SimTask(asyncio.Task[T]):
    def __init__(self, coro: Any, *, loop: "SimLoop", serial: int, **options: Any) -> None:
        self._serial = serial
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._serial


class _Handle(asyncio.Handle):
    """A handle that knows nothing of where it was made: there are hundreds in every virtual second."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: "SimLoop", context: contextvars.Context
    ) -> None:
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """As `_Handle`, for a moment."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: "SimLoop",
        context: contextvars.Context,
    ) -> None:
        self._context = context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = True


class SimLoop(asyncio.BaseEventLoop):
    """Attributes: now: virtual nanoseconds since the start; frozen: processes that do not run; faults: what escaped."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Nanoseconds = 0
        self.frozen: set[Process] = set()
        self.faults: list[str] = []
        self._timers: list[tuple[Nanoseconds, int, asyncio.TimerHandle]] = []
        self._serials = itertools.count(1)
        self._ready: Any
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._note_fault)

    def time(self) -> float:
        return self.now / SECOND

    def call_at_ns(self, moment: Nanoseconds, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """As `call_at`, in whole nanoseconds; moments in the past are now."""
        handle = _Timer(moment / SECOND, callback, args, self, contextvars.copy_context())
        heapq.heappush(self._timers, (moment if moment > self.now else self.now, next(self._serials), handle))
        return handle

    def call_at(  # type: ignore[override]  # typed without variadic generics
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = _Timer(when, callback, args, self, context or contextvars.copy_context())
        heapq.heappush(self._timers, (max(round(when * SECOND), self.now), next(self._serials), handle))
        return handle

    def call_later(  # type: ignore[override]  # typed without variadic generics
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]  # typed without variadic generics
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    async def sleep(self, length: Nanoseconds) -> None:
        """Let virtual time pass."""
        if length <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.Future(loop=self)
        handle = self.call_at_ns(self.now + length, _wake, waiter)
        try:
            await waiter
        except BaseException:
            handle.cancel()
            raise

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]  # no *args types
        """There are no threads here: the call happens now, its answer comes with the next turn."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # Whatever it raised belongs to who awaits it.
            self.call_soon(_settle, future, None, error)
        else:
            self.call_soon(_settle, future, result, None)
        return future

    def run(self, work: Awaitable[T]) -> T:
        """Run until `work` is done, then end everything that is left."""
        try:
            return self.run_until_complete(work)
        finally:
            for _ in range(100):
                left = [task for task in asyncio.all_tasks(self) if not task.done()]
                if not left:
                    break
                for task in sorted(left, key=hash):
                    task.cancel()
                self.run_until_complete(asyncio.sleep(0))
            self.run_until_complete(self.shutdown_asyncgens())
            self.close()

    def take_back(self, handles: list[asyncio.Handle]) -> None:
        """Run what a frozen process would have done."""
        self._ready.extend(handles)

    # --- asyncio's inside ------------------------------------------------------------

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._advance()
        frozen = self.frozen
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if frozen and (process := handle._context.get(_process)) in frozen:
                process.held.append(handle)
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "an event's handler failed", "exception": error})

    def _advance(self) -> None:
        """Jump to the next moment at which something is due."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stuck("nothing is left to happen")
        self.now = moment = timers[0][0]
        while timers and timers[0][0] == moment:
            self._ready.append(heapq.heappop(timers)[2])

    def _make_task(self, loop: Any, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        # Python 3.11 passes the context alone, 3.14 a name and more.
        task: asyncio.Task[Any] = _SimTask(coro, loop=self, serial=next(self._serials), **options)
        process = _process.get()
        if process is not None:
            process.adopt(task)
        return task

    def _note_fault(self, loop: Any, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r} {context.get('task') or ''}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
