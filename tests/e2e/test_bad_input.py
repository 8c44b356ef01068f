"""What cannot be meant or cannot be had is refused in one clear sentence, and leaves nothing half-made."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab, make_lab, wait_until

from skep.edge.unix_http import EngineRefused
from skep.lab import nodes, underlay

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]
CREATE = ("service", "create", "--quiet", "--no-resolve-image", "--stop-grace-period", "0s", "--detach")
CREATE_HEAD = b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SLEEP = ("x", "sleep", "600")
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
    "command on a manager node or promote the current node to a manager."
)


@pytest.fixture
def lab(process_lab: Lab) -> Iterator[Lab]:
    """The module's lab, without services and networks of other tests."""
    yield process_lab
    clear(process_lab)


def clear(lab: Lab) -> None:
    for service in lab.api("GET", "/services"):
        lab.api("DELETE", f"/services/{service['ID']}")
    wait_until(lambda: not lab.api("GET", "/services") and not lab.api("GET", "/tasks"), "tasks remain")
    for network in overlays(lab):
        if network["Name"] != "ingress":
            lab.api("DELETE", f"/networks/{network['Id']}")


def overlays(lab: Lab) -> list[dict[str, Any]]:
    return [network for network in lab.api("GET", "/networks") if network["Driver"] == "overlay"]


def refused(lab: Lab, *words: str, node: str = "node1") -> str:
    """Run the docker CLI, which must fail; returns its one line without the prefix."""
    done = lab.docker_process(*words, node=node)
    assert done.returncode != 0, f"docker {' '.join(words)} did not fail: {done.stdout}"
    line = done.stderr.strip().removesuffix("exit status 1").strip()
    assert "\n" not in line, line
    return line.removeprefix("Error response from daemon: ")


def tasks(lab: Lab, service: str) -> list[dict[str, Any]]:
    found = lab.api("GET", f'/tasks?filters={{"service":["{service}"]}}')
    return sorted(found, key=lambda task: task["CreatedAt"])


# --- specs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(("--name", "a b"), "name must be valid as a DNS name component", id="name"),
        pytest.param(("--constraint", "node.foo"), "constraint 'node.foo' expected one operator from ==, !=", id="con"),
        pytest.param(
            ("--network", "ingress"),
            'Service cannot be explicitly attached to the ingress network "ingress"',
            id="ingress network",
        ),
        pytest.param(
            ("--publish", "2377:80"),
            "port '2377' is already in use by the swarm itself (tcp); publish another",
            id="control port",
        ),
        pytest.param(
            ("-p", "81:80", "-p", "81:82"), "EndpointSpec: duplicate published ports provided", id="ports twice"
        ),
    ],
)
def test_a_spec_that_cannot_be_meant(lab: Lab, words: tuple[str, ...], sentence: str) -> None:
    assert refused(lab, *CREATE, *words, *SLEEP).startswith(sentence)
    assert lab.api("GET", "/services") == []


def test_a_network_there_is_not(lab: Lab) -> None:
    """Newer clients pass the daemon's sentence on, older ones have their own."""
    said = refused(lab, *CREATE, "--network", "nope", *SLEEP)
    assert said.startswith(("network nope not found", "Error: No such network: nope"))
    assert lab.api("GET", "/services") == []


def test_a_port_another_service_has(lab: Lab) -> None:
    id = lab.docker(*CREATE, "--name", "first", "-p", "9300:80", *SLEEP).strip()
    sentence = f"port '9300' is already in use by service 'first' ({id}) as an ingress port"
    assert refused(lab, *CREATE, "--name", "second", "-p", "9300:81", *SLEEP) == sentence
    lab.docker(*CREATE, "--name", "third", "-p", "9301:80", *SLEEP)
    assert refused(lab, "service", "update", "--detach", "--publish-add", "9300:80", "third") == sentence
    with pytest.raises(EngineRefused) as refusal:
        lab.api("POST", "/services/create", a_spec("fourth", 9300))
    assert refusal.value.status == 400


def a_spec(name: str, *ports: int) -> dict[str, Any]:
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "x", "Command": ["sleep", "600"], "StopGracePeriod": 0}},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": port} for port in ports]},
    }


