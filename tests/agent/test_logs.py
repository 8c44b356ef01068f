"""A task's log, asked for by a manager."""

import asyncio
from pathlib import Path

import pytest
from tests.agent.node import NodeUnderTest, a_running_node, assigned, until

from skep.model.errors import NotFound, Unavailable
from skep.model.lifecycle import TaskState as S
from skep.model.session import LogRequest, StreamData
from skep.ports.runtime import LogEntry

pytestmark = pytest.mark.anyio

LINES = [LogEntry(channel=1, timestamp=5, payload=b"out\n"), LogEntry(channel=2, timestamp=6, payload=b"err\n")]


async def read(node: NodeUnderTest, *, follow: bool = False) -> list[StreamData]:
    return [part async for part in node.agent.open_stream(LogRequest(task_id="t1", follow=follow))]


async def test_entries_keep_their_channel_and_moment(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.engine.log = LINES
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        assert [(part.channel, part.timestamp, part.payload) for part in await read(node)] == [
            (1, 5, b"out\n"),
            (2, 6, b"err\n"),
        ]


async def test_a_follower_waits_for_the_container_and_others_do_not(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.engine.log = LINES
        await until(lambda: node.agent._inventory is not None)
        node.engine.down = True
        await node.give(assigned(), is_full=True)
        await node.reach(S.PREPARING)
        assert await read(node) == []
        following = asyncio.create_task(read(node, follow=True))
        node.engine.down = False
        assert len(await asyncio.wait_for(following, 5)) == 2


async def test_a_follower_of_a_task_that_never_gets_a_container_is_let_go(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await until(lambda: node.agent._inventory is not None)
        node.engine.down = True
        await node.give(assigned(), is_full=True)
        await node.reach(S.PREPARING)
        following = asyncio.create_task(read(node, follow=True))
        await asyncio.sleep(0)
        node.engine.images.clear()
        node.engine.down = False
        await node.reach(S.REJECTED)
        assert await asyncio.wait_for(following, 5) == []


async def test_a_task_elsewhere_or_an_engine_away_is_said_so(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        with pytest.raises(NotFound, match="task t1 is not on this node"):
            await read(node)
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.down = True
        with pytest.raises(Unavailable, match="the log of task t1 cannot be read"):
            await read(node)
