"""Whatever a node with a sound certificate sends: its session may end, the manager does not."""

import asyncio
import contextlib

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.factories import a_cluster, a_node, a_task
from tests.sessions import SOON_S, FakeDesk, FakeDispatch, QuickClock

from skep.edge.loopback import memory_channels
from skep.manager.sessions import Sessions
from skep.model import session as protocol
from skep.model.codec import MALFORMED
from skep.model.identity import Identity
from skep.model.lifecycle import TaskState
from skep.model.node import NodeDescription, Role
from skep.model.session import (
    Applied,
    Heartbeat,
    Hello,
    Report,
    StreamCredit,
    StreamData,
    StreamEnd,
    TaskReport,
)
from skep.model.task import TaskStatus
from skep.ports.transport import ChannelClosed
from skep.store.changes import Put
from skep.store.state import State

HELLO = Hello(description=NodeDescription(hostname="host"), underlay="192.0.2.1")
numbers = st.integers(min_value=-(2**63), max_value=2**64 - 1)
reports = st.builds(
    TaskReport,
    task_id=st.sampled_from(["t1", "t2", "", "\x00"]),
    status=st.builds(TaskStatus, state=st.sampled_from(TaskState), err=st.text(max_size=20)),
)
messages = st.one_of(
    st.just(HELLO),
    st.builds(Heartbeat, applied=numbers),
    st.builds(Applied, version=numbers),
    st.builds(Report, number=numbers, tasks=st.lists(reports, max_size=3)),
    st.builds(StreamData, stream=numbers, payload=st.binary(max_size=100)),
    st.builds(StreamEnd, stream=numbers, error=st.text(max_size=10)),
    st.builds(StreamCredit, stream=numbers, n_bytes=numbers),
).map(protocol.encoder.encode)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.integers(0, len(raw)))])


anything = st.one_of(messages, mutated(), st.binary(max_size=60))


async def speak(said: list[bytes]) -> Sessions:
    """Hold a session with an agent that says hello, then all this, then goes."""
    state = State()
    nodes = [a_node(id="n1"), a_node(id="n2")]
    state.apply([Put(a_cluster()), *map(Put, nodes), Put(a_task(id="t1", node_id="n1"))], 1)
    desk = FakeDesk()
    sessions = Sessions(desk, FakeDispatch(), lambda: state, QuickClock(), epoch="e")
    ours, theirs = memory_channels()
    identity = Identity(node_id="n1", role=Role.WORKER, cluster_id="cluster")
    serving = asyncio.ensure_future(sessions.serve(identity, theirs))
    with contextlib.suppress(ChannelClosed):
        for raw in [protocol.encoder.encode(HELLO), *said]:
            await ours.send(raw)
    await ours.close()
    await asyncio.wait_for(serving, SOON_S)
    assert all(report.task_id == "t1" for _, tasks in desk.reports for report in tasks)
    return sessions


# Found once: bad UTF-8 in a key, and nesting deeper than the interpreter allows.
@example(said=[b"\x81\xa4type\xa5\x00\x00\x00\x00\x80"])
@example(said=[b"\x82\xa4type\xa9heartbeat\xa1x" + b"\x91" * 100_000 + b"\x01"])
@settings(max_examples=150, deadline=None)
@given(said=st.lists(anything, max_size=8))
def test_no_message_does_more_than_end_its_own_session(said: list[bytes]) -> None:
    assert asyncio.run(speak(said)).connected == frozenset()


@given(raw=anything)
def test_decoding_gives_a_message_or_an_error_that_is_expected(raw: bytes) -> None:
    with contextlib.suppress(*MALFORMED):
        protocol.from_agent.decode(raw)
