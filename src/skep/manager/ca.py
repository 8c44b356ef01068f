"""The cluster's certificate authority: its root, and the certificates it issues to nodes and to operators.

Pure but for key generation and serial numbers, which the cryptography library draws from the operating system. A
request's subject, names and flags are never looked at: the server sets all of them, from what the swarm knows.
Source: swarmkit/ca/certificates.go.
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skep.core import identity as certificates
from skep.core import trust
from skep.core.identity import MOST_BRIDGES
from skep.lib.durations import DAY
from skep.lib.ids import ID_LENGTH, base36
from skep.manager.seal import Sealer
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority
from skep.model.errors import InvalidSpec, Unavailable
from skep.model.identity import OPERATOR_UNIT, UNITS, Identity, Issued, Operator
from skep.model.node import Role, TLSInfo
from skep.model.sealed import Sealed
from skep.store.state import View

ROOT_NAME: Final = "swarm-ca"
ROOT_LIFETIME: Final = 20 * 365 * DAY
DEFAULT_LIFETIME: Final = 90 * DAY
KEY_PURPOSE: Final = "authority"
MAX_CSR_CHARACTERS: Final = 16_384

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


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
    """Issues certificates under one root; while another root follows it, under that one, so that both lead there.

    Attributes:
        root_pem: The present root, whose digest is in the join tokens.
        trusted_pem: Every root that is trusted now.
    """

    def __init__(self, root: x509.Certificate, key: SigningKey, present: Authority | None = None) -> None:
        """Take up a root and its key.

        Args:
            present: The cluster's authority, of which it is the present or the next root; None for a root alone.
        """
        self._root = root
        self._key = key
        self._between = trust.bridges(present) if present is not None else ""
        self.root_pem = present.certificate_pem if present is not None else _pem(root)
        self.trusted_pem = trust.roots(present) if present is not None else self.root_pem

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
            .add_extension(x509.BasicConstraints(ca=True, path_length=MOST_BRIDGES), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(root, key)

    @classmethod
    def open(cls, authority: Authority, seal: Sealer) -> "CertificateAuthority":
        """Take the authority up again from the cluster object: the next root's, where one follows.

        Raises:
            Unauthenticated: The key cannot be opened, or the certificate is none.
        """
        issuing = authority.rotation or authority
        root = certificates.load_certificate(issuing.certificate_pem)
        return cls(root, _opened(issuing.sealed_key, seal), authority)

    @classmethod
    def open_present(cls, authority: Authority, seal: Sealer) -> "CertificateAuthority":
        """As `open`, but always the present root's, which signs whatever is to follow it."""
        return cls(certificates.load_certificate(authority.certificate_pem), _opened(authority.sealed_key, seal))

    def cross_sign(self, root_pem: str) -> str:
        """Certify another root's name and key, for as long as that root lasts.

        Returns:
            PEM: what leads from the other root's certificates to this one.
        """
        other = certificates.load_certificate(root_pem)
        key = other.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise InvalidSpec("the root's key is neither an elliptic-curve nor an RSA key; choose another root")
        crossed = (
            x509.CertificateBuilder(subject_name=other.subject, issuer_name=self._root.subject, public_key=key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(other.not_valid_before_utc)
            .not_valid_after(other.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=True, path_length=MOST_BRIDGES - 1), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .add_extension(_key_id(other), critical=False)
            .add_extension(self._authority_key_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return _pem(crossed)

    def sealed(self, seal: Sealer) -> Authority:
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
            .add_extension(self._authority_key_id, critical=False)
        )

    @property
    def _authority_key_id(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_key_id(self._root))

    def _issued(self, builder: x509.CertificateBuilder) -> Issued:
        certificate = _pem(builder.sign(self._key, hashes.SHA256()))
        return Issued(certificate=certificate + self._between, root=self.trusted_pem)

    @property
    def tls_facts(self) -> TLSInfo:
        """What the API says of the swarm's trust: the present root, and whose certificates nodes get now."""
        return certificates.tls_facts(self.root_pem, _pem(self._root))


class StandingAuthority:
    """The cluster's authority as of now, taken up anew whenever the cluster object has another one."""

    def __init__(self, view: Callable[[], View], seal: Sealer) -> None:
        self._view = view
        self._seal = seal
        self._opened: tuple[Authority, CertificateAuthority] | None = None

    def __call__(self) -> CertificateAuthority:
        """Raises: Unavailable: there is none. Unauthenticated: its key cannot be opened."""
        cluster = self._view().cluster
        authority = cluster.authority if cluster is not None else None
        if authority is None:
            raise Unavailable("this manager has no certificate authority; try another one")
        if self._opened is None or self._opened[0] != authority:
            self._opened = (authority, CertificateAuthority.open(authority, self._seal))
        return self._opened[1]


def _key_id(root: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """How a root names its own key; those that others made may do it their own way."""
    try:
        return root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(root.public_key())


def _opened(sealed: Sealed, seal: Sealer) -> SigningKey:
    key = serialization.load_der_private_key(seal.open(sealed, KEY_PURPOSE), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidSpec("the swarm's CA key is no elliptic-curve or RSA key; restore the cluster from a backup")
    return key


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
