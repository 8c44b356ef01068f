"""A node's certificate over time: renewed in good time, after its end, and when the swarm changes its root."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from tests.identities import CLUSTER_ID, Authorities
from tests.sessions import QuickClock, SystemDice, until

from skep.agent.certificate import CertificateKeeper
from skep.agent.identity import NodeIdentity
from skep.core import trust
from skep.manager.ca import CertificateAuthority
from skep.manager.control.authority import changed
from skep.manager.seal import DataKey, Seal
from skep.model.cluster import Authority, CAConfig
from skep.model.identity import Credentials, Identity, Issued, JoinRequest, RenewRequest
from skep.model.node import Role
from skep.ports.transport import Channel, Declined, TransportError, Unreachable

pytestmark = pytest.mark.anyio
SEAL = Seal(DataKey.of(b"\x07" * 32))


@dataclass
class Issuer:
    """A manager that certifies, or raises what `refusal` says of the request. Implements `ControlPort`."""

    authority: CertificateAuthority
    asked: list[RenewRequest] = field(default_factory=list)
    refusal: Callable[[RenewRequest], TransportError | None] = lambda _: None

    async def renew(self, addr: str, credentials: Credentials, request: RenewRequest) -> Issued:
        self.asked.append(request)
        if (refusal := self.refusal(request)) is not None:
            raise refusal
        holder = Identity(node_id="n1", role=Role.WORKER, cluster_id=CLUSTER_ID)
        return self.authority.issue(request.csr, holder, now=time.time_ns())

    async def root(self, addr: str) -> str:
        raise NotImplementedError

    async def join(self, addr: str, root_pem: str, request: JoinRequest) -> Issued:
        raise NotImplementedError

    async def dial(self, addr: str, credentials: Credentials) -> Channel:
        raise NotImplementedError


@dataclass
class Rig:
    authorities: Authorities = field(default_factory=Authorities)
    clock: QuickClock = field(default_factory=QuickClock)
    kept: list[Credentials] = field(default_factory=list)
    life_s: float = 3600

    def __post_init__(self) -> None:
        made = self.authorities.make("n1", life_s=self.life_s)
        self.identity = NodeIdentity(made, self.kept.append, lambda: 0.5)
        self.issuer = Issuer(self.authorities.authority)
        self.keeper = CertificateKeeper(self.identity, lambda: ["m1:2377"], self.issuer, self.clock, SystemDice())

    @property
    def settled(self) -> Authority:
        return self.authorities.authority.sealed(SEAL)


@contextlib.asynccontextmanager
async def kept(rig: Rig) -> AsyncIterator[Rig]:
    running = asyncio.ensure_future(rig.keeper.run())
    try:
        yield rig
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_one_that_lives_is_renewed_with_itself_and_one_that_has_ended_with_a_proof() -> None:
    rig = Rig()
    rig.clock.ahead = rig.identity.renew_at - time.time_ns()
    async with kept(rig):
        await until(lambda: len(rig.issuer.asked) == 1)
    assert rig.issuer.asked[0].proof is None
    rig = Rig(life_s=-1)
    async with kept(rig):
        await until(lambda: rig.kept)
    assert rig.issuer.asked[0].proof is not None
    assert rig.keeper.held.serial == rig.identity.identity.serial


async def test_one_that_no_manager_talks_to_shows_a_proof_for_its_clock_may_be_slow() -> None:
    rig = Rig()
    rig.clock.ahead = rig.identity.renew_at - time.time_ns()
    rig.issuer.refusal = lambda asked: None if asked.proof is not None else Unreachable("closed the connection")

    async with kept(rig):
        await until(lambda: rig.issuer.asked)
        rig.clock.ahead = 3000 * 10**9
        await until(lambda: rig.kept)
    assert [request.proof is not None for request in rig.issuer.asked] == [False, True]


async def test_a_removed_node_hears_of_it_without_a_session() -> None:
    rig = Rig(life_s=-1)
    rig.issuer.refusal = lambda _: Declined("this node was removed from the swarm", is_removed=True)
    async with kept(rig):
        await until(lambda: rig.keeper.dismissal)
    assert rig.keeper.dismissal == "this node was removed from the swarm"


async def test_a_node_that_slept_too_long_knows_why_it_cannot_come_back() -> None:
    rig = Rig(life_s=-1)
    rig.issuer.refusal = lambda _: Declined("join again")
    async with kept(rig):
        await until(lambda: rig.keeper.trouble == "join again")
        rig.issuer.refusal = lambda _: None
        await until(lambda: rig.kept)
        assert rig.keeper.trouble == ""


async def test_another_root_is_trusted_at_once_and_its_certificate_asked_for() -> None:
    rig = Rig()
    rotating = changed(rig.settled, CAConfig(force_rotate=1), 0, SEAL, time.time_ns())
    rig.issuer.authority = CertificateAuthority.open(rotating, SEAL)
    told = rig.keeper.held
    async with kept(rig):
        rig.keeper.follow(trust.wanted(rotating), None)
        trusting = await rig.keeper.wait_other(told)
        assert (trusting.serial, trusting.trust.trust_root) == (told.serial, trust.roots(rotating))
        await until(lambda: rig.identity.identity.serial != told.serial)
        assert rig.keeper.held.trust == trust.wanted(rotating)
        rig.keeper.follow(trust.wanted(rotating), None)
        await asyncio.sleep(0.1)
        assert len(rig.issuer.asked) == 1
        assert rotating.rotation is not None
        done = Authority(certificate_pem=rotating.rotation.certificate_pem, sealed_key=rotating.rotation.sealed_key)
        rig.keeper.follow(trust.wanted(done), None)
        assert rig.keeper.held.trust == trust.wanted(done)
        await asyncio.sleep(0.1)
    assert len(rig.issuer.asked) == 1
    assert rig.kept[-1].root == done.certificate_pem


async def test_a_manager_that_has_not_heard_of_the_root_is_asked_again() -> None:
    rig = Rig()
    rotating = changed(rig.settled, CAConfig(force_rotate=1), 0, SEAL, time.time_ns())
    async with kept(rig):
        rig.keeper.follow(trust.wanted(rotating), None)
        await until(lambda: len(rig.kept) >= 2)
        rig.issuer.authority = CertificateAuthority.open(rotating, SEAL)
        await until(lambda: rig.keeper.held.trust == trust.wanted(rotating))


async def test_roots_that_would_shut_the_node_out_are_not_taken_over() -> None:
    rig = Rig()
    other = CertificateAuthority.create(time.time_ns())
    async with kept(rig):
        rig.issuer.refusal = lambda _: Unreachable("nobody is there")
        rig.keeper.follow(trust.wanted(other.sealed(SEAL)), None)
        await until(lambda: rig.issuer.asked)
    assert rig.kept == []
    assert rig.identity.credentials.root == rig.authorities.authority.root_pem
