"""Updates, rollbacks, drains and scaling under load through the mesh: not one request may fail.

`make test` runs one short round of each at a rate that a shared machine bears; `make soak` runs five at 500 requests/s.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.e2e import graceful
from tests.e2e.conftest import Lab, make_lab, under_load, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]

REPLICAS = 6
SHORT_RATE, SOAK_RATE, SOAK_ROUNDS = 100.0, 500.0, 5
LONGEST_S = 120.0
SETTLE_S = 0.5
"""Load before the change begins and after it is over."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three podman nodes with six tasks of a graceful web server."""
    root = tmp_path_factory.mktemp("updates")
    for lab in make_lab(root / "l", engine="podman"):
        lab.load_image(graceful.write_archive(root))
        lab.docker(
            "service", "create", "--quiet", "--no-resolve-image", "--name", "web", "--replicas", str(REPLICAS),
            "-p", f"{graceful.PORT}:{graceful.PORT}", *graceful.STOPPING, "--update-monitor", "200ms",
            "--rollback-monitor", "200ms", "--update-parallelism", "2", "--rollback-parallelism", "0",
            "--restart-delay", "200ms", graceful.NAME, timeout_s=120,
        )  # fmt: skip
        yield lab


def update(lab: Lab, *options: str, timeout_s: float = 120) -> str:
    return lab.docker("service", "update", "--quiet", *options, "web", timeout_s=timeout_s)


def update_state(lab: Lab) -> str:
    state: str = lab.api("GET", "/services/web")["UpdateStatus"]["State"]
    return state


def tasks(lab: Lab, **wanted: str) -> list[dict[str, Any]]:
    found = lab.api("GET", '/tasks?filters={"service":["web"]}')
    return [task for task in found if all(task[key] == value for key, value in wanted.items())]


def is_at_rest(lab: Lab) -> bool:
    """Whether exactly the wanted tasks run and nothing else still does."""
    replicas = lab.api("GET", "/services/web")["Spec"]["Mode"]["Replicated"]["Replicas"]
    states = [(task["DesiredState"], task["Status"]["State"]) for task in tasks(lab)]
    return states.count(("running", "running")) == replicas and not any(
        state in ("starting", "running") and desired != "running" for desired, state in states
    )


@contextmanager
def load_through_two_nodes(lab: Lab, rate: float, title: str) -> Iterator[None]:
    """Load on two nodes for as long as the body lasts and until the service is at rest; nothing may fail."""
    wait_until(lambda: is_at_rest(lab), "the service is not at rest to begin with", 60)
    urls = [f"http://{lab.layout.node(name).underlay}:{graceful.PORT}/" for name in ("node1", "node2")]
    with under_load(lab, LONGEST_S, rate, *urls) as load:
        time.sleep(SETTLE_S)
        yield
        wait_until(lambda: is_at_rest(lab), "the service did not come to rest", 60)
        time.sleep(SETTLE_S)
        length_s = load.at_s
        recording = load.end()
    kept = sum(request.is_kept for request in recording.requests)
    slowest = max(request.took_s for request in recording.requests)
    print(f"{title}: {kept} on kept and {len(recording.requests) - kept} on new connections", end=", ")
    print(f"{len(recording.requests) / length_s:.0f}/s, slowest {slowest:.3f} s", end=": ")
    recording.check_none_failed()


def rolling(order: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        before = {task["ID"] for task in tasks(lab, DesiredState="running")}
        update(lab, "--force", "--update-order", order, "--update-failure-action", "pause")
        assert before.isdisjoint(task["ID"] for task in tasks(lab, DesiredState="running"))

    return change


def crashing(order: str) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        before = {task["ID"] for task in tasks(lab, DesiredState="running")}
        said = update(
            lab, "--args", "sh -c 'exit 7'", "--update-order", order, "--update-failure-action", "rollback",
        )  # fmt: skip
        # The CLI leaves once it saw the tasks stable for long enough, a moment before the manager says so or after.
        wait_until(lambda: update_state(lab) == "rollback_completed", f"not rolled back; the CLI said {said}", 5)
        kept = before & {task["ID"] for task in tasks(lab, DesiredState="running")}
        assert len(kept) >= REPLICAS - 2  # Only the two slots that were tried.

    return change


def drain(lab: Lab) -> None:
    """Empty a node, wait until nothing runs there, and take it back."""
    node_id = lab.api("GET", "/nodes/node3")["ID"]
    assert tasks(lab, NodeID=node_id, DesiredState="running")
    lab.docker("node", "update", "--availability", "drain", "node3")
    wait_until(
        lambda: all(task["Status"]["State"] not in ("starting", "running") for task in tasks(lab, NodeID=node_id)),
        "the node is not empty",
        60,
    )
    lab.docker("node", "update", "--availability", "active", "node3")


def scale_down(lab: Lab) -> None:
    update(lab, "--replicas", "2")
    wait_until(lambda: is_at_rest(lab), "the surplus did not go")


CHANGES = {
    "stop-first": rolling("stop-first"),
    "start-first": rolling("start-first"),
    "crash, stop-first": crashing("stop-first"),
    "crash, start-first": crashing("start-first"),
    "drain": drain,
    "scale 6 to 2": scale_down,
}


def run_round(lab: Lab, name: str, rate: float) -> None:
    if name == "drain":
        update(lab, "--force", "--update-order", "start-first")  # Spread over all nodes again.
    try:
        with load_through_two_nodes(lab, rate, name):
            CHANGES[name](lab)
    finally:
        update(lab, "--replicas", str(REPLICAS))


@pytest.mark.parametrize("name", CHANGES)
def test_no_request_fails(lab: Lab, name: str) -> None:
    run_round(lab, name, SHORT_RATE)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHANGES)
def test_no_request_fails_in_five_rounds_at_full_rate(lab: Lab, name: str) -> None:
    for number in range(SOAK_ROUNDS):
        print(f"round {number + 1}", end=", ")
        run_round(lab, name, SOAK_RATE)
