"""The daemon is killed and the next one goes on: nothing starts twice, nothing is left over, what runs is untouched."""

from pathlib import Path

import pytest
from tests.agent.node import (
    a_container_spec,
    a_running_node,
    an_overlay,
    assigned,
    the_cluster,
    until,
)

from skep.agent.adoption import Inventory, adopt
from skep.agent.assignments import Change
from skep.agent.records import TaskRecord
from skep.core.task_steps import Phase
from skep.lib.durations import SECOND
from skep.model.lifecycle import TaskState as S
from skep.model.service import Endpoint, Healthcheck, PortConfig
from skep.model.task import TaskStatus
from skep.ports.runtime import Container, ContainerState

pytestmark = pytest.mark.anyio

NETWORKED = {"addresses": {"net1": "10.0.1.5/24"}}


async def test_what_runs_is_adopted_untouched_and_without_a_manager(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(the_cluster(), an_overlay(), assigned(**NETWORKED), is_full=True)
        before = await node.reach(S.RUNNING)
        container = node.engine.only()
        node.reports.clear()
        await node.restart()
        status = await node.reach(S.RUNNING)
        assert status == before, "reported again, as it was"
        assert node.engine.only() == container
        assert len(node.engine.starts) == 1
        assert node.engine.stops == []
        await until(lambda: node.agent.applied_version == node.version)
        assert node.names.askers["t1"].networks == ("net1",)
        assert "network/net1" in node.names.known_at_open["t1"], "no name is denied meanwhile"
        node.engine.end(container.id, 3)
        assert (await node.reach(S.FAILED)).err == "task: non-zero exit (3)"


async def test_one_that_died_meanwhile_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.kill()
        node.engine.end(node.engine.only().id, 42)
        node.begin()
        node.run()
        status = await node.reach(S.FAILED)
        assert status.err == "task: non-zero exit (42)"
        assert len(node.engine.starts) == 1


async def test_after_a_reboot_what_ran_has_failed(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), assigned("t2", desired=S.READY), is_full=True)
        await node.reach(S.RUNNING)
        await node.reach(S.READY, "t2")
        await node.kill()
        node.engine.containers.clear()
        node.plane.prepared.clear()
        node.boot_id = "boot-2"
        node.begin()
        node.run()
        assert "the node or its engine restarted" in (await node.reach(S.FAILED)).err
        assert len(node.engine.starts) == 1
        await node.give(assigned("t2"))
        await node.reach(S.RUNNING, "t2")
        assert len(node.engine.starts) == 2, "what never ran may still run"


@pytest.mark.parametrize("state", [ContainerState.CREATED, ContainerState.EXITED])
async def test_after_a_reboot_the_engines_word_on_the_container_is_not_trusted(
    tmp_path: Path, state: ContainerState
) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.kill()
        node.engine._change(node.engine.only().id, state=state, pid=0, exit_code=0)
        node.plane.prepared.clear()
        node.boot_id = "boot-2"
        node.begin()
        node.run()
        await node.reach(S.FAILED)
        assert len(node.engine.starts) == 1


async def test_a_lost_disk_starts_nothing_twice(tmp_path: Path) -> None:
    async with a_running_node(tmp_path / "old") as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.kill()
        node.state_dir = tmp_path / "new"
        node.begin()
        node.run()
        await until(lambda: node.agent._inventory is not None)
        assert node.engine.only().state is ContainerState.RUNNING, "an empty memory is no reason to stop anything"
        told = TaskStatus(state=S.RUNNING)
        await node.give(assigned(status=told), assigned("t2", status=told), is_full=True)
        await node.reach(S.FAILED, "t2")
        await node.reach(S.RUNNING)
        assert len(node.engine.starts) == 1


async def test_unknown_leftovers_go_only_after_a_full_set(tmp_path: Path) -> None:
    async with a_running_node(tmp_path / "old") as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.kill()
        node.state_dir = tmp_path / "new"
        node.begin()
        node.run()
        await until(lambda: node.agent._inventory is not None)
        assert len(node.engine.containers) == 1
        await node.give(is_full=True)
        await until(lambda: not node.engine.containers and not node.plane.prepared)
        assert len(node.engine.stops) == 1, "stopped with its grace, not killed"


