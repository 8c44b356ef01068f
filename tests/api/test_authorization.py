"""Every route, called by every kind of caller, against the table users read."""

import asyncio
import datetime
import os
import re
import socket
import ssl
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.api import authorization
from tests.fakes.live import LiveNode
from tests.identities import CLUSTER_ID, Authorities

from skep.api import routes
from skep.api.authorize import CallerKind
from skep.api.backend import InitRequest
from skep.api.server import ApiServer
from skep.edge import tls, tls_context
from skep.model.identity import Credentials
from skep.model.node import Role

pytestmark = pytest.mark.anyio

NOT_LET_IN = None
CALLERS: dict[str, CallerKind | None] = {
    "nobody": CallerKind.NOBODY,
    "self-signed": NOT_LET_IN,
    "other CA": NOT_LET_IN,
    "other CA's operator": NOT_LET_IN,
    "other swarm": NOT_LET_IN,
    "expired": NOT_LET_IN,
    "expired operator": NOT_LET_IN,
    "removed node": NOT_LET_IN,
    "worker": CallerKind.WORKER,
    "other worker": CallerKind.WORKER,
    "manager": CallerKind.MANAGER,
    "operator": CallerKind.OPERATOR,
}
GROUP, GROUP_ID, USER_ID = "daemon", 1, 65534


@dataclass
class Served:
    """A server on a socket and on TCP."""

    socket: Path
    port: int
    authorities: Authorities


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    return Authorities()


@pytest.fixture
async def served(anyio_backend: str, authorities: Authorities) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)  # Whoever is in the group has to get to the socket.
        node = LiveNode(Path(directory))
        server = ApiServer(node, node.clock)
        path = Path(directory) / "docker.sock"
        await server.start_unix(path, GROUP)
        await node.init_swarm(InitRequest(advertise_addr="192.0.2.1"))
        credentials = authorities.make("server", Role.MANAGER)
        context = tls_context.server_context(credentials, oldest=ssl.TLSVersion.TLSv1_2)
        trust = tls.Trust(CLUSTER_ID, lambda node_id: node_id == "removed", admits_operators=True)
        port = await server.start_tls("127.0.0.1", 0, lambda: context, trust)
        yield Served(path, port, authorities)
        await server.close()
        if node.swarm is not None:  # Some test left it by the route for that.
            await node.leave_swarm(is_forced=True)


def self_signed() -> Credentials:
    """A certificate that says all the right things and was signed by its own key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pairs = (
        (NameOID.ORGANIZATION_NAME, CLUSTER_ID),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-operator"),
        (NameOID.COMMON_NAME, "mallory"),
    )
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])
    now = datetime.datetime.now(datetime.UTC)
    certificate = x509.CertificateBuilder(
        subject_name=name,
        issuer_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=now - datetime.timedelta(hours=1),
        not_valid_after=now + datetime.timedelta(hours=1),
    ).sign(key, hashes.SHA256())
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    return Credentials(certificate=pem, key=encoded.decode(), root=pem)


def credentials_of(who: str, swarm: Authorities) -> Credentials | None:
    other = Authorities()
    match who:
        case "nobody":
            return None
        case "self-signed":
            return self_signed()
        case "other CA":
            return other.make("manager1", Role.MANAGER)
        case "other CA's operator":
            return other.operator("mallory")
        case "other swarm":
            return swarm.make("manager1", Role.MANAGER, cluster_id="another".ljust(25, "0"))
        case "expired":
            return swarm.make("manager1", Role.MANAGER, life_s=-60)
        case "expired operator":
            return swarm.operator("alice", life_s=-60)
        case "removed node":
            return swarm.make("removed", Role.MANAGER)
        case "worker" | "other worker":
            return swarm.make(who.replace(" ", ""))
        case "manager":
            return swarm.make("manager1", Role.MANAGER)
        case "operator":
            return swarm.operator("alice")
    raise AssertionError(who)


def concrete(path: str) -> str:
    return re.sub(r"\{\w+\}", "x1", re.sub(r"\{\w+\.\.\.\}", "a/b", path))


async def ask(session: aiohttp.ClientSession, method: str, url: str, **options: object) -> int | None:
    """The status; None where the connection is ended without an answer."""
    body = b"{}" if method in ("POST", "PUT") else None
    headers = {"Content-Type": "application/json"} if body else {}
    try:
        async with session.request(method, url, data=body, headers=headers, **options) as answer:  # type: ignore[arg-type]
            return answer.status
    except (aiohttp.ClientError, ConnectionError):
        return None


def test_the_page_is_what_the_routes_say() -> None:
    assert authorization.PAGE.read_text() == authorization.render(), "write it: python -m tests.api.authorization"
    assert [(route.method, route.path, route.access) for route in routes.ALL] == authorization.stated()


def test_a_worker_learns_nothing_but_that_the_daemon_is_there() -> None:
    open_to_workers = {(method, path) for method, path, access in authorization.stated() if CallerKind.WORKER in access}
    assert open_to_workers == {("GET", "/_ping"), ("HEAD", "/_ping"), ("GET", "/version")}
    assert not any(CallerKind.NOBODY in access for _, _, access in authorization.stated())


@pytest.mark.parametrize("who", CALLERS)
async def test_every_route_over_tcp(served: Served, who: str) -> None:
    kind = CALLERS[who]
    context = tls_context.client_context(served.authorities.authority.root_pem, credentials_of(who, served.authorities))
    context.check_hostname = False  # The server's certificate names no address here.
    wrong = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        for method, path, access in authorization.stated():
            url = f"https://127.0.0.1:{served.port}{concrete(path)}?until=1"
            status = await ask(session, method, url, ssl=context)
            if kind is NOT_LET_IN:
                is_right = status is None
            elif kind in access:
                is_right = status is not None and status not in (401, 403, 500)
            else:
                is_right = status == 403
            if not is_right:
                wrong.append((method, path, status))
    assert wrong == []


@contextmanager
def as_user(groups: list[int]) -> Iterator[None]:
    """Be an ordinary user of some groups, in this process, until the end of the block."""
    before = os.getgroups()
    os.setgroups(groups)
    os.seteuid(USER_ID)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setgroups(before)


def connected_as(path: Path, groups: list[int]) -> socket.socket:
    """A connection to the socket, opened with a user's rights."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with as_user(groups):
            connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


