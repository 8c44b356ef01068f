"""Admission: who gets a certificate, as what, and what the others are told."""

import time
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID, Authorities
from tests.sessions import QuickClock

from skep.agent.identity import NodeIdentity, accept_issued, new_key_request
from skep.core import identity as certificates
from skep.manager.ca import node_id_of
from skep.manager.join import WRONG_BURST, Admission
from skep.model.cluster import CAConfig, JoinTokens, TokenLimit, TokenLimits
from skep.model.errors import Forbidden, InvalidSpec, Unauthenticated, Unavailable
from skep.model.identity import REFUSED, Identity, JoinRequest, JoinToken, Newcomer, RenewRequest, new_token
from skep.model.node import Availability, NodeSpec, Role
from skep.store.changes import Put
from skep.store.state import State

pytestmark = pytest.mark.anyio
MINUTE = 60 * 1_000_000_000


@dataclass
class Registry:
    """Keeps nodes in a state."""

    state: State
    newcomers: list[Newcomer] = field(default_factory=list)
    certified: list[Identity] = field(default_factory=list)

    async def admit(self, newcomer: Newcomer) -> None:
        self.newcomers.append(newcomer)
        node = a_node(id=newcomer.identity.node_id)
        node = msgspec.structs.replace(node, spec=NodeSpec(role=newcomer.identity.role))
        self.state.apply([Put(node)], self.state.revision + 1)

    async def certify(self, identity: Identity) -> None:
        self.certified.append(identity)


@dataclass
class Rig:
    authorities: Authorities = field(default_factory=Authorities)
    state: State = field(default_factory=State)
    clock: QuickClock = field(default_factory=QuickClock)

    def __post_init__(self) -> None:
        root = self.authorities.authority.root_pem
        self.worker = str(new_token(root, lambda n: b"\x01" * n))
        self.manager = str(new_token(root, lambda n: b"\x02" * n))
        self.commit(join_tokens=JoinTokens(worker=self.worker, manager=self.manager))
        self.registry = Registry(self.state)
        self.admission = Admission.over(
            lambda: self.state, lambda: self.authorities.authority, self.registry, self.clock
        )

    def commit(self, **fields: object) -> None:
        cluster = self.state.cluster or msgspec.structs.replace(a_cluster(), id=CLUSTER_ID)
        self.state.apply([Put(msgspec.structs.replace(cluster, **fields))], self.state.revision + 1)

    async def join(self, token: str, csr: str = "", *, address: str = "192.0.2.7") -> Identity:
        request = JoinRequest(token=token, csr=csr or new_key_request().csr, availability=Availability.PAUSE)
        issued = await self.admission.join(request, address=address)
        assert issued.root == self.authorities.authority.root_pem
        return certificates.identity_of_pem(issued.certificate)


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("role", Role)
async def test_the_token_decides_the_role(rig: Rig, role: Role) -> None:
    identity = await rig.join(rig.worker if role is Role.WORKER else rig.manager)
    assert (identity.role, identity.cluster_id) == (role, CLUSTER_ID)
    token = rig.worker if role is Role.WORKER else rig.manager
    came = Newcomer(identity=identity, availability=Availability.PAUSE, address="192.0.2.7", token=token)
    assert rig.registry.newcomers == [came]


async def test_one_who_asks_twice_is_one_node(rig: Rig) -> None:
    csr = new_key_request().csr
    first, second = await rig.join(rig.worker, csr), await rig.join(rig.worker, csr)
    assert first.node_id == second.node_id == node_id_of(csr)
    assert len(first.node_id) == 25
    assert len(rig.registry.newcomers) == 1


async def test_a_manager_token_does_not_promote_a_node_that_is_there(rig: Rig) -> None:
    csr = new_key_request().csr
    await rig.join(rig.worker, csr)
    assert (await rig.join(rig.manager, csr)).role is Role.WORKER


