"""When tasks that may run at most once are stopped for want of a manager."""

from dataclasses import dataclass, field

from tests.factories import a_task

from skep.agent.fence import FIRST_LEASE, TICK, Fence
from skep.core.orchestrate.moves import PARTITION_LEASE
from skep.lib.durations import SECOND
from skep.model.task import Task

START = 1000 * SECOND


@dataclass
class Hand:
    """A clock that is set by hand."""

    moment: int = START

    def now(self) -> int:
        return self.moment

    async def sleep(self, length: int) -> None: ...


@dataclass
class Runner:
    task: Task
    is_fenced: bool = False

    def fence(self) -> None:
        self.is_fenced = True


@dataclass
class Node:
    clock: Hand = field(default_factory=Hand)
    guarded: Runner = field(
        default_factory=lambda: Runner(a_task("g", service_labels={"skep.partition": "at-most-one"}))
    )
    free: Runner = field(default_factory=lambda: Runner(a_task("f")))

    def __post_init__(self) -> None:
        self.fence = Fence(self.clock, lambda: (self.guarded, self.free))

    def live(self, length: int) -> None:
        """Let time pass, tick by tick."""
        for _ in range(length // TICK):
            self.clock.moment += TICK
            self.fence.tick()

    @property
    def is_stopped(self) -> bool:
        assert not self.free.is_fenced, "others go on whatever happens"
        return self.guarded.is_fenced


def test_nothing_is_stopped_while_a_manager_is_there() -> None:
    node = Node()
    node.fence.connected()
    node.live(600 * SECOND)
    assert not node.is_stopped


def test_the_lease_begins_when_the_session_ends() -> None:
    node = Node()
    node.fence.connected()
    node.live(60 * SECOND)
    node.fence.disconnected()
    node.live(PARTITION_LEASE - TICK)
    assert not node.is_stopped
    node.live(TICK)
    assert node.is_stopped


def test_vain_attempts_to_connect_do_not_prolong_it() -> None:
    node = Node()
    node.fence.connected()
    node.fence.disconnected()
    for _ in range(int(PARTITION_LEASE // SECOND)):
        node.live(SECOND)
        node.fence.disconnected()
    assert node.is_stopped


def test_a_manager_found_in_time_ends_the_danger() -> None:
    node = Node()
    node.fence.connected()
    node.fence.disconnected()
    node.live(PARTITION_LEASE - SECOND)
    node.fence.connected()
    node.live(PARTITION_LEASE * 2)
    assert not node.is_stopped


def test_a_new_daemon_has_less_time() -> None:
    node = Node()
    node.live(FIRST_LEASE)
    assert node.is_stopped
    assert FIRST_LEASE < PARTITION_LEASE


def test_a_node_that_was_frozen_stops_them_although_its_session_still_looks_open() -> None:
    node = Node()
    node.fence.connected()
    node.live(SECOND)
    node.clock.moment += PARTITION_LEASE + SECOND
    node.fence.tick()
    assert node.is_stopped
