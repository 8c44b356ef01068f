"""A swarm whose managers keep its state in an etcd that is not their own, outside their machines."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.e2e.test_managers import PROGRAM, RUN, insist, join, kill_manager, managers, refused, running, wait_running
from tests.etcd_members import Members

from skep.edge.etcd.settings import CERTIFICATE, KEY, ROOT
from skep.edge.namespaces import entered
from skep.lab import nodes
from skep.lab.layout import LabLayout

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


@dataclass(frozen=True, slots=True)
class Outside:
    """The machine of a lab that is no node."""

    layout: LabLayout

    @property
    def address(self) -> str:
        return self.layout.client_address

    def command(self, words: Sequence[str]) -> Sequence[str]:
        return ["ip", "netns", "exec", self.layout.client, *words]

    @contextmanager
    def inside(self) -> Iterator[None]:
        descriptor = os.open(f"/run/netns/{self.layout.client}", os.O_RDONLY)
        try:
            with entered(descriptor):
                yield
        finally:
            os.close(descriptor)


@pytest.fixture
def etcd(tmp_path: Path) -> Members:
    """A member beside the lab; it does not run yet."""
    (tmp_path / "etcd").mkdir()
    return Members(tmp_path / "etcd", 1, machines=[Outside(LabLayout((tmp_path / "l").resolve()))])


@pytest.fixture
def lab(tmp_path: Path, etcd: Members) -> Iterator[Lab]:
    """Nodes in no swarm yet, each told of the etcd."""
    settings, held = etcd.settings[0], etcd.credentials[0]
    for name, text in ((ROOT, held.root), (CERTIFICATE, held.certificate), (KEY, held.key)):
        (tmp_path / name).write_text(text)
    files = {"--etcd-ca": ROOT, "--etcd-cert": CERTIFICATE, "--etcd-key": KEY}
    options = ["--etcd", settings.client_url]
    options += [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    try:
        yield from make_lab(tmp_path / "l", is_joined=False, options=options)
    finally:
        etcd.stop()


def kind(lab: Lab, node: str = "node1") -> str:
    return str(lab.api("GET", "/skep/cluster", node=node)["Store"]["Kind"])


def test_any_one_manager_suffices_and_nothing_restarts(lab: Lab, etcd: Members) -> None:
    lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1", "--dispatcher-heartbeat", "5s")
    lab.docker(*RUN, "s", "--replicas", "3", *PROGRAM)  # While that etcd is away a file has to do.
    assert kind(lab) == "sqlite"
    with Outside(lab.layout).inside():
        etcd.start()
    wait_until(lambda: kind(lab) == "external etcd", "the state was not moved")
    for node in ("node2", "node3"):
        assert join(lab, node, "manager") == "This node joined a swarm as a manager.\n"
    wait_until(lambda: sorted(managers(lab).values()) == ["Leader", "Reachable", "Reachable"], "there are no three")
    tasks = wait_running(lab, "s", 3)
    found = lab.api("GET", "/skep/cluster", node="node2")
    assert found["Quorum"] == "the external etcd answers at 1 of 1 endpoints; any one manager suffices"
    assert sorted(row["Role"] for row in found["Managers"]) == ["follower", "follower", "leader"]
    line = [sys.executable, "-m", "skep.cli", "-H", f"unix://{lab.nodes[0].socket}", "cluster", "status"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "any one manager suffices" in shown
    assert "Store:         external etcd 3." in shown

    leader, other, third = sorted(managers(lab), key=lambda name: managers(lab)[name])
    assert kill_manager(lab, leader) == 1  # It has no member of its own.
    insist(lab, *RUN, "t", *PROGRAM, node=other)
    wait_running(lab, "t", 1, other)
    wait_until(lambda: lab.docker_process("node", "ls", node=leader).returncode == 0, f"{leader} did not come back")
    wait_until(lambda: running(lab, "s", other) == tasks, "what ran is not all seen again")

    etcd.kill(0)
    began = time.monotonic()
    assert "cannot store changes at present" in refused(lab, *RUN, "u", *PROGRAM, node=other)
    assert time.monotonic() - began < 6  # Two seconds, and what a busy machine takes beside.
    assert "s" in lab.docker("service", "ls", "--format", "{{.Name}}", node=other).split()
    etcd.launch(0)
    wait_until(lambda: "Leader" in managers(lab, other).values(), "nobody leads once it is back")
    insist(lab, *RUN, "u", *PROGRAM, node=other)
    wait_running(lab, "u", 1, other)

    insist(lab, "node", "demote", third, node=other)
    wait_until(lambda: set(managers(lab, other)) == {leader, other}, f"{third} is shown as a manager still")
    nodes.kill_node(lab.layout, lab.layout.node(leader))
    wait_until(lambda: managers(lab, other)[other] == "Leader", "the one that is left does not lead")
    insist(lab, *RUN, "v", "--constraint", f"node.hostname=={other}", *PROGRAM, node=other)
    wait_running(lab, "v", 1, other)
    kept = {task: pid for task, pid in running(lab, "s", other).items() if task in tasks}
    assert kept
    assert kept.items() <= tasks.items()
