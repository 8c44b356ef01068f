"""What certificates say and when they are to be renewed.

Pure: reads PEM and DER, makes no key and signs nothing.
"""

import base64
import datetime
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from skep.lib.durations import HOUR
from skep.model.base import Nanoseconds
from skep.model.errors import Unauthenticated
from skep.model.identity import OPERATOR_UNIT, ROLES, Credentials, Identity, Operator
from skep.model.node import TLSInfo

BACKDATE: Final = HOUR
"""How long before its issue a certificate's term begins, for the sake of slow clocks."""
MOST_BRIDGES: Final = 4
"""Over so many changes of the root the newest one's certificates lead back to one that somebody still trusts alone."""
EARLIEST_RENEWAL: Final = 0.5
LATEST_RENEWAL: Final = 0.8


def _nanoseconds(moment: datetime.datetime) -> Nanoseconds:
    return int(moment.timestamp()) * 1_000_000_000


def _only(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if len(found) == 1 else ""


def identity_of(certificate: x509.Certificate) -> Identity:
    """Read who a certificate was issued to; whether it is to be trusted was decided before.

    Raises:
        Unauthenticated: It is no node's certificate.
    """
    subject = certificate.subject
    node_id = _only(subject, NameOID.COMMON_NAME)
    role = ROLES.get(_only(subject, NameOID.ORGANIZATIONAL_UNIT_NAME))
    cluster_id = _only(subject, NameOID.ORGANIZATION_NAME)
    if not node_id or role is None or not cluster_id:
        raise Unauthenticated("the certificate names no node of a swarm; use one that the swarm issued")
    return Identity(
        node_id=node_id,
        role=role,
        cluster_id=cluster_id,
        serial=str(certificate.serial_number),
        expires_at=_nanoseconds(certificate.not_valid_after_utc),
    )


def holder_of_der(der: bytes) -> Identity | Operator:
    """Who a TLS peer's certificate was issued to, node or operator.

    Raises:
        Unauthenticated: It is neither's.
    """
    certificate = _load_der(der)
    subject = certificate.subject
    if _only(subject, NameOID.ORGANIZATIONAL_UNIT_NAME) != OPERATOR_UNIT:
        return identity_of(certificate)
    name, cluster_id = _only(subject, NameOID.COMMON_NAME), _only(subject, NameOID.ORGANIZATION_NAME)
    if not name or not cluster_id:
        raise Unauthenticated("the certificate names no operator of a swarm; use one that the swarm issued")
    return Operator(
        name=name,
        cluster_id=cluster_id,
        serial=str(certificate.serial_number),
        expires_at=_nanoseconds(certificate.not_valid_after_utc),
    )


def identity_of_der(der: bytes) -> Identity:
    """As `identity_of`, from the bytes a TLS peer presented."""
    return identity_of(_load_der(der))


def _load_der(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise Unauthenticated("the certificate cannot be read; use one that the swarm issued") from error


def identity_of_pem(pem: str) -> Identity:
    """As `identity_of`, from PEM."""
    return identity_of(load_certificate(pem))


def addresses_of_pem(pem: str) -> list[str]:
    """The IP addresses a certificate is good for as a server's, and its peers expect it to come from."""
    try:
        names = load_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(address) for address in names.get_values_for_type(x509.IPAddress)]


def load_certificate(pem: str) -> x509.Certificate:
    """Read a certificate.

    Raises:
        Unauthenticated: It is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise Unauthenticated("this is not a PEM certificate; send one that begins with BEGIN CERTIFICATE") from error


def load_certificates(pem: str) -> list[x509.Certificate]:
    """Read certificates that stand one after the other; at least one.

    Raises:
        Unauthenticated: There is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise Unauthenticated("these are no PEM certificates; send some that begin with BEGIN CERTIFICATE") from error


def issuer_of(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Who of the candidates signed a certificate; None if nobody did. When any of them ends is not looked at."""
    for candidate in candidates:
        try:
            certificate.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return candidate
    return None


def is_trusted(chain_pem: str, roots_pem: str) -> bool:
    """Whether a certificate leads to one of the roots, by way of at most one other that it came with.

    When they end is not looked at.

    Args:
        chain_pem: The certificate, and after it others that may stand between it and a root.
    Raises:
        Unauthenticated: One cannot be read.
    """
    leaf, *between = load_certificates(chain_pem)
    roots = load_certificates(roots_pem)
    if issuer_of(leaf, roots) is not None:
        return True
    middle = issuer_of(leaf, between)
    return middle is not None and issuer_of(middle, roots) is not None


def renewal_at(certificate_pem: str, fraction: float) -> Nanoseconds:
    """When to renew: between 50 and 80 % of the certificate's life, so that nodes spread themselves.

    Args:
        fraction: Between 0 and 1, a throw of the dice.
    Source: swarmkit/ca/renewer.go.
    """
    begin, end = term_of(load_certificate(certificate_pem))
    share = EARLIEST_RENEWAL + fraction * (LATEST_RENEWAL - EARLIEST_RENEWAL)
    return begin + int((end - begin) * share)


def term_of(certificate: x509.Certificate) -> tuple[Nanoseconds, Nanoseconds]:
    """From when to when a certificate was meant to be used; it says that it began before, for slow clocks."""
    begin, end = _nanoseconds(certificate.not_valid_before_utc), _nanoseconds(certificate.not_valid_after_utc)
    return (begin + BACKDATE if begin + BACKDATE < end else begin), end


def tls_facts(roots_pem: str, issuer_pem: str = "") -> TLSInfo:
    """What Docker's API says of trust.

    Args:
        roots_pem: What is trusted, one or several roots.
        issuer_pem: Whose certificates the nodes have; the first of the roots if empty.
    Source: Docker API 1.51, definition TLSInfo: DER in base64.
    """
    return _tls_facts(roots_pem, load_certificate(issuer_pem or roots_pem))


def held_facts(credentials: Credentials) -> TLSInfo:
    """As `tls_facts`, of what a node holds.

    Raises:
        Unauthenticated: One of its certificates cannot be read.
    """
    leaf, *between = load_certificates(credentials.certificate)
    roots = load_certificates(credentials.root)
    return _tls_facts(credentials.root, issuer_of(leaf, [*roots, *between]) or roots[0])


def _tls_facts(roots_pem: str, issuer: x509.Certificate) -> TLSInfo:
    key = issuer.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return TLSInfo(
        trust_root=roots_pem,
        cert_issuer_subject=_base64(issuer.subject.public_bytes()),
        cert_issuer_public_key=_base64(key),
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