@pytest.fixture
def host_program(process_lab: Lab) -> Iterator[int]:
    """A program of node1 itself that listens on a port."""
    line = nodes.exec_command(process_lab.layout, "node1", ["busybox", "nc", "-ll", "-p", "9310", "-e", "true"])
    program = subprocess.Popen(line)
    wait_until(lambda: "9310" in process_lab.run("node1", "ss", "-ltn"), "the program does not listen")
    yield 9310
    program.kill()
    program.wait()


def test_a_host_mode_port_a_program_of_the_node_has(lab: Lab, host_program: int) -> None:
    port = f"mode=host,published={host_program},target=80"
    lab.docker(*CREATE, "--name", "h", "--mode", "global", "--publish", port, *SLEEP)
    wait_until(lambda: states(lab, "h").count("running") == 2, "it does not run where the port is free")
    wait_until(lambda: "rejected" in states(lab, "h"), "the taken port is not noticed")
    shown = lab.docker("service", "ps", "--no-trunc", "h")
    assert f"failed to bind host port for 0.0.0.0:{host_program}:80/tcp: address already in use" in shown
    assert len(lab.run("node1", "ss", "-ltnH", f"sport = :{host_program}").splitlines()) == 1


def test_an_ingress_port_goes_before_a_program_of_the_node(lab: Lab, host_program: int) -> None:
    """As in Docker Swarm: every node answers for the service, also the one whose own program has the port."""
    command = ("busybox", "nc", "-ll", "-p", "80", "-e", "echo", "service")
    lab.docker(*CREATE, "--name", "i", "-p", f"{host_program}:80", "x", *command)
    address = lab.layout.node("node1").underlay
    line = f"busybox nc -w 2 {address} {host_program} </dev/null"
    wait_until(lambda: lab.run("client", "sh", "-c", line, check=False) == "service\n", "the service does not answer")
    lab.docker("service", "rm", "i")
    wait_until(lambda: lab.run("client", "sh", "-c", line, check=False) == "", "the program is not reached again")


def states(lab: Lab, service: str) -> list[str]:
    return [str(task["Status"]["State"]) for task in tasks(lab, service)]


def test_rejected_tasks_say_why_and_back_off(lab: Lab) -> None:
    lab.docker(*CREATE, "--name", "m", "--mount", "type=bind,source=/nope,target=/x", *SLEEP)
    wait_until(lambda: states(lab, "m").count("rejected") == 2, "it is not rejected, and prepared again")
    reason = 'invalid mount config for type "bind": bind source path does not exist: /nope'
    assert lab.docker("service", "ps", "--no-trunc", "m").count(f'"{reason}"') == 2
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert len(tasks(lab, "m")) == 2, "it is tried again before its delay is over"
        time.sleep(0.2)
    wait_until(lambda: len(tasks(lab, "m")) > 2, "it is not tried again", 5)
    lab.docker("service", "update", "--detach", "--mount-rm", "/x", "m")
    wait_until(lambda: "running" in states(lab, "m"), "the mended service does not run", 8)


# --- networks --------------------------------------------------------------------------------


def test_networks_that_cannot_be(lab: Lab) -> None:
    def create(*words: str) -> str:
        return refused(lab, "network", "create", "-d", "overlay", *words)

    assert create("--subnet", "10.300.0.0/24", "n").startswith("invalid subnet 10.300.0.0/24: invalid CIDR block")
    assert create("--subnet", "10.50.0.1/24", "n") == "invalid subnet 10.50.0.1/24: it should be 10.50.0.0/24"
    lab.docker("network", "create", "-d", "overlay", "--subnet", "10.50.0.0/24", "n")
    overlap = create("--subnet", "10.50.0.128/25", "m")
    assert overlap.startswith("Pool overlaps with other one on this address space: 10.50.0.128/25 overlaps")
    assert create("n") == "network with name n already exists"
    underlay_subnet = create("--subnet", "192.168.77.0/24", "m")
    assert underlay_subnet.startswith("invalid subnet 192.168.77.0/24: it contains 192.168.77.1, the address of node")
    assert sorted(network["Name"] for network in overlays(lab)) == ["ingress", "n"]
    service = lab.docker(*CREATE, "--name", "s", "--network", "n", *SLEEP).strip()
    network = next(network["Id"] for network in overlays(lab) if network["Name"] == "n")
    assert refused(lab, "network", "rm", "n").endswith(f"network {network} is in use by service {service}")
    with pytest.raises(EngineRefused) as refusal:
        lab.api("DELETE", f"/networks/{network}")
    assert refusal.value.status == 400


