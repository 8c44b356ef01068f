"""A worker that reaches some manager but not the one that leads, as behind a firewall: it is served all the same."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.e2e.managers import Managers
from tests.e2e.test_managers import found, wait_running

from skep.lab import nodes
from skep.lab.layout import NodeLayout

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.soak]
RUN = ("service", "create", "--quiet", "--no-resolve-image", "--detach", "--constraint", "node.hostname==node4")
WORKER = "node4"
DOWN_AFTER_S = 6.0
FIREWALL = """
table inet away {{
  chain in {{ type filter hook input priority -300; ip saddr {0} drop; }}
  chain out {{ type filter hook output priority -300; ip daddr {0} drop; }}
}}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield from make_lab(tmp_path / "l", node_count=4, manager_count=3)


def cut(lab: Lab, leader: NodeLayout) -> None:
    """Have nothing pass between the worker and the leader; the lab's end removes it too, with the namespace."""
    rules = lab.layout.root / "away.nft"
    rules.write_text(FIREWALL.format(leader.underlay))
    lab.run(WORKER, "nft", "-f", str(rules))


def in_session_with(lab: Lab) -> str:
    """The manager that the worker's daemon said last it is in session with."""
    said = lab.layout.node(WORKER).log_file.read_text()
    began = re.findall(r'event="a session began" manager=([\d.]+):\d+', said)
    return next(node.name for node in lab.nodes if began and node.underlay == began[-1])


def check_ready(lab: Lab, length_s: float, at: str) -> None:
    """Longer than it takes to declare a silent node down."""
    began = time.monotonic()
    while time.monotonic() - began < length_s:
        assert found(lab, at)[WORKER][0] == "Ready"
        time.sleep(0.2)


def test_a_worker_that_is_cut_off_from_the_leader_stays_in_the_swarm(lab: Lab) -> None:
    managers = Managers(lab)
    leader = managers.leader()
    lab.docker(*RUN, "--name", "web", "x", "sh", "-c", "echo ready; exec sleep 9999")
    first = wait_running(lab, "web", 1)
    wait_until(lambda: in_session_with(lab) == leader.name, "the worker is not with the leader")

    cut(lab, leader)
    began = time.monotonic()
    wait_until(lambda: in_session_with(lab) != leader.name, "nobody carries its session")
    print(f"carried {time.monotonic() - began:.1f} s after the cut")
    check_ready(lab, DOWN_AFTER_S + 3, leader.name)

    lab.docker("service", "scale", "--detach", "web=3", node=leader.name)
    scaled = wait_running(lab, "web", 3)
    assert first.items() <= scaled.items(), "it was restarted"
    for node in managers.nodes:
        wait_until(
            lambda node=node: lab.docker("service", "logs", "--raw", "web", node=node.name).split() == ["ready"] * 3,
            f"{node.name} does not read the logs",
        )

    carrier = in_session_with(lab)
    third = next(node.name for node in managers.nodes if node.name not in (leader.name, carrier))
    nodes.freeze_node(lab.layout.node(carrier), is_frozen=True)
    try:
        began = time.monotonic()
        wait_until(lambda: in_session_with(lab) == third, "nobody else carries its session")
        print(f"carried by another {time.monotonic() - began:.1f} s after the first froze")
        check_ready(lab, DOWN_AFTER_S + 3, leader.name)
    finally:
        nodes.freeze_node(lab.layout.node(carrier), is_frozen=False)
    assert managers.leader() == leader

    lab.run(WORKER, "nft", "delete", "table", "inet", "away")
    wait_until(lambda: in_session_with(lab) == leader.name, "it does not go back to the leader", 60)
    check_ready(lab, DOWN_AFTER_S + 3, leader.name)
    assert wait_running(lab, "web", 3) == scaled, "it was restarted"
    lab.docker("service", "scale", "--detach", "web=4", node=leader.name)
    assert scaled.items() <= wait_running(lab, "web", 4).items()