def tampered(token: str) -> str:
    return token[:-1] + ("0" if token[-1] != "0" else "1")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda rig: "", id="empty"),
        pytest.param(lambda rig: tampered(rig.worker), id="other-secret"),
        pytest.param(lambda rig: rig.worker[:-1], id="truncated"),
        pytest.param(lambda rig: str(JoinToken(digest="0" * 50, secret=rig.worker[-25:])), id="other-cluster"),
        pytest.param(lambda rig: "\ud800", id="lone-surrogate"),
    ],
)
async def test_every_wrong_token_gets_the_same_answer(rig: Rig, wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(InvalidSpec, match=f"^{REFUSED}$"):
        await rig.join(wrong(rig), csr="not looked at")
    assert rig.registry.newcomers == []


async def test_the_old_token_is_refused_after_a_rotation(rig: Rig) -> None:
    rotated = str(new_token(rig.authorities.authority.root_pem, lambda n: b"\x09" * n))
    rig.commit(join_tokens=JoinTokens(worker=rotated, manager=rig.manager))
    with pytest.raises(InvalidSpec, match=REFUSED):
        await rig.join(rig.worker)
    await rig.join(rotated)


async def test_a_swarm_without_tokens_lets_nobody_in(rig: Rig) -> None:
    rig.commit(join_tokens=JoinTokens())
    with pytest.raises(InvalidSpec, match=REFUSED):
        await rig.join("")


async def test_wrong_tokens_fill_no_log_and_keep_out_nobody_who_has_the_right_one(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(WRONG_BURST * 5):
        with pytest.raises(InvalidSpec):
            await rig.join("wrong")
    assert capsys.readouterr().out.count("wrong token") == WRONG_BURST
    await rig.join(rig.worker)


async def test_a_right_token_with_an_unsound_request_says_what_is_wrong(rig: Rig) -> None:
    with pytest.raises(InvalidSpec, match="certificate request"):
        await rig.join(rig.worker, csr="nonsense")


async def test_a_removed_key_does_not_come_back(rig: Rig) -> None:
    csr = new_key_request().csr
    identity = await rig.join(rig.worker, csr)
    rig.commit(removed_nodes={identity.node_id: 1})
    assert rig.admission.is_removed(identity.node_id)
    with pytest.raises(Forbidden):
        await rig.join(rig.worker, csr)
    with pytest.raises(Forbidden):
        await rig.admission.renew(identity, RenewRequest(csr=csr))


async def test_a_renewal_gives_the_role_that_is_asked_of_the_node_now(rig: Rig) -> None:
    identity = await rig.join(rig.worker)
    node = rig.state.nodes.get(identity.node_id)
    assert node is not None
    rig.state.apply([Put(msgspec.structs.replace(node, spec=NodeSpec(role=Role.MANAGER)))], rig.state.revision + 1)
    issued = await rig.admission.renew(identity, RenewRequest(csr=new_key_request().csr))
    renewed = certificates.identity_of_pem(issued.certificate)
    assert (renewed.node_id, renewed.role) == (identity.node_id, Role.MANAGER)
    assert rig.registry.certified == [renewed]


async def test_a_node_this_manager_has_not_heard_of_yet_is_not_removed(rig: Rig) -> None:
    stranger = Identity(node_id="stranger", role=Role.WORKER, cluster_id=CLUSTER_ID)
    assert not rig.admission.is_removed("stranger")
    with pytest.raises(Unavailable):
        await rig.admission.renew(stranger, RenewRequest(csr=new_key_request().csr))


async def test_certificates_live_as_long_as_the_swarm_says(rig: Rig) -> None:
    rig.commit(spec=msgspec.structs.replace(a_cluster().spec, ca_config=CAConfig(node_cert_expiry=5 * MINUTE)))
    identity = await rig.join(rig.worker)
    assert identity.expires_at == pytest.approx(time.time_ns() + 5 * MINUTE, abs=MINUTE)


async def test_a_token_that_is_used_up_lets_nobody_new_in_and_answers_as_a_wrong_one(rig: Rig) -> None:
    csr = new_key_request().csr
    first = await rig.join(rig.worker, csr)
    rig.commit(token_limits=TokenLimits(worker=TokenLimit(uses_left=0)))
    assert (await rig.join(rig.worker, csr)).node_id == first.node_id  # Its first answer was lost.
    for other in (new_key_request().csr, "nonsense"):
        with pytest.raises(InvalidSpec, match=f"^{REFUSED}$"):
            await rig.join(rig.worker, other)
    await rig.join(rig.manager)
    rig.commit(token_limits=TokenLimits(worker=TokenLimit(uses_left=5, ends_at=rig.clock.now() - 1)))
    with pytest.raises(InvalidSpec, match=f"^{REFUSED}$"):
        await rig.join(rig.worker, csr)


async def test_only_whose_newest_certificate_is_a_managers_counts_as_one(rig: Rig) -> None:
    manager = await rig.join(rig.manager)
    node = rig.state.nodes.get(manager.node_id)
    assert node is not None
    for role in (Role.MANAGER, Role.WORKER):
        rig.state.apply([Put(msgspec.structs.replace(node, role=role))], rig.state.revision + 1)
        assert rig.admission.is_demoted(node.id) is (role is Role.WORKER)
    assert rig.admission.is_demoted("unknown")


async def test_a_sleeper_is_certified_as_itself_and_others_do_not_fill_the_log(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    request = new_key_request()
    issued = await rig.admission.join(JoinRequest(token=rig.worker, csr=request.csr), address="192.0.2.7")
    sleeper = NodeIdentity(accept_issued(request, issued), lambda _: None, lambda: 0.5)
    node = rig.state.nodes.get(sleeper.identity.node_id)
    assert node is not None
    csr = new_key_request().csr
    asked = RenewRequest(csr=csr, proof=sleeper.prove(csr))
    for _ in range(WRONG_BURST * 2):
        with pytest.raises(Unauthenticated):  # No such certificate was issued to it.
            await rig.admission.revive(asked, address="192.0.2.7")
    assert capsys.readouterr().out.count("ended for good") == WRONG_BURST
    known = msgspec.structs.replace(node, certificate_serial=sleeper.identity.serial)
    rig.state.apply([Put(known)], rig.state.revision + 1)
    revived = certificates.identity_of_pem((await rig.admission.revive(asked)).certificate)
    assert revived.node_id == sleeper.identity.node_id
    assert rig.registry.certified == [revived]