def test_a_full_subnet_is_refused_or_the_tasks_reason(lab: Lab) -> None:
    lab.docker("network", "create", "-d", "overlay", "--subnet", "10.60.0.0/29", "tiny")
    too_many = lab.docker_process(*CREATE, "--name", "full", "--replicas", "8", "--network", "tiny", *SLEEP)
    assert 'network "tiny" has 5 of 5 addresses left and this service needs 9' in too_many.stderr
    lab.docker(*CREATE, "--name", "full", "--replicas", "4", "--network", "tiny", *SLEEP)
    wait_until(lambda: states(lab, "full").count("running") == 4, "nothing runs")
    lab.docker("service", "update", "--detach", "--update-order", "start-first", "--env-add", "A=b", "full")
    reason = 'no address is left in network "tiny" (10.60.0.0/29)'
    wait_until(lambda: reason in lab.docker("service", "ps", "--no-trunc", "full"), "the reason is not shown")
    assert states(lab, "full").count("running") == 4


# --- requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        pytest.param("POST", "/services/create", b"{", 400, "invalid JSON: ", id="malformed"),
        pytest.param("POST", "/services/create", b"", 400, "invalid JSON: got EOF", id="empty"),
        pytest.param("POST", "/services/create", b'{"Name":"\xff"}', 400, "invalid JSON: ", id="not UTF-8"),
        pytest.param("POST", "/services/create", b"[" * 200_000, 400, "invalid JSON: ", id="deep"),
        pytest.param("POST", "/services/create", b'{"Name":7}', 400, "invalid request body: ", id="type"),
        pytest.param("POST", "/services/create", b"null", 400, "", id="null"),
        pytest.param("POST", "/networks/create", b"[]", 400, "", id="list"),
        pytest.param("GET", "/services?filters=%7B", b"", 400, "invalid filter", id="malformed filter"),
        pytest.param("GET", "/services?filters=%7B%22a%22:[%22b%22]%7D", b"", 400, "invalid filter 'a'", id="unknown"),
        pytest.param("GET", "/tasks?filters=%7B%22a%22:[%22b%22]%7D", b"", 400, "invalid filter 'a'", id="of tasks"),
        pytest.param("GET", "/nodes?filters=%7B%22a%22:[%22b%22]%7D", b"", 400, "invalid filter 'a'", id="of nodes"),
        pytest.param("GET", "/networks?filters=%7B%22a%22:[%22b%22]%7D", b"", 400, "invalid filter 'a'", id="of nets"),
        pytest.param("GET", "/v9.99/services", b"", 400, "client version 9.99 is too new.", id="too new"),
        pytest.param("GET", "/v1.1/services", b"", 400, "client version 1.1 is too old.", id="too old"),
        pytest.param("GET", "/nonsense", b"", 404, "page not found", id="path"),
        pytest.param("DELETE", "/services", b"", 404, "page not found", id="method"),
        pytest.param("POST", "/services/x/update?version=1", b"{}", 404, "service x not found", id="absent"),
        pytest.param("GET", "/services/" + "x" * 70_000, b"", 400, "", id="long"),
    ],
)
def test_a_bad_request(lab: Lab, method: str, path: str, body: bytes, status: int, sentence: str) -> None:
    given, message = exchange(lab, method, path, body)
    assert (given, message[: len(sentence)]) == (status, sentence)
    assert message
    assert "\n" not in message


def connect(lab: Lab, node: str = "node1") -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(lab.layout.node(node).socket))  # Blocking: a full backlog is waited for.
    client.settimeout(15)
    return client


def exchange(lab: Lab, method: str, path: str, body: bytes) -> tuple[int, str]:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n" if body else "\r\n"
    with connect(lab) as client:
        try:
            client.sendall(head.encode() + body)
        except BrokenPipeError:
            pass  # It was refused before it was sent in full.
        return read_answer(client)


def read_answer(client: socket.socket) -> tuple[int, str]:
    raw = b""
    while part := client.recv(65536):
        raw += part
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), str(json.loads(body)["message"])


