"""Which root the swarm goes over to when a user asks for another one.

Pure but for key generation and serial numbers; see `manager.ca`. Without a certificate a new root is made; one that is
brought along is checked first. The present root signs the next one, always: a second rotation amid a first replaces
it, and bringing the present root again calls a rotation off.
Source: swarmkit/manager/controlapi/ca_rotation.go.
"""

import datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from skep.core import identity as certificates
from skep.lib.durations import DAY
from skep.manager.ca import CertificateAuthority, SigningKey
from skep.manager.seal import Sealer
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority, CAConfig, RootRotation
from skep.model.errors import InvalidSpec, Unauthenticated, Unsupported

MIN_ROOT_LIFE: Final = 365 * DAY
MIN_RSA_BITS: Final = 2048
MIN_EC_BITS: Final = 256


def changed(authority: Authority, wanted: CAConfig, n_forced: int, seal: Sealer, now: Nanoseconds) -> Authority:
    """The authority once a user's wishes are followed; the same one if they ask for nothing new.

    Args:
        wanted: As the user sent it.
        n_forced: The counter of forced rotations so far.
    Raises:
        InvalidSpec, Unsupported: The root that was brought along cannot be taken.
    """
    if wanted.external_cas:
        raise Unsupported("external certificate authorities are not possible; the swarm uses its own")
    if wanted.signing_ca_key and not wanted.signing_ca_cert:
        raise InvalidSpec("if a signing CA key is provided, the signing CA cert must also be provided")
    if not wanted.signing_ca_cert:
        if wanted.force_rotate in (0, n_forced):
            return authority
        return _begun(authority, CertificateAuthority.create(now), seal)
    if not wanted.signing_ca_key:
        raise Unsupported("external certificate authorities are not possible; give the root's key, too (--ca-key)")
    brought = read_root(wanted.signing_ca_cert, wanted.signing_ca_key, now)
    if brought.root_pem == authority.certificate_pem:
        return msgspec.structs.replace(authority, rotation=None)
    if authority.rotation is not None and brought.root_pem == authority.rotation.certificate_pem:
        return authority
    if brought.tls_facts.cert_issuer_public_key == _present_key(authority):
        raise InvalidSpec("Cannot update to a cert with an identical key")
    return _begun(authority, brought, seal)


def _begun(authority: Authority, following: CertificateAuthority, seal: Sealer) -> Authority:
    """A rotation to another root, in place of any that is under way."""
    kept = following.sealed(seal)
    rotation = RootRotation(
        certificate_pem=kept.certificate_pem,
        sealed_key=kept.sealed_key,
        cross_signed_pem=CertificateAuthority.open_present(authority, seal).cross_sign(kept.certificate_pem),
    )
    return msgspec.structs.replace(authority, rotation=rotation)


def _present_key(authority: Authority) -> str:
    return certificates.tls_facts(authority.certificate_pem).cert_issuer_public_key


def read_root(certificate_pem: str, key_pem: str, now: Nanoseconds) -> CertificateAuthority:
    """Take up a root that a user brought along.

    Raises:
        InvalidSpec: Certificate or key is not fit to be a swarm's root, or they do not belong together.
    """
    try:
        found = certificates.load_certificates(certificate_pem)
    except Unauthenticated as error:
        raise InvalidSpec("could not parse the desired CA certificate") from error
    if len(found) != 1:
        raise InvalidSpec("the desired CA certificate cannot contain multiple certificates")
    root, key = found[0], _read_key(key_pem)
    if root.public_key() != key.public_key():
        raise InvalidSpec(
            "the desired CA certificate and the CA key do not belong together; give the key it was made of"
        )
    _check_root(root, now)
    return CertificateAuthority(root, key)


def _read_key(pem: str) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise InvalidSpec("could not parse the CA key; give it as PEM, without a pass phrase") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size >= MIN_EC_BITS:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise InvalidSpec(f"the CA key must be ECDSA of {MIN_EC_BITS} bits or RSA of {MIN_RSA_BITS} bits, or more")


def _check_root(root: x509.Certificate, now: Nanoseconds) -> None:
    moment = datetime.datetime.fromtimestamp(now // 1_000_000_000, datetime.UTC)
    if root.not_valid_before_utc > moment:
        raise InvalidSpec("the desired CA certificate is not valid yet; look at its dates and at this machine's clock")
    if root.not_valid_after_utc < moment + datetime.timedelta(microseconds=MIN_ROOT_LIFE // 1000):
        raise InvalidSpec("CA certificate expires too soon")
    try:
        constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        constraints = x509.BasicConstraints(ca=False, path_length=None)
    if not constraints.ca:
        raise InvalidSpec("the desired CA certificate is not one of a CA; make it with the constraint CA:TRUE")
    if constraints.path_length == 0:
        raise InvalidSpec(
            "the desired CA certificate has path length 0, so no other root could ever follow it; leave pathlen out"
        )
    try:
        usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return
    if not usage.key_cert_sign:
        raise InvalidSpec("the desired CA certificate may not sign certificates; make it with the usage keyCertSign")
