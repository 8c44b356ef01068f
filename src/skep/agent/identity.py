"""A node's own keys: making them, asking for a certificate, holding the one in force.

Edge: draws keys from the operating system. A private key never leaves its node; only requests for certificates do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skep.core import identity as certificates
from skep.model.base import Nanoseconds
from skep.model.errors import Unauthenticated
from skep.model.identity import Credentials, Identity, Issued, Proof, proof_text
from skep.model.session import CertificateHeld

RETRY_SHARE: Final = 0.05
"""Of the time left until the certificate ends, how much passes before a failed renewal is tried again."""


@dataclass(frozen=True, slots=True, repr=False)
class KeyRequest:
    """A fresh key and the request for its certificate, both PEM."""

    key: str
    csr: str


def new_key_request() -> KeyRequest:
    """Draw a P-256 key and ask for its certificate; the name in the request is ignored by every swarm."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-node")])
    csr = x509.CertificateSigningRequestBuilder(subject_name=name).sign(key, hashes.SHA256())
    return KeyRequest(
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        csr=csr.public_bytes(serialization.Encoding.PEM).decode(),
    )


def accept_issued(request: KeyRequest, issued: Issued) -> Credentials:
    """Put key and certificate together.

    Raises:
        Unauthenticated: The certificate is for another key, or does not lead to a root it came with.
    """
    certificate = certificates.load_certificate(issued.certificate)
    key = serialization.load_pem_private_key(request.key.encode(), password=None)
    if certificate.public_key() != key.public_key():
        raise Unauthenticated("the swarm issued a certificate for another key; join again")
    if not certificates.is_trusted(issued.certificate, issued.root):
        raise Unauthenticated("the swarm's certificate was not signed by its own root; join again")
    certificates.identity_of(certificate)
    return Credentials(certificate=issued.certificate, key=request.key, root=issued.root)


class NodeIdentity:
    """The credentials in force on this node, replaced live when they are renewed.

    Listeners and sessions ask for `credentials` at each new connection, so a renewal disturbs none that is up.
    """

    def __init__(
        self, credentials: Credentials, keep: Callable[[Credentials], None], fraction: Callable[[], float]
    ) -> None:
        """Hold credentials.

        Args:
            keep: Writes new credentials to disk; returns once a power cut cannot lose them.
            fraction: The dice, between 0 and 1, for when to renew.
        """
        self._keep = keep
        self._fraction = fraction
        self._hold(credentials)

    def _hold(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._identity = certificates.identity_of_pem(credentials.certificate)
        self._renew_at = certificates.renewal_at(credentials.certificate, self._fraction())

    @property
    def credentials(self) -> Credentials:
        return self._credentials

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def renew_at(self) -> Nanoseconds:
        return self._renew_at

    def renewed(self, credentials: Credentials) -> None:
        """Take new credentials into use: first on disk, then here.

        Raises:
            Unauthenticated: They are another node's or another cluster's.
        """
        new = certificates.identity_of_pem(credentials.certificate)
        if (new.node_id, new.cluster_id) != (self._identity.node_id, self._identity.cluster_id):
            raise Unauthenticated("the renewed certificate is for another node; the old one stays in use")
        self._keep(credentials)
        self._hold(credentials)

    @property
    def held(self) -> CertificateHeld:
        """What is in force, as the swarm is told of it."""
        return CertificateHeld(serial=self._identity.serial, trust=certificates.held_facts(self._credentials))

    def retrust(self, roots: str) -> None:
        """Trust other roots from now on: first on disk, then here.

        Raises:
            Unauthenticated: They are none, or this node's own certificate leads to none of them.
        """
        if not certificates.is_trusted(self._credentials.certificate, roots):
            raise Unauthenticated("this node's certificate is not of these roots; it keeps those it has")
        credentials = msgspec.structs.replace(self._credentials, root=roots)
        self._keep(credentials)
        self._credentials = credentials

    def prove(self, csr: str) -> Proof:
        """Show that this node holds its key to one who is to certify another.

        Raises:
            Unauthenticated: The key is of another kind than Skep makes.
        """
        key = serialization.load_pem_private_key(self._credentials.key.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Unauthenticated("this node's key is not one that Skep made; join again")
        signature = key.sign(proof_text(csr), ec.ECDSA(hashes.SHA256()))
        return Proof(certificate=self._credentials.certificate, signature=signature)

    def postpone(self, now: Nanoseconds) -> None:
        """A renewal failed: try again after a small part of the time that is left."""
        left = max(self._identity.expires_at - now, 0)
        self._renew_at = now + max(int(left * RETRY_SHARE), 1_000_000_000)
