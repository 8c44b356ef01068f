"""Another root: made or brought along, cross-signed by the present one, replaced or called off."""

import ssl
import time
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.edge.handshakes import shake_hands
from tests.roots import a_root

from skep.agent.identity import accept_issued, new_key_request
from skep.core import identity as certificates
from skep.core import trust
from skep.manager.ca import CertificateAuthority
from skep.manager.control.authority import changed
from skep.manager.seal import DataKey, Seal
from skep.model.cluster import Authority, CAConfig, ExternalCA
from skep.model.errors import InvalidSpec, SkepError, Unsupported
from skep.model.identity import Credentials, Identity, Issued
from skep.model.node import Role

NOW = time.time_ns()
SEAL = Seal(DataKey.of(b"\x07" * 32))
MANAGER = Identity(node_id="m1", role=Role.MANAGER, cluster_id="c")


def asked(authority: Authority, **config: object) -> Authority:
    return changed(authority, CAConfig(**config), 0, SEAL, NOW)  # type: ignore[arg-type]  # Fields of CAConfig.


@pytest.fixture(scope="module")
def settled() -> Authority:
    return CertificateAuthority.create(NOW).sealed(SEAL)


def issued(authority: Authority) -> Credentials:
    request = new_key_request()
    return accept_issued(request, CertificateAuthority.open(authority, SEAL).issue(request.csr, MANAGER, now=NOW))


def test_nothing_asked_is_nothing_changed(settled: Authority) -> None:
    assert asked(settled) is settled
    rotating = asked(settled, force_rotate=1)
    assert changed(rotating, CAConfig(force_rotate=1), 1, SEAL, NOW) is rotating


@pytest.mark.parametrize("is_brought", [False, True])
@pytest.mark.parametrize("holder", ["old", "both", "new"])
def test_a_certificate_of_the_next_root_is_believed_before_amid_and_after(
    settled: Authority, holder: str, is_brought: bool
) -> None:
    """By OpenSSL itself: one who trusts only the old root, both, or only the new one; and it believes each of them."""
    certificate, key = a_root()
    config = {"signing_ca_cert": certificate, "signing_ca_key": key} if is_brought else {"force_rotate": 1}
    rotating = asked(settled, **config)
    assert rotating.rotation is not None
    roots = {"old": settled.certificate_pem, "both": trust.roots(rotating), "new": rotating.rotation.certificate_pem}
    fresh = issued(rotating)
    assert fresh.root == roots["both"]
    peer = issued(rotating if holder == "new" else settled)
    peer = Credentials(certificate=peer.certificate, key=peer.key, root=roots[holder])
    shake_hands(fresh, peer)
    shake_hands(peer, fresh)


def test_a_certificate_of_the_old_root_is_not_believed_once_that_has_gone(settled: Authority) -> None:
    rotating = asked(settled, force_rotate=1)
    assert rotating.rotation is not None
    fresh, old = issued(rotating), issued(settled)
    alone = Credentials(certificate=fresh.certificate, key=fresh.key, root=rotating.rotation.certificate_pem)
    with pytest.raises(ssl.SSLError):
        shake_hands(alone, old)


def test_a_second_rotation_replaces_the_first_and_leads_to_the_same_old_root(settled: Authority) -> None:
    first = asked(settled, force_rotate=1)
    second = changed(first, CAConfig(force_rotate=2), 1, SEAL, NOW)
    assert second.certificate_pem == settled.certificate_pem
    assert first.rotation is not None
    assert second.rotation is not None
    assert first.rotation.certificate_pem != second.rotation.certificate_pem
    middle, newest = issued(first), issued(second)
    shake_hands(Credentials(certificate=middle.certificate, key=middle.key, root=newest.root), newest)


def test_the_present_root_calls_a_rotation_off(settled: Authority) -> None:
    certificate, key = a_root()
    began = asked(settled, signing_ca_cert=certificate, signing_ca_key=key)
    assert asked(began, signing_ca_cert=certificate, signing_ca_key=key) is began
    assert began.rotation is not None
    there = Authority(certificate_pem=certificate, sealed_key=began.rotation.sealed_key)
    away = asked(there, force_rotate=1)
    assert asked(away, signing_ca_cert=certificate, signing_ca_key=key) == there
    back = issued(away)
    assert certificates.is_trusted(back.certificate, certificate)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda: ("", a_root()[1]), "the signing CA cert must also be provided", id="key-alone"),
        pytest.param(lambda: ("x", a_root()[1]), "could not parse the desired CA certificate", id="no-pem"),
        pytest.param(lambda: (a_root()[0] * 2, a_root()[1]), "cannot contain multiple certificates", id="two"),
        pytest.param(lambda: (a_root()[0], a_root()[1]), "do not belong together", id="another-key"),
        pytest.param(lambda: (a_root()[0], "x"), "could not parse the CA key", id="no-key"),
        pytest.param(lambda: a_root(years=0), "CA certificate expires too soon", id="short"),
        pytest.param(lambda: a_root(starts_in=2), "not valid yet", id="future"),
        pytest.param(lambda: a_root(is_ca=False), "not one of a CA", id="leaf"),
        pytest.param(lambda: a_root(below=0), "path length 0", id="path-length"),
        pytest.param(lambda: a_root(may_sign=False), "may not sign certificates", id="usage"),
        pytest.param(lambda: a_root(rsa.generate_private_key(65537, 1024)), "2048 bits, or more", id="weak-rsa"),  # noqa: S505  # That is the point.
        pytest.param(lambda: a_root(ec.generate_private_key(ec.SECP192R1())), "256 bits or", id="weak-ec"),
    ],
)
def test_an_unsound_root_is_refused(settled: Authority, make: Callable[[], tuple[str, str]], words: str) -> None:
    certificate, key = make()
    with pytest.raises(InvalidSpec, match=words):
        asked(settled, signing_ca_cert=certificate, signing_ca_key=key)


def test_an_rsa_root_issues_certificates_too(settled: Authority) -> None:
    certificate, key = a_root(rsa.generate_private_key(65537, 2048), below=1, may_sign=True)
    fresh, old = issued(asked(settled, signing_ca_cert=certificate, signing_ca_key=key)), issued(settled)
    shake_hands(fresh, old)
    shake_hands(old, fresh)


def test_another_certificate_of_the_same_key_is_refused(settled: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate, pem = a_root(key)
    began = asked(settled, signing_ca_cert=certificate, signing_ca_key=pem)
    assert began.rotation is not None
    there = Authority(certificate_pem=certificate, sealed_key=began.rotation.sealed_key)
    with pytest.raises(InvalidSpec, match="identical key"):
        asked(there, signing_ca_cert=a_root(key, years=4)[0], signing_ca_key=pem)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"external_cas": [ExternalCA(url="https://ca.example")]}, id="external"),
        pytest.param({"signing_ca_cert": "a certificate without its key"}, id="no-key"),
    ],
)
def test_external_authorities_are_refused(settled: Authority, config: dict[str, object]) -> None:
    with pytest.raises(Unsupported, match="external certificate authorities are not possible"):
        asked(settled, **config)


def test_a_certificate_that_leads_nowhere_is_not_accepted(settled: Authority) -> None:
    request = new_key_request()
    other = CertificateAuthority.create(NOW).issue(request.csr, MANAGER, now=NOW)
    with pytest.raises(SkepError, match="not signed by its own root"):
        accept_issued(request, Issued(certificate=other.certificate, root=settled.certificate_pem))