async def read_status(connection: socket.socket, method: str, path: str) -> int:
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(
        f"{method} {path}?until=1 HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\nConnection: close\r\n\r\n{}".encode()
    )
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
async def test_every_route_as_a_local_user_of_the_group(served: Served) -> None:
    wrong = []
    for method, path, access in authorization.stated():
        assert CallerKind.LOCAL in access
        status = await read_status(connected_as(served.socket, [GROUP_ID]), method, concrete(path))
        if status in (401, 403, 500):
            wrong.append((method, path, status))
    assert wrong == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
async def test_a_local_user_out_of_the_group_gets_no_connection(served: Served) -> None:
    with pytest.raises(PermissionError):
        connected_as(served.socket, [])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "127.0.0.1:2376"}, 200, id="an address"),
        pytest.param({"Host": "[::1]:2376"}, 200, id="an IPv6 address"),
        pytest.param({"Host": "ALPHA:2376"}, 200, id="its host name"),
        pytest.param({"Host": "swarm-manager"}, 200, id="its certificate's name"),
        pytest.param({"Host": "evil.example"}, 403, id="a name that was pointed here"),
        pytest.param({"Host": "127.0.0.1.evil.example:2376"}, 403, id="a name like an address"),
        pytest.param({"Host": ""}, 403, id="no name"),
        pytest.param({"Origin": "https://127.0.0.1:2376"}, 403, id="a web page"),
        pytest.param({"Origin": "null"}, 403, id="a web page of no origin"),
    ],
)
async def test_requests_that_web_pages_cause_are_refused(served: Served, headers: dict[str, str], status: int) -> None:
    operator = served.authorities.operator("alice")
    context = tls_context.client_context(served.authorities.authority.root_pem, operator)
    context.check_hostname = False
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{served.port}/nodes"
        async with session.get(url, headers=headers, ssl=context) as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("version", "is_spoken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
    ids=["1.1", "1.2", "1.3"],
)
async def test_versions_of_tls(served: Served, version: ssl.TLSVersion, is_spoken: bool) -> None:
    context = tls_context.client_context(served.authorities.authority.root_pem, served.authorities.operator("alice"))
    context.check_hostname = False
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Old versions are the point here.
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with aiohttp.ClientSession() as session:
        status = await ask(session, "GET", f"https://127.0.0.1:{served.port}/_ping", ssl=context)
    assert status == (200 if is_spoken else None)
