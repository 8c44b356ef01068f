"""Any request at all against a real server over a live swarm: an answer in time, and none that is our fault."""

import asyncio
import http.client
import json
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.live import LiveNode
from tests.fuzz.damage import VALUES, WORDS, damaged, mutated
from tests.fuzz.rounds import brief, lasting, rounds

from skep.api import routes
from skep.api.backend import InitRequest
from skep.api.call import Route
from skep.api.errors import STALE
from skep.api.server import ApiServer
from skep.edge.unix_connection import UnixConnection

ANSWER_S = 20.0
LEFT_OUT = {("POST", "/swarm/leave"), ("POST", "/swarm/join"), ("POST", "/swarm/init")}
"""They end the swarm under test, or say that there is one already."""
SERVICE: dict[str, Any] = {
    "Name": "web",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "nginx:1",
            "Args": ["x"],
            "Env": ["A=1"],
            "User": "1:1",
            "Hosts": ["10.0.0.1 a"],
            "Hostname": "{{.Node.Hostname}}",
            "StopGracePeriod": 10**9,
            "Init": True,
            "CapabilityAdd": ["NET_ADMIN"],
            "Mounts": [
                {"Type": "volume", "Source": "data", "Target": "/data", "VolumeOptions": {"Labels": {"a": "b"}}}
            ],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "Retries": 3},
            "DNSConfig": {"Nameservers": ["10.0.0.1"]},
            "Sysctls": {"net.core.somaxconn": "1"},
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "Configs": [],
            "Secrets": None,
        },
        "Resources": {
            "Limits": {"NanoCPUs": 10**9, "MemoryBytes": 2**26, "Pids": 5},
            "Reservations": {"GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]},
        },
        "RestartPolicy": {"Condition": "any", "Delay": 10**9, "MaxAttempts": 3, "Window": 0},
        "Placement": {
            "Constraints": ["node.role==worker"],
            "MaxReplicas": 2,
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.z"}}],
            "Platforms": [{"Architecture": "x86_64", "OS": "linux"}],
        },
        "Networks": [{"Target": "ingress", "Aliases": ["a"]}],
        "ForceUpdate": 0,
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {
        "Parallelism": 1,
        "Delay": 10**9,
        "FailureAction": "rollback",
        "MaxFailureRatio": 0.1,
        "Order": "start-first",
    },
    "RollbackConfig": {"Parallelism": 1},
    "EndpointSpec": {
        "Mode": "vip",
        "Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}],
    },
}
NETWORK = {
    "Name": "net",
    "Driver": "overlay",
    "Attachable": True,
    "Options": {"encrypted": ""},
    "Labels": {},
    "EnableIPv6": False,
    "IPAM": {
        "Driver": "default",
        "Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1", "IPRange": "10.9.0.0/25"}],
    },
}
SWARM = {
    "Name": "default",
    "Labels": {},
    "Orchestration": {"TaskHistoryRetentionLimit": 5},
    "Raft": {"SnapshotInterval": 1},
    "Dispatcher": {"HeartbeatPeriod": 5 * 10**9},
    "CAConfig": {"NodeCertExpiry": 7776 * 10**12},
    "EncryptionConfig": {"AutoLockManagers": False},
    "TaskDefaults": {},
}
BODIES: dict[str, Any] = {
    "/services/create": SERVICE,
    "/services/{id}/update": SERVICE,
    "/networks/create": NETWORK,
    "/networks/{id}/connect": {"Container": "x", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}},
    "/swarm/update": SWARM,
    "/swarm/operators": {"Name": "alice", "CSR": "-----BEGIN CERTIFICATE REQUEST-----\n", "Expiry": 0},
    "/skep/join-tokens": {"Role": "worker", "Expiry": 3600 * 10**9, "Uses": 3},
    "/swarm/unlock": {"UnlockKey": "SWMKEY-1-x"},
    "/nodes/{id}/update": {"Name": "n", "Role": "manager", "Availability": "active", "Labels": {"a": "b"}},
    "/secrets/create": {"Name": "s", "Data": "eA==", "Labels": {}, "Templating": {"Name": "golang"}},
    "/configs/create": {"Name": "c", "Data": "eA==", "Labels": {}},
}
FILTERS = (
    "id",
    "name",
    "label",
    "node",
    "service",
    "role",
    "mode",
    "desired-state",
    "driver",
    "scope",
    "type",
    "dangling",
)
PARAMETERS = (
    "version",
    "force",
    "status",
    "insertDefaults",
    "verbose",
    "scope",
    "rollback",
    "registryAuthFrom",
    "since",
    "tail",
    "stdout",
    "details",
    "timestamps",
    "limit",
    "all",
    "rotateWorkerToken",
    "condition",
    "x",
)
REFERENCES = (
    "web",
    "self",
    "ingress",
    "manager".ljust(25, "0"),
    "web.1",
    "a" * 64,
    "a" * 64 + "." + "b" * 25,
    "..",
    "m",
)

