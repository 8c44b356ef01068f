"""Certificates over time in a whole swarm: short lives, another root, nodes that slept, nodes that were removed.

The long round takes SKEP_CERTIFICATES_S seconds for each number of managers, 600 if not given.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.e2e.conftest import Lab, make_lab, serve_who, under_load, wait_until, who_urls

from skep.cli.main import main
from skep.core import identity as certificates
from skep.edge.etcd.member import LOADED_ROOT
from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]
LENGTH_S = float(os.environ.get("SKEP_CERTIFICATES_S", "600"))
ROTATIONS_S = 400
"""What the rotations after that, and everything around it, take at most."""
LIFE_S = 60
RATE = 20.0
OPTIONS = ["--min-certificate-life", "10s", "--api-listen", "tcp://0.0.0.0:2376"]
CONTROL, API = "192.168.77.1:2377", "192.168.77.1:2376"


@contextlib.contextmanager
def a_lab(root: Path, **asked: object) -> Iterator[Lab]:
    """A lab whose daemons' last words stand beside a failure."""
    for lab in make_lab(root, **asked):
        try:
            yield lab
        except BaseException:
            print(lab.logs())
            raise


@contextlib.contextmanager
def a_short_lived_lab(root: Path, life_s: int, **asked: object) -> Iterator[Lab]:
    """A lab whose certificates live for so long, from the first moment of what comes next."""
    with a_lab(root / "l", options=OPTIONS, **asked) as lab:
        lab.docker("swarm", "update", "--cert-expiry", f"{life_s}s")
        lab.docker("swarm", "ca", "--rotate", "--quiet")  # Reissues them all.
        if lab.layout.manager_count > 1:
            wait_until(
                lambda: all(has_roots(lab, node.name) for node in lab.nodes[: lab.layout.manager_count]),
                "an etcd kept its roots",
                60,
            )
            wait_until(lambda: ready(lab) == len(lab.nodes), "the nodes are not back")
        yield lab


def credentials_file(lab: Lab, name: str) -> Path:
    return lab.layout.node(name).data_dir / "swarm" / "credentials.json"


def has_roots(lab: Lab, name: str) -> bool:
    """Whether a manager's etcd was restarted since the roots changed: if it led, another one does now."""
    loaded = lab.layout.node(name).run_dir / "etcd" / LOADED_ROOT
    text = lab.run(name, "cat", str(loaded), check=False)  # On a file system of the node's own.
    return text == json.loads(credentials_file(lab, name).read_bytes())["root"]


def ends_at(lab: Lab, name: str) -> float:
    """When a node's certificate ends, in seconds of the clock on the wall."""
    held = json.loads(credentials_file(lab, name).read_bytes())
    return certificates.identity_of_pem(held["certificate"]).expires_at / 1e9


def logged(lab: Lab, text: str, since: dict[str, int] | None = None) -> list[str]:
    """Lines with a text in the daemons' logs, from a number of bytes on."""
    found: list[str] = []
    for node in lab.nodes:
        written = node.log_file.read_bytes()[(since or {}).get(node.name, 0) :]
        found += [f"{node.name}: {line}" for line in written.decode(errors="replace").splitlines() if text in line]
    return found


def log_sizes(lab: Lab) -> dict[str, int]:
    return {node.name: node.log_file.stat().st_size for node in lab.nodes}


def ready(lab: Lab) -> int:
    return lab.docker("node", "ls").count(" Ready ")


# --- removed nodes ---------------------------------------------------------------------------


