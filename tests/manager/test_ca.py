"""The authority: what it certifies, what it ignores, and that its key survives only under the data key."""

import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skep.agent import identity as agent_identity
from skep.core import identity as certificates
from skep.core.identity import MOST_BRIDGES
from skep.lib.durations import DAY, HOUR, SECOND
from skep.manager.ca import CertificateAuthority
from skep.manager.seal import DataKey, Seal
from skep.model.errors import InvalidSpec, Unauthenticated
from skep.model.identity import Credentials, Identity
from skep.model.node import Role

NOW = 1_790_000_000 * SECOND
WORKER = Identity(node_id="n0de" * 6 + "x", role=Role.WORKER, cluster_id="clu5ter")
MANAGER = Identity(node_id="m0de" * 6 + "x", role=Role.MANAGER, cluster_id="clu5ter")


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create(NOW)


@pytest.fixture
def seal() -> Seal:
    return Seal(DataKey(id="k1", secret=b"\x07" * 32))


def names_of(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


def test_the_root_is_a_p256_authority_for_twenty_years(authority: CertificateAuthority) -> None:
    root = certificates.load_certificate(authority.root_pem)
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert root.not_valid_after_utc - root.not_valid_before_utc >= datetime.timedelta(days=20 * 365)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(
        True, MOST_BRIDGES
    )
    root.verify_directly_issued_by(root)


def test_a_certificate_says_what_the_swarm_knows(authority: CertificateAuthority) -> None:
    issued = authority.issue(agent_identity.new_key_request().csr, WORKER, now=NOW)
    certificate = certificates.load_certificate(issued.certificate)
    read = certificates.identity_of(certificate)
    assert (read.node_id, read.role, read.cluster_id) == (WORKER.node_id, Role.WORKER, "clu5ter")
    assert read.expires_at == NOW + 90 * DAY
    assert certificate.not_valid_before_utc.timestamp() * SECOND == NOW - HOUR
    assert names_of(certificate) == ["swarm-worker", WORKER.node_id]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    certificate.verify_directly_issued_by(certificates.load_certificate(authority.root_pem))


def test_a_manager_answers_to_the_managers_name(authority: CertificateAuthority) -> None:
    issued = authority.issue(agent_identity.new_key_request().csr, MANAGER, now=NOW)
    assert names_of(certificates.load_certificate(issued.certificate))[0] == "swarm-manager"


def test_what_a_request_asks_for_besides_its_key_is_ignored(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, MANAGER.node_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "other"),
        ]
    )
    csr = (
        x509.CertificateSigningRequestBuilder(subject_name=greedy)
        .add_extension(x509.BasicConstraints(ca=True, path_length=5), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("swarm-manager")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    issued = authority.issue(csr.public_bytes(serialization.Encoding.PEM).decode(), WORKER, now=NOW)
    certificate = certificates.load_certificate(issued.certificate)
    read = certificates.identity_of(certificate)
    assert (read.node_id, read.role, read.cluster_id) == (WORKER.node_id, Role.WORKER, WORKER.cluster_id)
    assert names_of(certificate) == ["swarm-worker", WORKER.node_id]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def signed_by(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([])).sign(key, algorithm)
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def forged() -> str:
    """A request whose signature was made by another key than the one it asks for."""
    der = x509.load_pem_x509_csr(agent_identity.new_key_request().csr.encode()).public_bytes(serialization.Encoding.DER)
    flipped = der[:-1] + bytes([der[-1] ^ 1])
    return x509.load_der_x509_csr(flipped).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    "csr",
    [
        pytest.param("", id="empty"),
        pytest.param("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", id="garbage"),
        pytest.param("\ud800", id="lone-surrogate"),
        pytest.param("x" * 20_000, id="too-long"),
        pytest.param(signed_by(rsa.generate_private_key(65537, 2048)), id="rsa"),
        pytest.param(signed_by(ed25519.Ed25519PrivateKey.generate()), id="ed25519"),
        pytest.param(signed_by(ec.generate_private_key(ec.SECP521R1())), id="other-curve"),
        pytest.param(forged(), id="forged"),
    ],
)
def test_unsound_requests_are_refused(authority: CertificateAuthority, csr: str) -> None:
    with pytest.raises(InvalidSpec, match="certificate request"):
        authority.issue(csr, WORKER, now=NOW)


def test_the_authority_is_taken_up_again_from_its_sealed_form(authority: CertificateAuthority, seal: Seal) -> None:
    again = CertificateAuthority.open(authority.sealed(seal), seal)
    issued = again.issue(agent_identity.new_key_request().csr, WORKER, now=NOW)
    root = certificates.load_certificate(authority.root_pem)
    certificates.load_certificate(issued.certificate).verify_directly_issued_by(root)


def test_another_data_key_does_not_open_it(authority: CertificateAuthority, seal: Seal) -> None:
    kept = authority.sealed(seal)
    with pytest.raises(Unauthenticated):
        CertificateAuthority.open(kept, Seal(DataKey(id="k1", secret=b"\x08" * 32)))
    with pytest.raises(Unauthenticated, match="k1"):
        CertificateAuthority.open(kept, Seal(DataKey(id="k2", secret=b"\x07" * 32)))


def test_a_box_opens_only_for_what_it_was_sealed_for(seal: Seal) -> None:
    box = seal.seal(b"plain", "secret/a")
    assert seal.open(box, "secret/a") == b"plain"
    with pytest.raises(Unauthenticated):
        seal.open(box, "secret/b")


def test_older_keys_still_open(seal: Seal) -> None:
    old = DataKey(id="k1", secret=b"\x07" * 32)
    newer = Seal(DataKey(id="k2", secret=b"\x08" * 32), {"k1": old})
    assert newer.open(seal.seal(b"plain", "p"), "p") == b"plain"
    assert newer.seal(b"plain", "p").key_id == "k2"


def test_the_apis_trust_facts_are_the_roots(authority: CertificateAuthority) -> None:
    facts = authority.tls_facts
    assert facts.trust_root == authority.root_pem
    key = serialization.load_der_public_key(base64.b64decode(facts.cert_issuer_public_key))
    assert key == certificates.load_certificate(authority.root_pem).public_key()
    assert b"swarm-ca" in base64.b64decode(facts.cert_issuer_subject)


@pytest.mark.parametrize("lifetime", [60 * SECOND, HOUR, 90 * DAY])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_renewal_is_due_at_50_to_80_percent_of_the_life(
    authority: CertificateAuthority, lifetime: int, fraction: float
) -> None:
    issued = authority.issue(agent_identity.new_key_request().csr, WORKER, now=NOW, lifetime=lifetime)
    due = certificates.renewal_at(issued.certificate, fraction)
    assert due == pytest.approx(NOW + lifetime * (0.5 + 0.3 * fraction), abs=SECOND)


def held(authority: CertificateAuthority, holder: Identity) -> Credentials:
    request = agent_identity.new_key_request()
    return agent_identity.accept_issued(request, authority.issue(request.csr, holder, now=NOW))


def test_a_certificate_for_another_key_is_not_accepted(authority: CertificateAuthority) -> None:
    issued = authority.issue(agent_identity.new_key_request().csr, WORKER, now=NOW)
    with pytest.raises(Unauthenticated, match="another key"):
        agent_identity.accept_issued(agent_identity.new_key_request(), issued)


def test_a_certificate_from_another_root_is_not_accepted(authority: CertificateAuthority) -> None:
    request = agent_identity.new_key_request()
    issued = CertificateAuthority.create(NOW).issue(request.csr, WORKER, now=NOW)
    mixed = type(issued)(certificate=issued.certificate, root=authority.root_pem)
    with pytest.raises(Unauthenticated, match="not signed"):
        agent_identity.accept_issued(request, mixed)


def test_a_renewal_is_on_disk_before_it_is_in_use(authority: CertificateAuthority) -> None:
    kept: list[Credentials] = []
    identity = agent_identity.NodeIdentity(held(authority, WORKER), kept.append, lambda: 0.0)
    assert identity.renew_at == NOW + 45 * DAY
    new = held(authority, WORKER)
    identity.renewed(new)
    assert kept == [new]
    assert identity.credentials is new


def test_another_nodes_certificate_never_replaces_ones_own(authority: CertificateAuthority) -> None:
    kept: list[Credentials] = []
    identity = agent_identity.NodeIdentity(held(authority, WORKER), kept.append, lambda: 0.0)
    with pytest.raises(Unauthenticated):
        identity.renewed(held(authority, MANAGER))
    assert kept == []


def test_a_failed_renewal_is_tried_again_well_before_the_end(authority: CertificateAuthority) -> None:
    identity = agent_identity.NodeIdentity(held(authority, WORKER), lambda _: None, lambda: 1.0)
    identity.postpone(identity.renew_at)
    assert NOW + 72 * DAY < identity.renew_at < NOW + 74 * DAY
