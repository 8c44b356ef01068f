"""Nodes whose certificate has ended: which of them get another one without a token."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID, Authorities

from skep.agent.identity import NodeIdentity, new_key_request
from skep.core import identity as certificates
from skep.manager.revival import TOO_LATE, proven
from skep.model.errors import Removed, Unauthenticated
from skep.model.identity import Proof, RenewRequest
from skep.model.node import Node
from skep.store.changes import Put
from skep.store.state import State

MINUTE = 60 * 1_000_000_000


@dataclass
class Sleeper:
    """A node that sleeps; its certificate lives for a minute. `now`: long after its end, but not too long."""

    authorities: Authorities = field(default_factory=Authorities)
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.identity = NodeIdentity(self.authorities.make("n1", life_s=60), lambda _: None, lambda: 0.5)
        self.now = self.identity.identity.expires_at + MINUTE // 2
        self.cluster = msgspec.structs.replace(a_cluster(), id=CLUSTER_ID)
        self.commit(msgspec.structs.replace(a_node(id="n1"), certificate_serial=self.identity.identity.serial))

    def commit(self, node: Node) -> None:
        self.state.apply([Put(node)], self.state.revision + 1)

    @property
    def node(self) -> Node:
        found = self.state.nodes.get("n1")
        assert found is not None
        return found

    def request(self) -> RenewRequest:
        csr = new_key_request().csr
        return RenewRequest(csr=csr, proof=self.identity.prove(csr))

    def ask(self, request: RenewRequest | None = None) -> str:
        roots = self.authorities.authority.trusted_pem
        return proven(self.state, self.cluster, request or self.request(), roots, self.now).node_id


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


def renewed(sleeper: Sleeper) -> None:
    """The swarm issued another certificate meanwhile, and the node said that it holds it."""
    serial = certificates.identity_of_pem(sleeper.authorities.make("n1").certificate).serial
    sleeper.commit(msgspec.structs.replace(sleeper.node, certificate_serial=serial, held_serial=serial))


def test_the_key_last_certified_comes_back(sleeper: Sleeper) -> None:
    assert sleeper.ask() == "n1"
    sleeper.now = sleeper.identity.identity.expires_at - MINUTE // 2
    assert sleeper.ask() == "n1"  # Its own clock was wrong: no harm in it.


def test_a_node_that_never_heard_of_its_renewal_comes_back(sleeper: Sleeper) -> None:
    """The answer to its last renewal was lost, and then it slept: it holds the one before."""
    node = msgspec.structs.replace(sleeper.node, held_serial=sleeper.identity.identity.serial, certificate_serial="2")
    sleeper.commit(node)
    assert sleeper.ask() == "n1"


def unknown(sleeper: Sleeper) -> None:
    sleeper.state.nodes.delete("n1")


def late(sleeper: Sleeper) -> None:
    sleeper.now += MINUTE


def of_another_cluster(sleeper: Sleeper) -> None:
    sleeper.cluster = msgspec.structs.replace(sleeper.cluster, id="another")


def of_another_root(sleeper: Sleeper) -> None:
    sleeper.authorities = Authorities()


@pytest.mark.parametrize("change", [renewed, unknown, late, of_another_cluster, of_another_root])
def test_others_are_told_to_join_again(sleeper: Sleeper, change: Callable[[Sleeper], None]) -> None:
    change(sleeper)
    with pytest.raises(Unauthenticated, match=TOO_LATE):
        sleeper.ask()


def test_a_removed_node_is_told_so(sleeper: Sleeper) -> None:
    sleeper.cluster = msgspec.structs.replace(sleeper.cluster, removed_nodes={"n1": sleeper.now + MINUTE})
    with pytest.raises(Removed):
        sleeper.ask()


def another_csr(request: RenewRequest, proof: Proof) -> RenewRequest:
    return RenewRequest(csr=new_key_request().csr, proof=proof)


def no_signature(request: RenewRequest, proof: Proof) -> RenewRequest:
    return RenewRequest(csr=request.csr, proof=Proof(certificate=proof.certificate, signature=b""))


def no_certificate(request: RenewRequest, proof: Proof) -> RenewRequest:
    return RenewRequest(csr=request.csr, proof=Proof(certificate="x", signature=proof.signature))


def a_root_for_a_certificate(request: RenewRequest, proof: Proof) -> RenewRequest:
    root = Authorities().authority.root_pem
    return RenewRequest(csr=request.csr, proof=Proof(certificate=root, signature=proof.signature))


def no_proof(request: RenewRequest, proof: Proof) -> RenewRequest:
    return RenewRequest(csr=request.csr)


@pytest.mark.parametrize(
    "forge", [another_csr, no_signature, no_certificate, a_root_for_a_certificate, no_proof], ids=lambda f: f.__name__
)
def test_a_proof_of_nothing_is_refused(sleeper: Sleeper, forge: Callable[[RenewRequest, Proof], RenewRequest]) -> None:
    request = sleeper.request()
    assert request.proof is not None
    with pytest.raises(Unauthenticated, match=TOO_LATE):
        sleeper.ask(forge(request, request.proof))
