"""Sessions of the unmodified docker CLI: updates, rollbacks, jobs, health checks and constraints on podman nodes.

Texts and exit codes are those of the CLI's progress loop, which reads nothing but our API.
"""

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.conftest import DOCKER, Lab, make_lab, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel, pytest.mark.soak]

CREATE = ("service", "create", "--no-resolve-image", "--update-monitor", "1s", "--rollback-monitor", "1s",
          "--stop-grace-period", "0s", "--restart-delay", "200ms")  # fmt: skip
IDLE = ("sleep", "1000")
CRASH = "sh -c 'exit 7'"
TASK_ID = "[0-9a-z]{25}"
CONVERGED = re.compile(r"verify: Service (app )?converged")  # Older clients leave the name out.


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("updates")
    for lab in make_lab(root / "l", engine="podman"):
        lab.load_image(programs.write_archive(root))
        yield lab


@pytest.fixture
def services(lab: Lab) -> Iterator[Lab]:
    """The lab; whatever services a test made are removed after it."""
    yield lab
    for service in lab.api("GET", "/services"):
        lab.api("DELETE", f"/services/{service['ID']}")
    wait_until(lambda: not lab.api("GET", "/tasks"), "the tasks did not go", 60)


def inspect(lab: Lab, name: str = "app") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.docker("service", "inspect", name))[0]
    return found


def live(lab: Lab, name: str = "app") -> dict[int, str]:
    """Slot to task id of what is wanted."""
    tasks = lab.api("GET", f'/tasks?filters={{"service":["{name}"],"desired-state":["running"]}}')
    return {task.get("Slot", 0): task["ID"] for task in tasks}