def test_an_oversized_body_is_refused_without_being_read(lab: Lab) -> None:
    with connect(lab) as client:
        client.sendall(CREATE_HEAD + b"Content-Length: 99999999999\r\n\r\n{")
        status, message = read_answer(client)
    assert status == 413
    assert message


def test_an_endless_body_is_cut(lab: Lab) -> None:
    with connect(lab) as client:
        client.sendall(CREATE_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert is_cut_within(client, 8)


def is_cut_within(client: socket.socket, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            client.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_half_sent_requests_are_closed_and_disturb_nobody(lab: Lab) -> None:
    with contextlib.ExitStack() as clients:
        began = time.monotonic()
        for begun in (b"", b"GET /serv", b"GET /info HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01"):
            client = clients.enter_context(connect(lab))
            client.sendall(begun)
            clients.callback(_wait_closed, client, began + 6.5)
        assert lab.docker_process("info").returncode == 0


def _wait_closed(client: socket.socket, deadline: float) -> None:
    while client.recv(65536):
        pass
    assert time.monotonic() < deadline


def test_many_idle_connections_do_not_keep_others_out(lab: Lab) -> None:
    clients = [connect(lab) for _ in range(300)]
    try:
        began = time.monotonic()
        assert lab.docker_process("node", "ls").returncode == 0
        assert time.monotonic() - began < 2
    finally:
        for client in clients:
            client.close()


def test_a_stale_version(lab: Lab) -> None:
    id = lab.api("POST", "/services/create", a_spec("s"))["ID"]
    version = lab.api("GET", f"/services/{id}")["Version"]["Index"]
    for replicas in (1, 2):
        spec = {**a_spec("s"), "Mode": {"Replicated": {"Replicas": replicas}}}
        current = lab.api("GET", f"/services/{id}")["Version"]["Index"]
        lab.api("POST", f"/services/{id}/update?version={current}", spec)
    with pytest.raises(EngineRefused) as refusal:
        lab.api("POST", f"/services/{id}/update?version={version}", a_spec("s"))
    assert (refusal.value.status, refusal.value.message) == (
        500,
        "rpc error: code = Unknown desc = update out of sequence",
    )
    assert lab.api("GET", f"/services/{id}")["Spec"]["Mode"]["Replicated"]["Replicas"] == 2


def test_a_name_another_service_has(lab: Lab) -> None:
    lab.docker(*CREATE, "--name", "s", *SLEEP)
    conflict = "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service s already exists"
    assert refused(lab, *CREATE, "--name", "s", *SLEEP) == conflict
    with pytest.raises(EngineRefused) as refusal:
        lab.api("POST", "/services/create", a_spec("s"))
    assert refusal.value.status == 409


@pytest.mark.parametrize(
    "words",
    [
        ("node", "ls"),
        ("service", "ls"),
        ("service", "create", "x"),
        ("service", "inspect", "x"),
        ("node", "update", "--availability", "drain", "node1"),
        ("swarm", "join-token", "worker"),
        ("network", "create", "-d", "overlay", "x"),
    ],
    ids=" ".join,
)
def test_a_worker_is_asked_a_managers_question(lab: Lab, words: tuple[str, ...]) -> None:
    done = lab.docker_process(*words, node="node2")
    assert done.returncode == 1
    assert WORKER in done.stderr


# --- joining ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes: the first a swarm of its own with a small address pool, the second in none."""
    for lab in make_lab(tmp_path_factory.mktemp("loners") / "l", node_count=2, is_joined=False):
        pool = ("--default-addr-pool", "10.20.0.0/27", "--default-addr-pool-mask-length", "28")
        lab.docker("swarm", "init", *pool)
        yield lab


def join(lab: Lab, token: str, address: str = "192.168.77.1:2377") -> str:
    """Try to join node2, which must fail soon and leave it as it was."""
    began = time.monotonic()
    sentence = refused(lab, "swarm", "join", "--token", token, address, node="node2")
    assert time.monotonic() - began < 8
    assert lab.api("GET", "/info", node="node2")["Swarm"]["LocalNodeState"] == "inactive"
    assert not (lab.layout.node("node2").data_dir / "swarm").exists()
    assert len(lab.api("GET", "/nodes")) == 1
    return sentence


def test_joins_that_cannot_succeed(loners: Lab) -> None:
    token = loners.docker("swarm", "join-token", "-q", "worker").strip()
    prefix, version, digest, secret = token.split("-")
    wrong = "1" if secret[-1] != "1" else "2"
    assert join(loners, token[:-1] + wrong).endswith("A valid join token is necessary to join this cluster")
    assert join(loners, "abc") == "invalid join token"
    other = "1" if digest[0] != "1" else "2"
    fingerprint = join(loners, "-".join((prefix, version, other + digest[1:], secret)))
    assert fingerprint.startswith("remote CA does not match fingerprint. Expected: ")
    nobody = join(loners, token, "192.168.77.1:2399")
    assert nobody.startswith("the manager at 192.168.77.1:2399 cannot be reached: Connection refused")
    assert join(loners, token, "192.168.77.99:2377").startswith("the manager at 192.168.77.99:2377 cannot be reached")


def test_joining_through_a_manager_that_does_not_answer(loners: Lab) -> None:
    token = loners.docker("swarm", "join-token", "-q", "worker").strip()
    first = loners.layout.node("node1")
    nodes.freeze_node(first, is_frozen=True)
    try:
        began = time.monotonic()
        sentence = refused(loners, "swarm", "join", "--token", token, "192.168.77.1:2377", node="node2")
        assert sentence.startswith("the manager at 192.168.77.1:2377 did not answer in time")
        assert time.monotonic() - began < 8
    finally:
        nodes.freeze_node(first, is_frozen=False)
    assert loners.api("GET", "/info", node="node2")["Swarm"]["LocalNodeState"] == "inactive"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--advertise-addr", "203.0.113.9"), "203.0.113.9 is not an address of this machine (192.168.77.2)"),
        (("--advertise-addr", "nodev"), '"nodev" is neither an address nor an interface with one'),
        (("--listen-addr", "0.0.0.0:99999"), '"0.0.0.0:99999" has no valid port'),
        (("--data-path-port", "80"), "swarm: data path port must be in the range 1024-49151"),
        (("--default-addr-pool", "10.20.0.0/28"), "invalid CIDR: subnet size 24 must be equal to or greater"),
        (("--cert-expiry", "1m"), "minimum certificate expiry time is: 1h0m0s"),
    ],
)
def test_a_swarm_that_cannot_be_made(loners: Lab, words: tuple[str, ...], sentence: str) -> None:
    assert refused(loners, "swarm", "init", *words, node="node2").startswith(sentence)
    assert loners.api("GET", "/info", node="node2")["Swarm"]["LocalNodeState"] == "inactive"


