"""One root follows another: what is trusted meanwhile, and when the old one goes."""

import itertools

import msgspec
import pytest
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID

from skep.core import identity as certificates
from skep.core import trust
from skep.core.plan import NOTHING
from skep.manager.ca import CertificateAuthority
from skep.manager.control.authority import changed
from skep.manager.seal import DataKey, Seal
from skep.model.cluster import Authority, CAConfig, Cluster, JoinTokens, TokenLimit, TokenLimits
from skep.model.identity import JoinToken
from skep.model.node import Node, TLSInfo
from skep.store.changes import Put
from skep.store.state import State

NOW = 1_700_000_000_000_000_000
SEAL = Seal(DataKey.of(b"\x07" * 32))
LIMITS = TokenLimits(worker=TokenLimit(uses_left=2))


def dice(n: int) -> bytes:
    return b"\x05" * n


@pytest.fixture(scope="module")
def settled() -> Authority:
    return CertificateAuthority.create(NOW).sealed(SEAL)


@pytest.fixture(scope="module")
def rotating(settled: Authority) -> Authority:
    return changed(settled, CAConfig(force_rotate=1), 0, SEAL, NOW)


def a_state(authority: Authority, *held: TLSInfo | None) -> State:
    """A swarm with a node for each of what nodes hold."""
    state = State()
    tokens = JoinTokens(worker="w", manager="m")
    cluster = msgspec.structs.replace(
        a_cluster(), id=CLUSTER_ID, authority=authority, join_tokens=tokens, token_limits=LIMITS
    )
    state.apply([Put(cluster), *(Put(holding(f"n{number}", each)) for number, each in enumerate(held))], 1)
    return state


def holding(node_id: str, held: TLSInfo | None) -> Node:
    node = a_node(id=node_id)
    return msgspec.structs.replace(node, description=msgspec.structs.replace(node.description, tls_info=held))


def test_both_roots_are_trusted_and_the_next_one_issues(settled: Authority, rotating: Authority) -> None:
    assert rotating.rotation is not None
    old, new = settled.certificate_pem, rotating.rotation.certificate_pem
    assert certificates.load_certificates(trust.roots(rotating)) == [
        certificates.load_certificate(old),
        certificates.load_certificate(new),
    ]
    assert trust.wanted(settled) == certificates.tls_facts(old)
    assert trust.wanted(rotating) == certificates.tls_facts(trust.roots(rotating), new)
    assert trust.shown(rotating) == certificates.tls_facts(old, new)


def test_without_a_rotation_nothing_is_decided(settled: Authority) -> None:
    assert trust.reconcile(a_state(settled, trust.wanted(settled)), dice) == NOTHING
    assert trust.reconcile(State(), dice) == NOTHING


def test_the_old_root_stays_until_every_node_has_its_certificate(settled: Authority, rotating: Authority) -> None:
    """A node that is down, or has said nothing yet, counts: it would be shut out."""
    old, new = trust.wanted(settled), trust.wanted(rotating)
    for held in itertools.product((None, old, new), repeat=2):
        plan = trust.reconcile(a_state(rotating, *held), dice)
        assert bool(plan.changes) == (held == (new, new)), held


def test_then_the_next_root_is_the_only_one_and_tokens_carry_its_digest(rotating: Authority) -> None:
    assert rotating.rotation is not None
    state = a_state(rotating, trust.wanted(rotating))
    plan = trust.reconcile(state, dice)
    state.apply(plan.changes, 2)
    cluster = state.cluster
    assert isinstance(cluster, Cluster)
    assert cluster.authority == Authority(
        certificate_pem=rotating.rotation.certificate_pem,
        sealed_key=rotating.rotation.sealed_key,
        bridge_pem=rotating.rotation.cross_signed_pem,
    )
    for token in (cluster.join_tokens.worker, cluster.join_tokens.manager):
        JoinToken.parse(token).check_root(rotating.rotation.certificate_pem)
    assert cluster.token_limits == LIMITS
    assert trust.reconcile(state, dice) == NOTHING