filters = st.one_of(
    st.dictionaries(st.sampled_from(FILTERS), st.one_of(st.lists(WORDS, max_size=2), VALUES), max_size=3),
    st.dictionaries(st.sampled_from(FILTERS), st.dictionaries(WORDS, st.booleans(), max_size=2), max_size=2),
    VALUES,
).map(json.dumps)


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    """A request to one of the routes that is nearly right."""
    route: Route = draw(st.sampled_from([each for each in routes.ALL if (each.method, each.path) not in LEFT_OUT]))

    def reference(_: "re.Match[str]") -> str:
        return quote(draw(st.one_of(st.sampled_from(REFERENCES), WORDS)).encode(errors="surrogatepass"), safe="") or "x"

    path = re.sub(r"\{\w+(\.\.\.)?\}", reference, route.path)
    values = st.one_of(st.sampled_from(["1", "0", "true", "all", "10", "1760000000.5"]), WORDS, VALUES.map(str))
    query = {key: draw(values) for key in draw(st.lists(st.sampled_from(PARAMETERS), max_size=3, unique=True))}
    if draw(st.booleans()):
        query["filters"] = draw(st.one_of(filters, WORDS))
    query["until"] = "1"  # Nothing is followed for ever.
    pairs = "&".join(f"{key}={quote(value.encode(errors='surrogatepass'), safe='')}" for key, value in query.items())
    version = draw(st.sampled_from(["", "/v1.24", "/v1.41", "/v1.51", "/v1.51", "/v1.51"]))
    body, headers = None, {}
    if route.method in ("POST", "PUT"):
        document = draw(st.one_of(damaged(BODIES.get(route.path, {"a": 1})), VALUES))
        raw = json.dumps(document).encode()
        body = draw(st.one_of(st.just(raw), st.just(raw), mutated(st.just(raw), 2), st.binary(max_size=20)))
        headers = {"Content-Type": draw(st.sampled_from(["application/json", "application/json", "text/plain"]))}
    return Asked(route.method, f"{version}{path}?{pairs}", body, headers)


class Daemon:
    """A server in a thread of its own; everything it complains of is kept."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "docker.sock"
        self.complaints: list[object] = []
        self._directory = directory
        self._is_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        self._end = asyncio.Event()
        node = LiveNode(self._directory)
        server = ApiServer(node, node.clock)
        await node.init_swarm(InitRequest(advertise_addr="192.0.2.1"))
        await server.start_unix(self.socket)
        self._is_up.set()
        await self._end.wait()
        await server.close()
        await node.leave_swarm(is_forced=True)

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server does not stop"
        self._loop.close()

    def ask(self, request: Asked) -> tuple[int, bytes]:
        connection = UnixConnection(str(self.socket), ANSWER_S)
        try:
            connection.request(request.method, request.target, request.body, dict(request.headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    def keep(_: object, level: str, event: dict[str, Any]) -> str:
        if level in ("exception", "error", "critical"):
            made.complaints.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()["processors"]
    with tempfile.TemporaryDirectory() as directory:
        made = Daemon(Path(directory))
        structlog.configure(processors=[keep])
        try:
            made.start()
            yield made
            made.stop()
        finally:
            structlog.configure(processors=before)


def check(daemon: Daemon, request: Asked) -> None:
    """Ask; 500 is right only where Docker's clients look for it, 501 and 503 say what there is not here."""
    status, raw = daemon.ask(request)
    is_stale = status == 500 and json.loads(raw)["message"] == STALE
    assert status < 500 or status in (501, 503) or is_stale, (status, raw[:300])
    if status >= 400 and request.method != "HEAD":
        assert isinstance(json.loads(raw)["message"], str)
    assert daemon.complaints == []


@lasting
def test_any_request_is_answered(daemon: Daemon) -> None:
    @brief(250)
    @given(request=asked())
    def target(request: Asked) -> None:
        check(daemon, request)

    rounds(target)


@lasting
def test_any_service_is_accepted_or_refused(daemon: Daemon) -> None:
    """As above, with bodies that come further: what is accepted is removed again."""

    plain = {**SERVICE, "EndpointSpec": {"Mode": "vip"}, "TaskTemplate": {**SERVICE["TaskTemplate"], "Networks": []}}

    @brief(150)
    @given(spec=damaged(plain))
    def target(spec: Any) -> None:
        request = Asked("POST", "/services/create", json.dumps(spec).encode(), {"Content-Type": "application/json"})
        check(daemon, request)
        check(daemon, Asked("GET", "/services?status=true"))
        for service in json.loads(daemon.ask(Asked("GET", "/services"))[1]):
            check(daemon, Asked("DELETE", f"/services/{service['ID']}"))

    rounds(target)


@lasting
def test_anything_sent_to_the_socket_is_answered_or_ended(daemon: Daemon) -> None:
    """Bytes that are hardly HTTP: the daemon answers the next request as if nothing had been."""
    heads = st.sampled_from(
        [
            b"GET /_ping HTTP/1.1\r\nHost: n\r\n\r\n",
            b"POST /services/create HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\n{}",
            b"POST /services/create HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b"GET /v1.51/services?filters=%7B%7D HTTP/1.0\r\n\r\n",
            b"POST /exec/x/start HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        ]
    )

    @brief(100)
    @given(raw=mutated(heads, 6))
    def target(raw: bytes) -> None:
        connection = UnixConnection(str(daemon.socket), ANSWER_S)
        connection.connect()
        try:
            connection.sock.sendall(raw)
            connection.sock.shutdown(1)
            while connection.sock.recv(65_536):
                pass
        except (ConnectionError, http.client.HTTPException):
            pass  # It was cut off.
        finally:
            connection.close()
        check(daemon, Asked("GET", "/version"))

    rounds(target)
