"""The cluster's certificate authority: its root, and the certificates it issues to nodes and to operators.

Pure but for key generation and serial numbers, which the cryptography library draws from the operating system. A
request's subject, names and flags are never looked at: the server sets all of them, from what the swarm knows.
Source: swarmkit/ca/certificates.go.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skep.core import identity as certificates
from skep.lib.durations import DAY
from skep.lib.ids import ID_LENGTH, base36
from skep.manager.seal import Seal
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority
from skep.model.errors import InvalidSpec
from skep.model.identity import OPERATOR_UNIT, UNITS, Identity, Issued, Operator
from skep.model.node import Role, TLSInfo

ROOT_NAME: Final = "swarm-ca"
ROOT_LIFETIME: Final = 20 * 365 * DAY
DEFAULT_LIFETIME: Final = 90 * DAY
KEY_PURPOSE: Final = "authority"
MAX_CSR_CHARACTERS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Term:
    """Attributes: starts_at, ends_at: what the certificate says, whole seconds."""

    starts_at: datetime.datetime
    ends_at: datetime.datetime

    @classmethod
    def of(cls, now: Nanoseconds, lifetime: Nanoseconds) -> "Term":
        """A term of `lifetime` from now, backdated so that a node whose clock is slow accepts it at once."""
        return cls(_moment(now - certificates.BACKDATE), _moment(now + lifetime))


def _moment(nanoseconds: Nanoseconds) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class CertificateAuthority:
    """Issues certificates under one root."""

    def __init__(self, root: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._root = root
        self._key = key
        self.root_pem = _pem(root)

    @classmethod
    def create(cls, now: Nanoseconds) -> "CertificateAuthority":
        """Make a new root: ECDSA P-256, valid for 20 years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ROOT_NAME)])
        term = Term.of(now, ROOT_LIFETIME)
        root = (
            x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(term.starts_at)
            .not_valid_after(term.ends_at)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(root, key)

    @classmethod
    def open(cls, authority: Authority, seal: Seal) -> "CertificateAuthority":
        """Take the authority up again from the cluster object.

        Raises:
            Unauthenticated: The key cannot be opened, or the certificate is none.
        """
        der = seal.open(authority.sealed_key, KEY_PURPOSE)
        key = serialization.load_der_private_key(der, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidSpec("the swarm's CA key is not an elliptic-curve key; restore the cluster from a backup")
        return cls(certificates.load_certificate(authority.certificate_pem), key)

    def sealed(self, seal: Seal) -> Authority:
        """The authority as the cluster object keeps it."""
        der = self._key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Authority(certificate_pem=self.root_pem, sealed_key=seal.seal(der, KEY_PURPOSE))

    def issue(
        self, csr_pem: str, holder: Identity, *, now: Nanoseconds, lifetime: Nanoseconds = 0, address: str = ""
    ) -> Issued:
        """Certify the public key of a request as a node's.

        Args:
            csr_pem: Proves possession of the key; all else in it is ignored.
            holder: Node, role and cluster, as the swarm knows them.
            lifetime: From now on; 0 for 90 days. What operators may ask for is checked where they ask.
            address: An IP address the node is reached at, as seen by who certifies it: clients of the node's API
                compare it with what they asked for. Empty, or no IP address, for none.
        Raises:
            InvalidSpec: The request is no sound CSR for an elliptic-curve key.
        """
        names = [UNITS[holder.role], holder.node_id]
        if holder.role is Role.MANAGER:
            names.append(ROOT_NAME)
        subject = _subject(holder.cluster_id, UNITS[holder.role], holder.node_id)
        alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, names), *_ip_names(address)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._begin(csr_pem, subject, Term.of(now, lifetime or DEFAULT_LIFETIME), usages)
        return self._issued(builder.add_extension(alternatives, critical=False))

    def issue_operator(self, csr_pem: str, holder: Operator, *, now: Nanoseconds, lifetime: Nanoseconds = 0) -> Issued:
        """Certify the public key of a request as an operator's: good for a client of the API and nothing else.

        Args: As of `issue`.
        Raises:
            InvalidSpec: The request is no sound CSR for an elliptic-curve key.
        """
        subject = _subject(holder.cluster_id, OPERATOR_UNIT, holder.name)
        term = Term.of(now, lifetime or DEFAULT_LIFETIME)
        return self._issued(self._begin(csr_pem, subject, term, [ExtendedKeyUsageOID.CLIENT_AUTH]))

    def _begin(
        self, csr_pem: str, subject: x509.Name, term: Term, usages: Sequence[x509.ObjectIdentifier]
    ) -> x509.CertificateBuilder:
        """What every certificate but the root has."""
        public_key = _requested_key(csr_pem)
        return (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._root.subject, public_key=public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(term.starts_at)
            .not_valid_after(term.ends_at)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _issued(self, builder: x509.CertificateBuilder) -> Issued:
        return Issued(certificate=_pem(builder.sign(self._key, hashes.SHA256())), root=self.root_pem)

    @property
    def tls_facts(self) -> TLSInfo:
        """What the API says of the swarm's trust."""
        return certificates.tls_facts(self.root_pem)


def node_id_of(csr_pem: str) -> str:
    """The id of the node that holds a request's key.

    It follows from the key, so that a newcomer who asks again, because the first answer was lost, is the same node.

    Raises:
        InvalidSpec: The request is no sound CSR for an elliptic-curve key.
    """
    spki = _requested_key(csr_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base36(int.from_bytes(hashlib.sha256(spki).digest(), "big") % 36**ID_LENGTH, ID_LENGTH)


def _subject(cluster_id: str, unit: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _ip_names(address: str) -> Sequence[x509.GeneralName]:
    try:
        return [x509.IPAddress(ipaddress.ip_address(address))]
    except ValueError:
        return []


def _requested_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    if len(csr_pem) > MAX_CSR_CHARACTERS:
        raise InvalidSpec("the certificate request is longer than any real one; send a PEM CSR for a P-256 key")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        is_sound = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnicodeEncodeError) as error:
        raise InvalidSpec("the certificate request cannot be read; send a PEM CSR for a P-256 key") from error
    if not is_sound or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidSpec("the certificate request must be signed by the P-256 key it asks for")
    return key
