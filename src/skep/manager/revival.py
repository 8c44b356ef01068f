"""Nodes whose certificate ended before they could renew it: who of them gets another one without a token.

Pure but for signatures, which the cryptography library checks. A node that slept through the end of its certificate
comes back if its certificate leads to a root of the swarm, was the last one it was issued or said to hold, ended no
longer ago than it had lived, and if it shows that it holds the key. So a copy of its disk from before the last renewal
is worth nothing, and neither is any copy once the node was removed. Everything else has one answer: join again.
"""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from skep.core import identity as certificates
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.errors import Removed, Unauthenticated
from skep.model.identity import Identity, RenewRequest, proof_text
from skep.store.state import View

TOO_LATE: Final = (
    "this node's certificate has ended and cannot be renewed any more; run `swarm leave` on it and join it again "
    "with a token, then remove the old node"
)


def proven(view: View, cluster: Cluster, request: RenewRequest, roots_pem: str, now: Nanoseconds) -> Identity:
    """Who asks, if they may have another certificate.

    Args:
        roots_pem: The roots that are trusted now.
    Raises:
        Unauthenticated: They may not. Removed: the node was removed.
    """
    identity, until = _holder(request, roots_pem)
    if identity.cluster_id != cluster.id:
        raise Unauthenticated(TOO_LATE)
    if identity.node_id in cluster.removed_nodes:
        raise Removed("this node was removed from the swarm")
    node = view.nodes.get(identity.node_id)
    if node is None or identity.serial not in (node.certificate_serial, node.held_serial) or now > until:
        raise Unauthenticated(TOO_LATE)
    return identity


def _holder(request: RenewRequest, roots_pem: str) -> tuple[Identity, Nanoseconds]:
    """Whose key signed the request, and until when its certificate is good for a renewal.

    Raises:
        Unauthenticated: The proof proves nothing.
    """
    proof = request.proof
    if proof is None:
        raise Unauthenticated(TOO_LATE)
    try:
        if not certificates.is_trusted(proof.certificate, roots_pem):
            raise Unauthenticated(TOO_LATE)
        leaf = certificates.load_certificate(proof.certificate)
        _check_signature(leaf, proof.signature, request.csr)
        identity = certificates.identity_of(leaf)
    except (Unauthenticated, InvalidSignature, ValueError) as error:
        raise Unauthenticated(TOO_LATE) from error
    begin, end = certificates.term_of(leaf)
    return identity, end + (end - begin)


def _check_signature(leaf: x509.Certificate, signature: bytes, csr: str) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Unauthenticated(TOO_LATE)
    key.verify(signature, proof_text(csr), ec.ECDSA(hashes.SHA256()))