def test_a_removed_node_is_refused_everywhere_within_two_seconds(tmp_path: Path) -> None:
    """By the control port and the API's, on new connections and on those it held, and told so in its session."""
    with a_lab(tmp_path / "l", node_count=2, options=OPTIONS) as lab:
        stolen = tmp_path / "stolen.json"
        shutil.copy(credentials_file(lab, "node2"), stolen)
        line = [sys.executable, "-m", "tests.e2e.removed_node", str(stolen), CONTROL, API]
        probe = subprocess.Popen(
            nodes.exec_command(lab.layout, "client", line),
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert probe.stdout is not None
            assert probe.stdout.readline() == "all ways are open\n"
            time.sleep(1)  # The ways in are seen to go on working.
            lab.docker("node", "rm", "--force", "node2")
            removed = time.monotonic()
            worked = json.loads(probe.communicate(timeout=60)[0])
        finally:
            probe.kill()
            probe.wait()
        late = {name: round(at - removed, 2) for name, at in worked.items()}
        print(late)
        assert len(late) == 4
        assert all(-0.5 < after_s < 2 for after_s in late.values()), late


# --- a rotation amid trouble -----------------------------------------------------------------


def test_a_rotation_waits_for_a_node_outlives_the_daemon_and_gives_way_to_another(tmp_path: Path) -> None:
    """It is data of the swarm: whichever daemon leads goes on with it, and nobody is shut out meanwhile."""
    with a_lab(tmp_path / "l", node_count=2, options=OPTIONS) as lab:
        old = lab.docker("swarm", "ca")
        freeze_node(lab, "node2")
        lab.docker("swarm", "ca", "--rotate", "--detach")
        wait_until(lambda: issuers(lab)["node1"] == issuers(lab)[""], "the manager has not followed")
        first = issuers(lab)[""]
        os.kill(nodes.daemon_pid(lab.layout.node("node1")), signal.SIGKILL)
        wait_until(lambda: lab.docker_process("swarm", "ca").returncode == 0, "there is no daemon again")
        assert lab.api("GET", "/swarm")["RootRotationInProgress"]
        assert lab.docker("swarm", "ca") == old
        lab.docker("swarm", "ca", "--rotate", "--detach")
        wait_until(lambda: issuers(lab)["node1"] == issuers(lab)[""] != first, "the second one is not followed")
        nodes.freeze_node(lab.layout.node("node2"), is_frozen=False)
        wait_until(lambda: not lab.api("GET", "/swarm")["RootRotationInProgress"], "the rotation does not end")
        assert len(set(issuers(lab).values())) == 1
        assert ready(lab) == 2


def issuers(lab: Lab) -> dict[str, str]:
    """Whose certificate each node has, and under an empty name, whose it is to have."""
    found = {node["Description"]["Hostname"]: node["Description"]["TLSInfo"] for node in lab.api("GET", "/nodes")}
    found[""] = lab.api("GET", "/swarm")["TLSInfo"]
    return {name: trust["CertIssuerPublicKey"] for name, trust in found.items()}


def freeze_node(lab: Lab, name: str) -> None:
    nodes.freeze_node(lab.layout.node(name), is_frozen=True)


# --- nodes that slept ------------------------------------------------------------------------


@pytest.mark.soak
def test_a_node_that_slept_through_its_certificates_end_comes_back_unless_it_slept_too_long(tmp_path: Path) -> None:
    """Frozen, so that nothing on it renews anything; it keeps its id, its tasks and its role."""
    with a_short_lived_lab(tmp_path, 10, node_count=2) as lab:
        before = lab.api("GET", "/info", node="node2")["Swarm"]["NodeID"]
        freeze(lab, "node2", lambda: ends_at(lab, "node2") + 2)
        wait_until(lambda: ready(lab) == 2, "it did not come back")
        assert lab.api("GET", "/info", node="node2")["Swarm"]["NodeID"] == before
        wait_until(lambda: logged(lab, "a node whose certificate had ended is back"), "it got no certificate")


@pytest.mark.soak
def test_a_node_that_slept_too_long_has_to_join_again(tmp_path: Path) -> None:
    with a_short_lived_lab(tmp_path, 10, node_count=2) as lab:
        freeze(lab, "node2", lambda: ends_at(lab, "node2") + 12)
        wait_until(lambda: logged(lab, "cannot be renewed any more"), "it is not refused")
        assert ready(lab) == 1
        told = lab.api("GET", "/info", node="node2")["Swarm"]
        assert (told["LocalNodeState"], "cannot be renewed any more" in told["Error"]) == ("error", True)
        lab.docker("swarm", "leave", node="node2")
        lab.docker("swarm", "join", "--token", lab.docker("swarm", "join-token", "-q", "worker").strip(), CONTROL,
                   node="node2")  # fmt: skip
        wait_until(lambda: ready(lab) == 2, "it did not join")


@pytest.mark.soak
def test_a_whole_swarm_that_was_off_comes_back(tmp_path: Path) -> None:
    """The only manager's certificate has ended too: it certifies itself, and then the others believe it again."""
    with a_short_lived_lab(tmp_path, 10, node_count=2) as lab:
        for node in lab.nodes:
            nodes.kill_node(lab.layout, node)
        wait_wall(max(ends_at(lab, node.name) for node in lab.nodes) + 1)
        for node in lab.nodes:
            nodes.boot_node(lab.layout, node)
        wait_until(lambda: ready(lab) == 2, "they did not come back")
        assert logged(lab, "this manager's certificate had ended")


@pytest.mark.soak
def test_one_of_several_managers_that_was_off_comes_back(tmp_path: Path) -> None:
    """Its etcd speaks to no other before its agent has got a certificate from one of the others."""
    with a_short_lived_lab(tmp_path, LIFE_S, node_count=3, manager_count=3) as lab:
        node = lab.layout.node("node2")
        nodes.kill_node(lab.layout, node)
        wait_wall(ends_at(lab, "node2") + 1)
        nodes.boot_node(lab.layout, node)
        began = time.monotonic()
        wait_until(lambda: ready(lab) == 3, "it did not come back", 90)
        wait_until(lambda: lab.docker_process("node", "ls", node="node2").returncode == 0, "it is no manager", 90)
        print(f"a manager after {time.monotonic() - began:.1f} s")


def freeze(lab: Lab, name: str, until: Callable[[], float]) -> None:
    """Freeze a node until a moment of the clock on the wall, which is asked for once it is frozen."""
    freeze_node(lab, name)
    try:
        wait_wall(until())
    finally:
        nodes.freeze_node(lab.layout.node(name), is_frozen=False)


def wait_wall(moment: float) -> None:
    while (left := moment - time.time()) > 0:
        time.sleep(left)


# --- short lives under load --------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(LENGTH_S + 2 * ROTATIONS_S)
@pytest.mark.parametrize("n_managers", [1, 3])
def test_certificates_of_a_minute_are_renewed_without_a_drop(tmp_path: Path, n_managers: int) -> None:
    """Requests through the mesh on new and kept connections, the docker CLI, a client on TLS, events: none of it fails.

    No session ends either, on any node; and when the root is rotated under the same load, none of it fails again.
    """
    with a_short_lived_lab(tmp_path, LIFE_S, node_count=3, manager_count=n_managers) as lab:
        serve_who(lab)
        place = operator(lab, tmp_path)
        wait_until(lambda: ready(lab) == 3, "the nodes are not ready")
        with watching(lab, place) as watch, under_load(lab, LENGTH_S + ROTATIONS_S, RATE, *who_urls(lab)) as load:
            since = log_sizes(lab)
            watch.poll(LENGTH_S)
            renewals = logged(lab, "the certificate was renewed", since)
            ended = logged(lab, "the session ended", since)
            print(f"{len(renewals)} renewals, {len(ended)} sessions ended, {watch.n_polls} commands")
            assert len(renewals) >= 3 * (LENGTH_S // LIFE_S)
            assert not ended
            for _ in range(3):
                began = time.monotonic()
                lab.docker("swarm", "ca", "--rotate", "--quiet")
                print(f"a rotation took {time.monotonic() - began:.1f} s")
                watch.poll(5, place=operator(lab, tmp_path))
            watch.poll(LIFE_S, place=operator(lab, tmp_path))  # All certificates once more.
            assert not logged(lab, "the session ended", since)
            load.end().check_none_failed()


def operator(lab: Lab, directory: Path) -> Path:
    """An operator's certificate, made anew."""
    place = directory / f"operator{time.monotonic_ns()}"
    socket = lab.layout.node("node1").socket
    words = ["-H", f"unix://{socket}", "swarm", "client-cert", "soak", "--directory", str(place)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return place


class Watch:
    """Commands again and again, and streams of events that must not end. Attributes: n_polls: commands so far."""

    def __init__(self, lab: Lab, place: Path, streams: "list[subprocess.Popen[str]]") -> None:
        self._lab = lab
        self._place = place
        self._streams = streams
        self.n_polls = 0

    def poll(self, length_s: float, *, place: Path | None = None) -> None:
        """Ask by both listeners for so long; every answer has to be whole."""
        self._place = place or self._place
        until = time.monotonic() + length_s
        while time.monotonic() < until:
            for node in self._lab.nodes[: self._lab.layout.manager_count]:
                assert self._lab.docker("node", "ls", node=node.name).count(" Ready ") == 3
                assert "who" in self._lab.run("client", *over_tls(self._place, node.underlay), "service", "ls")
                self.n_polls += 2
            assert all(stream.poll() is None for stream in self._streams), "a stream of events ended"
            time.sleep(0.5)


def over_tls(place: Path, address: str) -> list[str]:
    files = [f"--tls{kind}={place / file}" for kind, file in
             (("cacert", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem"))]  # fmt: skip
    return ["docker", "--tlsverify", *files, "-H", f"tcp://{address}:2376"]


@contextlib.contextmanager
def watching(lab: Lab, place: Path) -> Iterator[Watch]:
    """Streams of events by both listeners while the body runs; what happens meanwhile has to arrive on both."""
    socket = lab.layout.node("node1").socket
    lines = [
        ["docker", "-H", f"unix://{socket}", "events"],
        nodes.exec_command(lab.layout, "client", [*over_tls(place, "192.168.77.1"), "events"]),
    ]
    streams = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for line in lines]
    try:
        yield Watch(lab, place, streams)
        lab.docker("service", "update", "--detach", "--label-add", "seen=last", "who")
        time.sleep(2)
        for stream in streams:
            stream.terminate()
            assert "service update" in stream.communicate(timeout=10)[0]
    finally:
        for stream in streams:
            stream.kill()
            stream.wait()
