"""Certificates for operators: what they say, for how long, and what they are not good for."""

import time

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.identities import CLUSTER_ID, Authorities

from skep.agent.identity import new_key_request
from skep.core import identity as certificates
from skep.lib.durations import DAY, HOUR
from skep.manager.control import operators
from skep.model.errors import InvalidSpec, Unauthenticated
from skep.model.identity import Identity, Issued, Operator
from skep.model.node import Role


def certify(csr: str, name: str, lifetime: int) -> Issued:
    holder = Operator(name=name, cluster_id=CLUSTER_ID)
    return Authorities().authority.issue_operator(csr, holder, now=time.time_ns(), lifetime=lifetime)


def der(pem: str) -> bytes:
    return certificates.load_certificate(pem).public_bytes(certificates.serialization.Encoding.DER)


def test_it_names_its_holder_and_is_for_clients_only() -> None:
    issued = operators.issue_operator(certify, "alice@example.org", new_key_request().csr)
    holder = certificates.holder_of_der(der(issued.certificate))
    assert isinstance(holder, Operator)
    assert (holder.name, holder.cluster_id) == ("alice@example.org", CLUSTER_ID)
    assert abs(holder.expires_at - time.time_ns() - 90 * DAY) < HOUR
    usage = certificates.load_certificate(issued.certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_it_is_no_nodes_certificate() -> None:
    issued = operators.issue_operator(certify, "alice", new_key_request().csr)
    with pytest.raises(Unauthenticated):
        certificates.identity_of_pem(issued.certificate)


@pytest.mark.parametrize(
    ("name", "lifetime", "csr"),
    [
        pytest.param("", 0, None, id="no name"),
        pytest.param("a b", 0, None, id="a space"),
        pytest.param("-a", 0, None, id="an option"),
        pytest.param("a" * 64, 0, None, id="a long name"),
        pytest.param("a\n", 0, None, id="a line break"),
        pytest.param("alice", HOUR - 1, None, id="too short a life"),
        pytest.param("alice", -1, None, id="a life that is over"),
        pytest.param("alice", 4 * 365 * DAY, None, id="too long a life"),
        pytest.param("alice", 0, "nonsense", id="no request"),
    ],
)
def test_what_is_refused(name: str, lifetime: int, csr: str | None) -> None:
    with pytest.raises(InvalidSpec):
        operators.issue_operator(certify, name, new_key_request().csr if csr is None else csr, lifetime)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("192.0.2.7", ["192.0.2.7"]), ("2001:db8::7", ["2001:db8::7"]), ("", []), ("evil.example", [])],
    ids=["v4", "v6", "none", "name"],
)
def test_a_nodes_certificate_names_the_address_it_asked_from(address: str, expected: list[str]) -> None:
    holder = Identity(node_id="n1", role=Role.WORKER, cluster_id=CLUSTER_ID)
    issued = Authorities().authority.issue(new_key_request().csr, holder, now=time.time_ns(), address=address)
    certificate = certificates.load_certificate(issued.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(found) for found in names.get_values_for_type(x509.IPAddress)] == expected
    assert "n1" in names.get_values_for_type(x509.DNSName)