def test_a_taken_control_port_leaves_no_half_swarm(loners: Lab) -> None:
    line = nodes.exec_command(loners.layout, "node2", ["busybox", "nc", "-ll", "-p", "2377", "-e", "true"])
    program = subprocess.Popen(line)
    try:
        wait_until(lambda: "2377" in loners.run("node2", "ss", "-ltn"), "the program does not listen")
        assert "cannot listen on 0.0.0.0:2377: Address already in use" in refused(loners, "swarm", "init", node="node2")
    finally:
        program.kill()
        program.wait()
    assert loners.api("GET", "/info", node="node2")["Swarm"]["LocalNodeState"] == "inactive"
    assert not (loners.layout.node("node2").data_dir / "swarm").exists()


def test_an_exhausted_pool_refuses_the_next_network(loners: Lab) -> None:
    create = ("network", "create", "-d", "overlay")
    loners.docker(*create, "one")  # The ingress network has the first of two subnets.
    sentence = refused(loners, *create, "two")
    assert sentence.startswith("could not find an available, non-overlapping IPv4 address pool among the defaults")
    assert "no /28 is left in 10.20.0.0/27" in sentence
    loners.docker("network", "rm", "one")
    loners.docker(*create, "two")
    loners.docker(*CREATE, "--name", "s", "--network", "two", *SLEEP)
    wait_until(lambda: "running" in states(loners, "s"), "the freed subnet is not used")
    clear(loners)


