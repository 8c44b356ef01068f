"""Logs of tasks on several nodes as one stream."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from tests.factories import a_task
from tests.sessions import SOON_S, QuickClock, until

from skep.edge.memory import MemoryStore
from skep.manager import logs
from skep.manager.logs import TaskLogs, newcomers
from skep.manager.replica import Replica
from skep.model.errors import Disconnected, Unavailable
from skep.model.lifecycle import TaskState
from skep.model.session import LogRequest, StreamData, StreamRequest
from skep.model.task import Task
from skep.ports.runtime import LogOptions
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
ONE, OTHER = a_task(id="t1", node_id="n1"), a_task(id="t2", node_id="n2")


@dataclass
class Nodes:
    """Nodes by id, each with what it sends; a node that is not there holds no session."""

    parts: dict[str, list[StreamData | Exception | None]] = field(default_factory=dict)
    asked: list[tuple[str, StreamRequest]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def open_stream(self, node_id: str, request: StreamRequest) -> AsyncIterator[StreamData]:
        self.asked.append((node_id, request))
        if node_id not in self.parts:
            raise Unavailable(f"node {node_id} is not available")
        return self._stream(node_id)

    async def _stream(self, node_id: str) -> AsyncIterator[StreamData]:
        try:
            for part in self.parts[node_id]:
                if part is None:
                    await asyncio.Event().wait()
                elif isinstance(part, Exception):
                    raise part
                else:
                    yield part
        finally:
            self.closed.append(node_id)


def line(text: str, timestamp: int = 0, channel: int = 1) -> StreamData:
    return StreamData(stream=1, channel=channel, timestamp=timestamp, payload=text.encode())


async def collected(nodes: Nodes, options: LogOptions | None = None) -> list[tuple[str, int, bytes]]:
    source = TaskLogs(nodes.open_stream, QuickClock())
    found = source.logs([ONE, OTHER, a_task(id="t3", node_id="")], options or LogOptions())
    return [(entry.task.id, entry.entry.channel, entry.entry.payload) async for entry in found]


async def test_entries_of_all_tasks_come_each_in_its_order() -> None:
    nodes = Nodes({"n1": [line("a"), line("b", channel=2)], "n2": [line("x")]})
    found = await collected(nodes)
    assert [entry for entry in found if entry[0] == "t1"] == [("t1", 1, b"a"), ("t1", 2, b"b")]
    assert [entry for entry in found if entry[0] == "t2"] == [("t2", 1, b"x")]
    assert len(found) == 3


async def test_entries_come_by_time_however_the_nodes_answer() -> None:
    nodes = Nodes({"n1": [line("1", 1), line("4", 4)], "n2": [line("2", 2), line("3", 3), line("5", 5)]})
    assert [payload for _, _, payload in await collected(nodes)] == [b"1", b"2", b"3", b"4", b"5"]


async def coming(*tasks: Task) -> AsyncIterator[Task]:
    for task in tasks:
        yield task
    await asyncio.Event().wait()


async def test_a_follower_hears_tasks_that_come_up_once_and_from_their_beginning() -> None:
    nodes = Nodes({"n1": [line("old", 1), None], "n2": [line("new", 2), None]})
    running = a_task(id="t1", node_id="n1", state=TaskState.RUNNING)
    later = a_task(id="t2", node_id="n2", state=TaskState.RUNNING)
    source = TaskLogs(nodes.open_stream, QuickClock())
    following = source.logs([running], LogOptions(follow=True, tail=1), coming(running, later, later))
    assert [(await anext(following)).entry.payload for _ in range(2)] == [b"old", b"new"]
    await following.aclose()  # type: ignore[attr-defined]  # It is a generator.
    asked = [(node, request.task_id, request.tail) for node, request in nodes.asked if isinstance(request, LogRequest)]
    assert asked == [("n1", "t1", 1), ("n2", "t2", -1)]
    await until(lambda: sorted(nodes.closed) == ["n1", "n2"])


async def test_a_task_its_node_has_not_taken_is_left_to_come() -> None:
    nodes = Nodes({"n1": [line("x", 1)]})
    assigned = a_task(id="t1", node_id="n1", state=TaskState.ASSIGNED)
    taken = a_task(id="t1", node_id="n1", state=TaskState.PREPARING)
    source = TaskLogs(nodes.open_stream, QuickClock())
    following = source.logs([assigned], LogOptions(follow=True), coming(taken))
    assert (await anext(following)).task is taken
    await following.aclose()  # type: ignore[attr-defined]  # It is a generator.


async def test_newcomers_are_those_that_nodes_take_while_one_listens() -> None:
    store = MemoryStore()
    replica = Replica(store, QuickClock())
    await replica.open()
    try:
        await replica.commit([Put(a_task(id="t1", node_id="n1", state=TaskState.RUNNING))])
        await replica.commit([Put(a_task(id="t2", node_id="", state=TaskState.PENDING))])
        found = newcomers(replica, lambda task: task.id != "t3")
        assert (await anext(found)).id == "t1"
        waiting = asyncio.ensure_future(anext(found))
        await asyncio.sleep(0)
        await replica.commit([Put(a_task(id="t3", node_id="n1", state=TaskState.RUNNING))])
        stored = replica.view.tasks.get("t2")
        assert stored is not None
        accepted = a_task(id="t2", node_id="n2", state=TaskState.ACCEPTED, version=stored.version)
        await replica.commit([Put(accepted)])
        assert (await asyncio.wait_for(waiting, SOON_S)).id == "t2"
    finally:
        await replica.close()


async def test_the_options_reach_the_nodes() -> None:
    nodes = Nodes({"n1": [], "n2": []})
    await collected(nodes, LogOptions(follow=True, stdout=False, since=5, tail=3))
    assert nodes.asked[0] == ("n1", LogRequest(task_id="t1", follow=True, stdout=False, since=5, tail=3))


async def test_a_node_without_a_session_is_named_and_the_others_answer() -> None:
    found = await collected(Nodes({"n2": [line("x")]}))
    assert ("t2", 1, b"x") in found
    (warning,) = [payload for task, channel, payload in found if (task, channel) == ("t1", 2)]
    assert warning == (logs.INCOMPLETE + "node n1 is not available\n").encode()


async def test_a_stream_that_breaks_is_named_after_what_came() -> None:
    found = await collected(Nodes({"n1": [line("a"), Unavailable("the session of node n1 ended")], "n2": []}))
    assert [entry[1:] for entry in found] == [
        (1, b"a"),
        (2, (logs.INCOMPLETE + "the session of node n1 ended\n").encode()),
    ]


async def test_a_node_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SILENCE_S", 0.05)
    found = await collected(Nodes({"n1": [None], "n2": [line("x")]}))
    assert ("t2", 1, b"x") in found
    assert ("t1", 2, (logs.INCOMPLETE + "node n1 does not answer\n").encode()) in found


async def test_a_follower_is_not_given_up_and_leaving_closes_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SILENCE_S", 0.01)
    nodes = Nodes({"n1": [line("a"), None], "n2": [None]})
    source = TaskLogs(nodes.open_stream, QuickClock())
    following = source.logs([ONE, OTHER], LogOptions(follow=True))
    assert (await anext(following)).entry.payload == b"a"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(following), 0.1)
    await following.aclose()  # type: ignore[attr-defined]  # It is a generator.
    await until(lambda: sorted(nodes.closed) == ["n1", "n2"])


class Returning(Nodes):
    """A node whose session breaks, which is away for a while and then goes on where it was asked to."""

    def open_stream(self, node_id: str, request: StreamRequest) -> AsyncIterator[StreamData]:
        assert isinstance(request, LogRequest)
        times = len(self.asked)
        self.parts = {}
        if times == 0:
            self.parts[node_id] = [line("1", 11), line("2", 12), Disconnected("the session ended")]
        elif times > 2:
            self.parts[node_id] = [line("3", request.since), None]
        return super().open_stream(node_id, request)


async def test_logs_that_are_followed_go_on_when_the_node_is_back() -> None:
    nodes = Returning()
    source = TaskLogs(nodes.open_stream, QuickClock())
    following = source.logs([ONE], LogOptions(follow=True, tail=2))
    got = [(await asyncio.wait_for(anext(following), SOON_S)).entry for _ in range(3)]
    assert [(entry.payload, entry.timestamp) for entry in got] == [(b"1", 11), (b"2", 12), (b"3", 13)]
    await following.aclose()  # type: ignore[attr-defined]  # It is a generator.
    asked = [(request.since, request.tail) for _, request in nodes.asked if isinstance(request, LogRequest)]
    assert asked == [(0, 2), (13, -1), (13, -1), (13, -1)]


@pytest.mark.parametrize("is_followed", [True, False])
async def test_a_node_that_does_not_come_back_is_named(is_followed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BACK_AFTER", 200_000_000)
    nodes = Nodes({"n1": [line("a", 1), Disconnected("the session ended")], "n2": []})
    source = TaskLogs(nodes.open_stream, QuickClock())
    found = source.logs([ONE], LogOptions(follow=is_followed))
    assert (await asyncio.wait_for(anext(found), SOON_S)).entry.payload == b"a"
    del nodes.parts["n1"]
    warning = (await asyncio.wait_for(anext(found), SOON_S)).entry
    assert warning.channel == 2
    assert (b"is not available" if is_followed else b"the session ended") in warning.payload
    assert await anext(found, None) is None


async def test_no_tasks_no_entries() -> None:
    source = TaskLogs(Nodes().open_stream, QuickClock())
    assert [entry async for entry in source.logs([], LogOptions())] == []
