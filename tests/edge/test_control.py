"""The control port: what each kind of caller may ask, and what refusals look like at the other end."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from tests.identities import CLUSTER_ID, Authorities

from skep.agent.identity import new_key_request
from skep.core.identity import identity_of_pem
from skep.edge import tls_context
from skep.edge.control import ControlListener
from skep.edge.control_client import HttpControlPort
from skep.model.errors import InvalidSpec, Removed, Unavailable
from skep.model.identity import MANAGER_NAME, REFUSED, Credentials, Identity, Issued, JoinRequest, Proof, RenewRequest
from skep.model.node import Role
from skep.ports.transport import Channel, ChannelClosed, Declined, TransportError, Unreachable, Untrusted

pytestmark = pytest.mark.anyio
NESTED = b'{"token": "", "csr": "", "x": ' + b"[" * 30_000


@dataclass
class Service:
    """Lets in who says `right`; keeps what it was asked."""

    authorities: Authorities
    removed: set[str] = field(default_factory=set)
    demoted: set[str] = field(default_factory=set)
    asked: list[tuple[str, object]] = field(default_factory=list)

    def root(self) -> str:
        return self.authorities.authority.root_pem

    def is_removed(self, node_id: str) -> bool:
        return node_id in self.removed

    def is_demoted(self, node_id: str) -> bool:
        return node_id in self.demoted

    async def join(self, request: JoinRequest, *, address: str) -> Issued:
        self.asked.append((address, request))
        if request.token != "right":
            raise InvalidSpec(REFUSED)
        return self._issue("newcomer", request.csr)

    async def renew(self, identity: Identity, request: RenewRequest, *, address: str = "") -> Issued:
        self.asked.append((identity.node_id, request))
        if identity.node_id == "unlucky":
            raise Unavailable("not now")
        return self._issue(identity.node_id, request.csr)

    async def revive(self, request: RenewRequest, *, address: str = "") -> Issued:
        self.asked.append((address, request))
        if request.csr == "of a removed node":
            raise Removed("removed")
        return self._issue("sleeper", request.csr)

    async def serve(self, identity: Identity, channel: Channel) -> None:
        await channel.send(identity.node_id.encode())

    def _issue(self, node_id: str, csr: str) -> Issued:
        holder = Identity(node_id=node_id, role=Role.WORKER, cluster_id=CLUSTER_ID)
        return self.authorities.authority.issue(csr, holder, now=time.time_ns())


@dataclass
class Up:
    service: Service
    addr: str
    port: HttpControlPort = field(default_factory=HttpControlPort)

    @property
    def root(self) -> str:
        return self.service.root()

    async def status(self, method: str, path: str, credentials: Credentials | None, **options: object) -> int:
        context = tls_context.client_context(self.root, credentials)
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                f"https://{self.addr}{path}",
                ssl=context,
                server_hostname=MANAGER_NAME,
                **options,  # type: ignore[arg-type]  # aiohttp's options, passed on
            ) as response,
        ):
            return response.status


@pytest.fixture
async def up() -> AsyncIterator[Up]:
    authorities = Authorities()
    service = Service(authorities)
    own = authorities.make("manager1", Role.MANAGER)
    listener = ControlListener(service, lambda: own, CLUSTER_ID)
    port = await listener.start("127.0.0.1", 0)
    try:
        yield Up(service, f"127.0.0.1:{port}")
    finally:
        await listener.close()


async def test_the_root_is_given_to_anyone(up: Up) -> None:
    assert await up.port.root(up.addr) == up.root


async def test_a_newcomer_gets_a_certificate(up: Up) -> None:
    request = JoinRequest(token="right", csr=new_key_request().csr)
    issued = await up.port.join(up.addr, up.root, request)
    assert issued.root == up.root
    assert up.service.asked == [("127.0.0.1", request)]


async def test_a_refusal_reaches_the_newcomer_in_its_words(up: Up) -> None:
    with pytest.raises(Declined, match=REFUSED) as refused:
        await up.port.join(up.addr, up.root, JoinRequest(token="wrong", csr=""))
    assert refused.value.is_final
    assert not refused.value.is_removed


async def test_the_secret_is_not_sent_to_one_whom_the_root_did_not_certify(up: Up) -> None:
    with pytest.raises(Untrusted):
        await up.port.join(up.addr, Authorities().authority.root_pem, JoinRequest(token="right", csr=""))
    assert up.service.asked == []


async def test_a_node_renews_as_itself(up: Up) -> None:
    credentials = up.service.authorities.make("worker1")
    request = RenewRequest(csr=new_key_request().csr)
    await up.port.renew(up.addr, credentials, request)
    assert up.service.asked == [("worker1", request)]


async def test_a_manager_that_cannot_just_now_is_told_from_one_that_will_not(up: Up) -> None:
    credentials = up.service.authorities.make("unlucky")
    with pytest.raises(Declined, match="not now") as refused:
        await up.port.renew(up.addr, credentials, RenewRequest(csr=""))
    assert not refused.value.is_final


async def test_a_removed_node_is_told_so(up: Up) -> None:
    credentials = up.service.authorities.make("worker1")
    up.service.removed.add("worker1")
    with pytest.raises(Declined) as refused:
        await up.port.renew(up.addr, credentials, RenewRequest(csr=""))
    assert refused.value.is_removed
    assert up.service.asked == []


async def test_a_session_runs_under_the_certificates_name(up: Up) -> None:
    channel = await up.port.dial(up.addr, up.service.authorities.make("worker1"))
    assert await channel.receive() == b"worker1"
    with pytest.raises(ChannelClosed):
        await channel.receive()
    await channel.close()


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        # By caller: none, worker, removed.
        pytest.param("GET", "/ca", (200, 200, 200), id="root"),
        pytest.param("POST", "/join", (400, 400, 400), id="join"),
        pytest.param("POST", "/renew", (401, 400, 403), id="renew"),
        pytest.param("GET", "/session", (401, 400, 400), id="session-without-upgrade"),
        pytest.param("GET", "/other", (404, 404, 404), id="unknown"),
    ],
)
async def test_every_route_for_every_caller(up: Up, method: str, path: str, statuses: tuple[int, ...]) -> None:
    make = up.service.authorities.make
    up.service.removed.add("removed")
    callers = (None, make("worker1"), make("removed"))
    assert tuple([await up.status(method, path, caller, data=b"{}") for caller in callers]) == statuses


async def test_browsers_are_turned_away(up: Up) -> None:
    assert await up.status("GET", "/ca", None, headers={"Origin": "https://example.org"}) == 403


async def test_an_oversized_body_is_refused(up: Up) -> None:
    assert await up.status("POST", "/join", None, data=bytes(70_000)) == 413


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b'{"token": 1}', b'{"token": "\\ud800", "csr": ""}', b"\xff", b'{"token": "\xff", "csr": ""}', NESTED],
)
async def test_a_malformed_body_is_refused(up: Up, body: bytes) -> None:
    assert await up.status("POST", "/join", None, data=body) == 400
    assert up.service.asked == []


async def test_an_address_nobody_listens_at() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"127\.0\.0\.1:{port} cannot be reached: .*refused"):
        await HttpControlPort().root(f"127.0.0.1:{port}")


async def test_an_address_that_answers_nothing_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Unreachable, match="did not answer in time"):
            await HttpControlPort(answer_s=0.2).root(f"127.0.0.1:{silent.getsockname()[1]}")


async def test_an_address_that_speaks_no_tls() -> None:
    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(chatter, "127.0.0.1", 0)
    async with server:
        with pytest.raises((Untrusted, Unreachable)):
            await HttpControlPort().root(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")


@pytest.mark.parametrize("addr", ["", "no address", "127.0.0.1:port", "127.0.0.1:99999"])
async def test_what_is_no_address_is_named(addr: str) -> None:
    with pytest.raises(Unreachable):
        await HttpControlPort().root(addr)


async def test_only_managers_have_streams_relayed(up: Up) -> None:
    worker, manager = up.service.authorities.make("worker1"), up.service.authorities.make("manager2", Role.MANAGER)
    assert await up.status("GET", "/relay", None) == 401
    assert await up.status("GET", "/relay", worker) == 403
    up.service.demoted.add("manager2")
    assert await up.status("GET", "/relay", manager) == 403  # Its certificate is as good as ever, its node is not.
    up.service.demoted.clear()
    up.service.removed.add("manager2")
    assert await up.status("GET", "/relay", manager) == 403


async def test_a_proof_goes_without_the_certificate_that_has_ended(up: Up) -> None:
    sleeper = up.service.authorities.make("sleeper", life_s=-60)
    request, proof = new_key_request(), Proof(certificate=sleeper.certificate, signature=b"")
    with pytest.raises(TransportError):
        await up.port.renew(up.addr, sleeper, RenewRequest(csr=request.csr))
    issued = await up.port.renew(up.addr, sleeper, RenewRequest(csr=request.csr, proof=proof))
    assert identity_of_pem(issued.certificate).node_id == "sleeper"
    with pytest.raises(Declined) as refusal:
        await up.port.renew(up.addr, sleeper, RenewRequest(csr="of a removed node", proof=proof))
    assert refusal.value.is_removed