def test_a_service_that_does_not_fit_its_network_is_refused(loners: Lab) -> None:
    loners.docker("network", "create", "-d", "overlay", "--subnet", "10.21.0.0/30", "tiny")
    sentence = refused(loners, *CREATE, "--name", "s", "--network", "tiny", *SLEEP)
    assert sentence.startswith('could not find an available IP: network "tiny" has 1 of 1 addresses left')
    clear(loners)


def test_a_node_that_is_cut_off_says_so(loners: Lab) -> None:
    token = loners.docker("swarm", "join-token", "-q", "worker").strip()
    underlay.set_link(loners.layout, loners.layout.node("node2"), is_up=False)
    try:
        assert "cannot be reached" in join(loners, token)
    finally:
        underlay.set_link(loners.layout, loners.layout.node("node2"), is_up=True)


# --- an image -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def podman_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from make_lab(tmp_path_factory.mktemp("image") / "l", engine="podman", node_count=1)


def test_an_unknown_image(podman_node: Lab) -> None:
    podman_node.docker(*CREATE, "--name", "s", "localhost/no/such:image")
    wait_until(lambda: "rejected" in states(podman_node, "s"), "it is not rejected")
    shown = podman_node.docker("service", "ps", "--no-trunc", "s")
    assert '"No such image: localhost/no/such:image' in shown
    words = ("service", "create", "--name", "t", "--no-resolve-image", "localhost/no/such:image")
    with pytest.raises(subprocess.TimeoutExpired) as waiting:
        podman_node.docker_process(*words, timeout_s=4)
    assert b"No such image" in (waiting.value.stdout or b"")
    clear(podman_node)


# --- the daemon's start ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a living daemon", "a file", "a directory"])
def test_a_socket_path_that_is_taken(lab: Lab, tmp_path: Path, what: str) -> None:
    path = lab.layout.node("node3").socket if what == "a living daemon" else tmp_path / "taken"
    if what == "a file":
        path.write_text("precious")
    if what == "a directory":
        path.mkdir()
    done = daemon(tmp_path, "--socket", str(path))
    assert done.returncode == 1
    sentence = (
        f"another daemon listens on {path}" if what == "a living daemon" else f"{path} exists and is not a socket"
    )
    assert sentence in done.stdout
    assert len(done.stdout.splitlines()) == 1
    if what == "a file":
        assert path.read_text() == "precious"
    assert lab.docker_process("info", node="node3").returncode == 0


def test_directories_that_are_taken(lab: Lab, tmp_path: Path) -> None:
    taken = daemon(tmp_path, "--data-dir", str(lab.layout.node("node3").data_dir))
    assert "is in use by another skepd" in taken.stdout
    (tmp_path / "file").touch()
    file = daemon(tmp_path, "--data-dir", str(tmp_path / "file"))
    assert "cannot be used as a directory: File exists" in file.stdout
    long = daemon(tmp_path, "--socket", str(tmp_path / ("x" * 120)))
    assert "AF_UNIX path too long" in long.stdout
    for done in (taken, file, long):
        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == 1


def daemon(directory: Path, *words: str, within_s: float = 20) -> "subprocess.CompletedProcess[str]":
    """Run a daemon outside every lab that is to give up at once; what is not given is inside `directory`."""
    line = daemon_line(directory, *words)
    return subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=within_s)


def daemon_line(directory: Path, *words: str) -> list[str]:
    places = {
        "--engine": "process",
        "--data-dir": str(directory / "data"),
        "--run-dir": str(directory / "run"),
        "--socket": str(directory / "s"),
    }
    places.update(zip(words[::2], words[1::2], strict=True))
    return [sys.executable, "-m", "skep.daemon", *(word for pair in places.items() for word in pair)]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    running = subprocess.Popen(daemon_line(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(path), "the daemon does not answer on it")
    finally:
        running.terminate()
        assert running.wait(10) == 0
    assert not path.exists()


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            return b"200" in client.recv(100)
        except OSError:
            return False


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    """Podman is hidden in a mount namespace of its own."""
    hide = 'mount --make-rprivate / && mount --bind /dev/null "$(command -v podman)" && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", hide, "sh", *daemon_line(tmp_path, "--engine", "podman")]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    assert done.returncode == 1
    assert "podman is not complete here: install the packages podman, conmon and runc" in done.stdout
    assert len(done.stdout.splitlines()) == 1
