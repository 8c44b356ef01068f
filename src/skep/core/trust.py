"""Whom the nodes are to trust while one root follows another, and when the change is complete.

Pure; the dice come in. From the moment another root is asked for, it issues every certificate, each with the new root's
cross-signed certificate beside it, and both roots are trusted: whoever has not heard of the change yet, and trusts only
the old root, still finds the way from a new certificate to it, over several changes if need be. The old root goes once
every node, reachable or not, has a certificate of the new one, so nobody is shut out; a node that will not come back is
removed to get there.
Source: swarmkit/ca/reconciler.go, swarmkit/ca/server.go (UpdateRootCA).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from skep.core import identity as certificates
from skep.core.identity import MOST_BRIDGES
from skep.core.plan import NOTHING, Plan
from skep.model.cluster import Authority, Cluster, JoinTokens, RootRotation
from skep.model.identity import new_token
from skep.model.node import Node, TLSInfo
from skep.store.changes import Put
from skep.store.state import View

BRIDGE_END: Final = "-----END CERTIFICATE-----"


def roots(authority: Authority) -> str:
    """Every root that is trusted now, as PEM: the present one, and behind it the next."""
    if authority.rotation is None:
        return authority.certificate_pem
    return _joined(authority.certificate_pem, authority.rotation.certificate_pem)


def wanted(authority: Authority) -> TLSInfo:
    """What every node is to trust, and by whom its certificate is to be issued."""
    return _facts(roots(authority), _issuer(authority))


def shown(authority: Authority) -> TLSInfo:
    """What Docker's API says of the swarm's trust: the present root, but the next one as the issuer."""
    return _facts(authority.certificate_pem, _issuer(authority))


def bridges(authority: Authority) -> str:
    """What leads from the root that issues to those before it, as PEM, the nearest first; empty for the first root."""
    crossed = authority.rotation.cross_signed_pem if authority.rotation is not None else ""
    found = [part + BRIDGE_END for part in (crossed + authority.bridge_pem).split(BRIDGE_END) if part.strip()]
    return _joined(*found[:MOST_BRIDGES]) if found else ""


def has_issuer(node: Node, trust: TLSInfo) -> bool:
    """Whether a node said that its certificate is of that issuer."""
    return is_same_issuer(node.description.tls_info, trust)


def is_same_issuer(held: TLSInfo | None, other: TLSInfo) -> bool:
    """Whether two certificates have one issuer; what is trusted is not looked at."""
    return held is not None and (held.cert_issuer_public_key, held.cert_issuer_subject) == (
        other.cert_issuer_public_key,
        other.cert_issuer_subject,
    )


def reconcile(view: View, random_bytes: Callable[[int], bytes]) -> Plan:
    """Drop the old root once every node has a certificate of the next one; join tokens begin anew with its digest.

    What limited the old tokens limits the new ones.

    Returns:
        A put of the cluster, or nothing while there is no rotation or a node lacks its certificate.
    """
    cluster = view.cluster
    authority = cluster.authority if cluster is not None else None
    if cluster is None or authority is None or authority.rotation is None:
        return NOTHING
    trust = wanted(authority)
    if not all(has_issuer(node, trust) for node in view.nodes.values()):
        return NOTHING
    finished = _finished(cluster, authority, authority.rotation, random_bytes)
    return Plan((Put(finished),), None, ("every node has a certificate of the new root: the old one goes",))


def _finished(
    cluster: Cluster, authority: Authority, rotation: RootRotation, random_bytes: Callable[[int], bytes]
) -> Cluster:
    root = rotation.certificate_pem
    tokens = JoinTokens(worker=str(new_token(root, random_bytes)), manager=str(new_token(root, random_bytes)))
    settled = Authority(certificate_pem=root, sealed_key=rotation.sealed_key, bridge_pem=bridges(authority))
    return msgspec.structs.replace(cluster, authority=settled, join_tokens=tokens)


def _issuer(authority: Authority) -> str:
    return authority.rotation.certificate_pem if authority.rotation is not None else authority.certificate_pem


def _joined(*pems: str) -> str:
    return "\n".join(pem.strip() for pem in pems) + "\n"


@lru_cache(maxsize=16)
def _facts(roots_pem: str, issuer_pem: str) -> TLSInfo:
    return certificates.tls_facts(roots_pem, issuer_pem)