async def test_a_delta_is_no_word_on_what_it_does_not_mention(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.kill()
        labels = {"com.docker.swarm.task.id": "t9", "com.docker.swarm.node.id": "node1"}
        node.engine.containers["x"] = node.engine.a_container("x", labels)
        node.begin()
        node.run()
        await node.give(assigned("t2"))
        await node.reach(S.RUNNING, "t2")
        assert "x" in node.engine.containers
        await node.give(assigned(), assigned("t2"), is_full=True)
        await until(lambda: "x" not in node.engine.containers)
        assert len(node.engine.containers) == 2


async def test_a_node_that_was_told_nothing_programs_nothing(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.agent._mesh.note(Change())
        await until(lambda: not node.agent._mesh._is_changed.is_set())
        assert node.plane.programmed == []


@pytest.mark.parametrize(
    ("record", "container", "boot_id", "has_sandbox", "expected"),
    [
        pytest.param(None, None, "b", False, (S.ASSIGNED, Phase.ABSENT, False), id="new"),
        pytest.param(S.PREPARING, None, "b", True, (S.PREPARING, Phase.ABSENT, False), id="half made"),
        pytest.param(S.READY, "created", "b2", False, (S.READY, Phase.CREATED, False), id="rebooted before the start"),
        pytest.param(S.STARTING, "created", "b", True, (S.STARTING, Phase.CREATED, False), id="marked, not started"),
        pytest.param(S.STARTING, "created", "b2", True, (S.STARTING, Phase.CREATED, True), id="maybe ran before"),
        pytest.param(S.READY, "running", "b", True, (S.STARTING, Phase.RUNNING, False), id="an older record"),
        pytest.param(None, "exited", "b", True, (S.STARTING, Phase.EXITED, False), id="a lost record"),
        pytest.param(S.RUNNING, "running", "b", True, (S.RUNNING, Phase.RUNNING, False), id="runs on"),
        pytest.param(S.RUNNING, "running", "b", False, (S.RUNNING, Phase.RUNNING, True), id="lost its sandbox"),
        pytest.param(S.RUNNING, "exited", "b2", True, (S.RUNNING, Phase.EXITED, True), id="ended with the machine"),
        pytest.param(S.FAILED, "exited", "b2", False, (S.FAILED, Phase.EXITED, False), id="was over before"),
    ],
)
def test_what_an_earlier_daemon_left_is_told_apart(
    record: S | None, container: str | None, boot_id: str, has_sandbox: bool, expected: tuple[S, Phase, bool]
) -> None:
    left = TaskRecord(status=TaskStatus(state=record), boot_id="b") if record is not None else None
    found = Container(id="c", name="c", labels={}, state=ContainerState(container)) if container else None
    containers = {"t1": found} if found else {}
    seen = adopt(assigned(), left, Inventory(containers, {"t1"} if has_sandbox else set(), boot_id)).observed
    assert (seen.state, seen.phase, seen.is_lost) == expected


async def test_another_swarms_containers_are_left_alone(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        labels = {"com.docker.swarm.task.id": "theirs", "com.docker.swarm.node.id": "their-node"}
        node.engine.containers["x"] = node.engine.a_container("x", labels)
        await node.restart()
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.give(is_full=True)
        await until(lambda: list(node.engine.containers) == ["x"])


async def test_a_task_dismissed_while_the_daemon_was_dying_is_removed(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.failpoint.left = 1
        await node.give(remove=["task/t1"])
        await until(lambda: node.failpoint.is_hit)
        await node.restart()
        await until(lambda: not node.engine.containers and not node.plane.prepared)
        assert not (tmp_path / "tasks" / "t1").exists()


async def test_a_stop_cut_short_is_still_a_shutdown(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.failpoint.left = 3  # Before and after programming the mesh, or before and after the stop.
        await node.give(assigned(desired=S.SHUTDOWN, drained=True))
        await until(lambda: node.failpoint.is_hit)
        await node.restart()
        assert (await node.reach(S.SHUTDOWN)).err == ""
        assert S.FAILED not in node.states()


async def test_health_and_ports_are_followed_on(tmp_path: Path) -> None:
    check = Healthcheck(test=["CMD", "true"], interval=1_000_000_000, retries=1000)
    endpoint = Endpoint(ports=[PortConfig(target_port=80, published_port=80)])
    async with a_running_node(tmp_path) as node:
        node.engine.probe_exit_code = 1
        await node.give(assigned(spec=a_container_spec(healthcheck=check), endpoint=endpoint), is_full=True)
        await node.reach(S.STARTING)
        await until(lambda: bool(node.engine.starts))
        await node.restart()
        await until(lambda: node.agent._inventory is not None)
        assert S.RUNNING not in node.states()
        node.engine.probe_exit_code = 0
        assert not (await node.reach(S.RUNNING)).is_accepting
        await node.restart()
        node.ears.ports = frozenset({80})
        await until(lambda: node.last().is_accepting)


async def test_an_engine_that_is_away_at_start_is_waited_for(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.kill()
        node.reports.clear()
        node.engine.down = True
        node.begin()
        node.run()
        await until(lambda: node.agent.applied_version == node.version)
        await node.give(assigned("t2"))
        assert node.reports == {}
        node.engine.down = False
        await node.reach(S.RUNNING)
        await node.reach(S.RUNNING, "t2")
        assert len(node.engine.starts) == 2


@pytest.mark.parametrize("n", range(1, 13))
async def test_killed_anywhere_on_the_way_up_it_runs_exactly_once(tmp_path: Path, n: int) -> None:
    async with a_running_node(tmp_path) as node:
        node.failpoint.left = n
        await node.give(the_cluster(), an_overlay(), assigned(**NETWORKED), is_full=True)
        await until(lambda: node.failpoint.is_hit or S.RUNNING in node.states())
        await node.restart()
        await node.reach(S.RUNNING)
        assert len(node.engine.starts) == 1
        assert len(node.engine.containers) == 1
        assert list(node.plane.prepared) == ["t1"]
        states = node.states()
        assert states == sorted(states), "observed state never goes back"


@pytest.mark.parametrize("n", range(1, 13))
async def test_killed_anywhere_on_the_way_down_nothing_remains(tmp_path: Path, n: int) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(the_cluster(), an_overlay(), assigned(**NETWORKED), is_full=True)
        await node.reach(S.RUNNING)
        node.failpoint.left = n
        await node.give(assigned(desired=S.REMOVE, drained=True, **NETWORKED))
        await until(lambda: node.failpoint.is_hit or S.SHUTDOWN in node.states())
        if not node.failpoint.is_hit:
            await node.give(remove=["task/t1"])
            await until(lambda: node.failpoint.is_hit or not (tmp_path / "tasks" / "t1").exists())
        await node.restart()
        if "task/t1" in node.agent._assignments.intent.tasks:
            await node.reach(S.SHUTDOWN)
            await node.give(remove=["task/t1"])
        await until(lambda: not node.engine.containers and not node.plane.prepared)
        await until(lambda: not (tmp_path / "tasks" / "t1").exists())
        assert len(node.engine.starts) == 1
        assert S.FAILED not in node.states()


async def test_leaving_the_swarm_stops_and_forgets_everything(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(the_cluster(), an_overlay(), assigned(**NETWORKED), assigned("t2"), is_full=True)
        await node.reach(S.RUNNING)
        await node.reach(S.RUNNING, "t2")
        await node.agent.removed("it was removed by a manager")
        assert node.engine.containers == {}
        assert len(node.engine.stops) == 2
        assert node.plane.prepared == {}
        assert node.plane.is_cleared
        assert not (tmp_path / "tasks").exists()
        assert (await node.agent.hello()).assignment_version == 0
        await node.restart()
        assert (await node.agent.hello()).epoch == ""


async def test_leaving_that_is_finished_after_a_crash_gives_each_task_its_own_time(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        slow = assigned(spec=a_container_spec(stop_grace_period=90 * SECOND))
        await node.give(slow, assigned("t2"), is_full=True)
        await node.reach(S.RUNNING)
        await node.reach(S.RUNNING, "t2")
        await node.kill()
        (tmp_path / "assignments").unlink()  # Leaving takes these first; nobody knows the specs any more.
        node.begin()
        node.run()
        await node.agent.removed("it left")
        assert node.engine.containers == {}
        assert sorted(grace for _, grace in node.engine.stops) == [10 * SECOND, 90 * SECOND]


async def test_leaving_with_nothing_to_stop(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.agent.removed("the swarm is gone")
        assert node.plane.is_cleared
