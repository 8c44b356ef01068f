"""Managers' certificates that count no more: remembered while they may be valid, and forgotten then."""

import msgspec
from tests.factories import a_cluster, a_node

from skep.core.revocation import REMEMBERED, certified, last_end, revoked
from skep.model.cluster import CAConfig, SwarmSpec
from skep.model.identity import Identity
from skep.model.node import Role

NOW = 1_700_000_000_000_000_000
YEAR = 365 * 86_400 * 10**9


def issued(serial: int, role: Role = Role.MANAGER) -> Identity:
    return Identity(node_id="n1", role=role, cluster_id="c", serial=str(serial))


def test_a_manager_remembers_its_last_certificates_and_a_worker_none() -> None:
    node = a_node(id="n1")
    for serial in range(REMEMBERED + 3):
        node = certified(node, issued(serial))
    assert node.manager_serials == [str(serial) for serial in range(3, REMEMBERED + 3)]
    assert certified(node, issued(REMEMBERED + 2)) == node
    worker = certified(node, issued(99, Role.WORKER))
    assert (worker.role, worker.certificate_serial, worker.manager_serials) == (
        Role.WORKER,
        "99",
        node.manager_serials,
    )


def test_what_counts_no_more_is_kept_until_it_has_ended() -> None:
    cluster = msgspec.structs.replace(a_cluster(), revoked_certificates={"old": NOW - 1, "young": NOW + 1})
    node = certified(a_node(id="n1"), issued(7))
    until = last_end(cluster, NOW)
    assert revoked(cluster, node, NOW).revoked_certificates == {"young": NOW + 1, "7": until}
    lasting = msgspec.structs.replace(cluster, spec=SwarmSpec(ca_config=CAConfig(node_cert_expiry=YEAR)))
    assert until < NOW + YEAR < last_end(lasting, NOW)