def docker_on_terminal(lab: Lab, *words: str) -> str:
    """Run the docker CLI as a person does: it shows bars on a terminal only. Returns all it wrote, exit code 0."""
    ours, its = pty.openpty()
    socket = lab.layout.node("node1").socket
    process = subprocess.Popen(
        [DOCKER or "docker", "-H", f"unix://{socket}", *words], stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    written = b""
    try:
        while piece := os.read(ours, 65536):
            written += piece
    except OSError:  # The terminal's other end was closed: the CLI has ended.
        pass
    finally:
        os.close(ours)
        code = process.wait(timeout=10)
    text = written.decode(errors="replace")
    assert code == 0, text
    return text


def test_an_update_replaces_tasks_and_converges(services: Lab) -> None:
    lab = services
    made = lab.docker(*CREATE, "--name", "app", "--replicas", "3", programs.NAME, *IDLE)
    assert re.search(rf"^{TASK_ID}$", made, re.MULTILINE)
    assert re.search(r"verify: Service ([0-9a-z]{25} )?converged", made)
    before = live(lab)
    said = lab.docker("service", "update", "--env-add", "COLOUR=blue", "app")
    assert said.startswith("app\n")
    assert "overall progress: 3 out of 3 tasks" in said
    assert CONVERGED.search(said)
    assert set(live(lab)) == {1, 2, 3}
    assert not set(before.values()) & set(live(lab).values())
    status = inspect(lab)["UpdateStatus"]
    assert (status["State"], status["Message"]) == ("completed", "update completed")
    assert status["StartedAt"] <= status["CompletedAt"]


def test_labels_and_scale_restart_nothing_and_force_restarts_all(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--name", "app", "--replicas", "2", programs.NAME, *IDLE)
    before = live(lab)
    lab.docker("service", "update", "--label-add", "team=red", "app")
    lab.docker("service", "update", "--update-parallelism", "0", "app")
    lab.docker("service", "scale", "app=3")
    assert {slot: id for slot, id in live(lab).items() if slot in before} == before
    lab.docker("service", "update", "--force", "app")
    assert not set(before.values()) & set(live(lab).values())


def test_rollback_brings_the_spec_before_back_and_forth(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--name", "app", "--replicas", "2", "--env", "COLOUR=amber", programs.NAME, *IDLE)
    first = lab.docker_process("service", "rollback", "app")
    assert first.returncode == 1
    assert "does not have a previous spec" in first.stderr
    lab.docker("service", "update", "--env-add", "COLOUR=blue", "app")
    said = lab.docker("service", "rollback", "app")
    assert "rollback: manually requested rollback" in said
    assert "overall progress: rolling back update: 2 out of 2 tasks" in said
    assert CONVERGED.search(said)
    assert inspect(lab)["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["COLOUR=amber"]
    wait_until(lambda: inspect(lab)["UpdateStatus"]["State"] == "rollback_completed", "it is not over")
    assert inspect(lab)["UpdateStatus"]["Message"] == "rollback completed"
    lab.docker("service", "update", "--rollback", "app")
    assert inspect(lab)["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == ["COLOUR=blue"]


def test_an_update_that_crashes_is_paused_and_the_cli_fails_with_the_reason(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--name", "app", "--replicas", "3", programs.NAME, *IDLE)
    before = live(lab)
    done = lab.docker_process("service", "update", "--args", CRASH, "app")
    assert done.returncode == 1
    assert re.search(
        rf"service update paused: update paused due to failure or early termination of task {TASK_ID}", done.stderr
    )
    assert inspect(lab)["UpdateStatus"]["State"] == "paused"
    kept = set(before.values()) & set(live(lab).values())
    assert kept  # Slots are tried one by one; one that ran for a moment lets the next begin, as in Swarm.
    pretty = lab.docker("service", "inspect", "--pretty", "app")
    assert re.search(r"UpdateStatus:\s+State:\s+paused\s+Started:\s+.+\s+Message:\s+update paused due to", pretty)
    mended = lab.docker("service", "update", "--args", " ".join(IDLE), "app")
    assert CONVERGED.search(mended)
    assert kept <= set(live(lab).values())  # They have the old and new arguments: nothing to do.
    assert inspect(lab)["UpdateStatus"]["State"] == "completed"


def test_an_update_that_crashes_rolls_back_by_itself(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--name", "app", "--replicas", "3", "--update-failure-action", "rollback", programs.NAME, *IDLE)
    done = lab.docker_process("service", "update", "--args", CRASH, "app")
    assert done.returncode == 0, done.stderr
    said = re.search(
        rf"rollback: update rolled back due to failure or early termination of task {TASK_ID}", done.stdout
    )
    assert said, done.stdout
    assert "overall progress: rolling back update: 3 out of 3 tasks" in done.stdout
    wait_until(lambda: inspect(lab)["UpdateStatus"]["State"] == "rollback_completed", "it is not over")
    assert inspect(lab)["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"] == list(IDLE)
    pretty = lab.docker("service", "inspect", "--pretty", "app")
    assert re.search(r"RollbackConfig:\s+Parallelism:\s+1\s+On failure:\s+pause\s+Monitoring Period: 1s", pretty)


def test_a_rollback_that_crashes_too_is_paused(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--name", "app", "--replicas", "2", "--detach", programs.NAME, "sh", "-c", "exit 7")
    lab.docker("service", "update", "--detach", "--args", " ".join(IDLE), "app")
    wait_until(lambda: inspect(lab).get("UpdateStatus", {}).get("State") == "completed", "it did not come up")
    done = lab.docker_process("service", "rollback", "app")
    assert done.returncode == 1
    assert re.search(
        rf"service rollback paused: rollback paused due to failure or early termination of task {TASK_ID}", done.stderr
    )
    assert inspect(lab)["UpdateStatus"]["State"] == "rollback_paused"


def test_detached_commands_return_at_once(services: Lab) -> None:
    lab = services
    began = time.monotonic()
    made = lab.docker(*CREATE, "--detach", "--name", "app", "--replicas", "2", programs.NAME, *IDLE)
    assert re.fullmatch(rf"{TASK_ID}\n", made)
    assert lab.docker("service", "update", "--detach", "--force", "app") == "app\n"
    assert time.monotonic() - began < 5
    wait_until(lambda: len(live(lab)) == 2, "it did not converge")


def test_a_replicated_job_runs_two_at_a_time_until_five_are_complete(services: Lab) -> None:
    lab = services
    said = docker_on_terminal(
        lab, "service", "create", "--no-resolve-image", "--name", "job", "--mode", "replicated-job", "--replicas", "5",
        "--max-concurrent", "2", programs.NAME, "sleep", "1",
    )  # fmt: skip
    assert "job progress: 5 out of 5 complete" in said
    assert re.search(r"active tasks: \d out of 2 tasks", said)
    assert "job complete" in said
    assert max(int(n) for n in re.findall(r"active tasks: (\d) out of", said)) <= 2
    listed = lab.docker("service", "ls", "--filter", "name=job", "--format", "{{.Mode}} {{.Replicas}}")
    assert listed == "replicated job 0/2 (5/5 completed)\n"
    tasks = lab.api("GET", '/tasks?filters={"service":["job"]}')
    assert sorted(task.get("Slot", 0) for task in tasks) == [0, 1, 2, 3, 4]
    assert {task["Status"]["State"] for task in tasks} == {"complete"}
    assert inspect(lab, "job")["JobStatus"]["JobIteration"].get("Index", 0) == 0
    again = lab.docker("service", "update", "--force", "job")
    assert "job complete" in again
    assert inspect(lab, "job")["JobStatus"]["JobIteration"]["Index"] > 0


def test_a_global_job_runs_once_on_every_node(services: Lab) -> None:
    lab = services
    said = docker_on_terminal(
        lab, "service", "create", "--no-resolve-image", "--name", "job", "--mode", "global-job", programs.NAME,
        "sleep", "1",
    )  # fmt: skip
    assert "job progress: 3 out of 3 complete" in said
    assert "job complete" in said
    listed = lab.docker("service", "ls", "--filter", "name=job", "--format", "{{.Mode}} {{.Replicas}}")
    assert listed == "global job 0/0 (3/3 completed)\n"
    assert len({task["NodeID"] for task in lab.api("GET", '/tasks?filters={"service":["job"]}')}) == 3


def test_a_failing_task_of_a_job_is_tried_again(services: Lab) -> None:
    lab = services
    lab.docker(
        "service", "create", "--detach", "--no-resolve-image", "--name", "job", "--mode", "replicated-job",
        "--restart-delay", "200ms", "--restart-max-attempts", "2", programs.NAME, "sh", "-c", "exit 3",
    )  # fmt: skip
    wait_until(lambda: lab.docker("service", "ps", "job").count("Failed") == 3, "it was not tried three times")
    assert lab.docker("service", "ps", "--no-trunc", "job").count("task: non-zero exit (3)") == 3
    refused = lab.docker_process("service", "update", "--update-delay", "1s", "job")
    assert refused.returncode == 1
    assert "update and rollback" in refused.stderr


def test_a_task_is_running_only_once_it_is_healthy(services: Lab) -> None:
    lab = services
    lab.docker(
        *CREATE, "--detach", "--name", "app", "--health-cmd", "test -e /tmp/ready", "--health-interval", "1s",
        "--health-retries", "2", "--health-start-period", "60s", programs.NAME, "sh", "-c",
        "sleep 2; touch /tmp/ready; sleep 1000",
    )  # fmt: skip

    def state() -> str:
        tasks = lab.api("GET", '/tasks?filters={"service":["app"]}')
        return str(tasks[-1]["Status"]["State"]) if tasks else ""

    wait_until(lambda: state() == "starting", "it never waited for its health")
    wait_until(lambda: state() == "running", "it did not become healthy")
    node = next(task for task in lab.api("GET", '/tasks?filters={"service":["app"]}'))["NodeID"]
    name = next(n["Description"]["Hostname"] for n in lab.api("GET", "/nodes") if n["ID"] == node)
    container = lab.docker("ps", "-q", "--filter", "name=app.1", node=name).split()[0]
    lab.docker("exec", container, "rm", "/tmp/ready", node=name)
    wait_until(lambda: "unhealthy" in lab.docker("service", "ps", "--no-trunc", "app"), "it was not replaced")
    assert '"task: unhealthy container"' in lab.docker("service", "ps", "--no-trunc", "app")


def test_a_constraint_that_no_node_satisfies_is_the_reason_until_one_does(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--detach", "--name", "app", "--constraint", "node.labels.disk==ssd", programs.NAME, *IDLE)
    reason = '"no suitable node (scheduling constraints not satisfied on 3 nodes)"'
    wait_until(lambda: reason in lab.docker("service", "ps", "--no-trunc", "app"), "no reason is shown")
    assert lab.docker("service", "ls", "--format", "{{.Replicas}}") == "0/1\n"
    lab.docker("node", "update", "--label-add", "disk=ssd", "node3")
    try:
        wait_until(
            lambda: "Running" in lab.docker("service", "ps", "--format", "{{.CurrentState}}", "app"), "not placed"
        )
        assert lab.docker("service", "ps", "--format", "{{.Node}}", "app") == "node3\n"
    finally:
        lab.docker("node", "update", "--label-rm", "disk", "node3")
    wait_until(lambda: reason in lab.docker("service", "ps", "--no-trunc", "app"), "it stays where it may not be")


def test_reservations_and_places_per_node_are_reasons_too(services: Lab) -> None:
    lab = services
    lab.docker(*CREATE, "--detach", "--name", "big", "--reserve-memory", "900g", programs.NAME, *IDLE)
    lab.docker(
        *CREATE, "--detach", "--name", "few", "--replicas", "4", "--replicas-max-per-node", "1", programs.NAME, *IDLE
    )
    wait_until(
        lambda: "insufficient resources on 3 nodes" in lab.docker("service", "ps", "--no-trunc", "big"), "no reason"
    )
    wait_until(
        lambda: "max replicas per node limit exceed" in lab.docker("service", "ps", "--no-trunc", "few"), "no reason"
    )
    listing = ("service", "ls", "--filter", "name=few", "--format", "{{.Replicas}}")
    wait_until(lambda: lab.docker(*listing) == "3/4 (max 1 per node)\n", "the others do not run")
