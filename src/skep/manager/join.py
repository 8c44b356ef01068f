"""Who gets a certificate: newcomers with a join token, and nodes whose certificate is to be renewed.

A thin runner: the checks are pure, what they decide is certified at once and committed before it is answered. Every
wrong token gets the same answer; one address may be wrong only so often before it is not even logged any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from skep.core import identity as certificates
from skep.core.roles import certified_role
from skep.lib.rates import TokenBuckets
from skep.manager import ca
from skep.manager.ca import CertificateAuthority
from skep.manager.join_tokens import is_good, limit_of, role_of_token
from skep.manager.revival import proven
from skep.model.cluster import Cluster
from skep.model.errors import Forbidden, InvalidSpec, Removed, Unauthenticated, Unavailable
from skep.model.identity import REFUSED, Identity, Issued, JoinRequest, Newcomer, RenewRequest
from skep.model.node import Role
from skep.ports.clock import Clock
from skep.store.state import View

log = structlog.get_logger(__name__)

WRONG_PER_SECOND: Final = 0.5
WRONG_BURST: Final = 10


class Registry(Protocol):
    """Where nodes are kept. Both return once it is committed, and raise `skep.model.errors`."""

    async def admit(self, newcomer: Newcomer) -> None:
        """Create the node; the same newcomer may come twice."""
        ...

    async def certify(self, identity: Identity) -> None:
        """Note the certificate a node now has."""
        ...


@dataclass(frozen=True, slots=True)
class Admission:
    """The ways to a certificate.

    Attributes:
        view: The state as of the last commit.
        authority: The swarm's, once it has been opened.
    """

    view: Callable[[], View]
    authority: Callable[[], CertificateAuthority]
    registry: Registry
    clock: Clock
    wrong: TokenBuckets

    @classmethod
    def over(
        cls,
        view: Callable[[], View],
        authority: Callable[[], CertificateAuthority],
        registry: Registry,
        clock: Clock,
    ) -> "Admission":
        """Admission with the usual limit on wrong tokens."""
        return cls(view, authority, registry, clock, TokenBuckets(WRONG_PER_SECOND, WRONG_BURST))

    def root(self) -> str:
        return self.authority().root_pem

    def is_removed(self, node_id: str) -> bool:
        """Whether a node was removed. One that is merely unknown was not: this manager may lag behind."""
        cluster = self.view().cluster
        return cluster is not None and node_id in cluster.removed_nodes

    def is_demoted(self, node_id: str) -> bool:
        """Whether a node is not known to be a manager, whatever a certificate that it had before says."""
        node = self.view().nodes.get(node_id)
        return node is None or node.role is Role.WORKER

    async def join(self, request: JoinRequest, *, address: str) -> Issued:
        """Let a newcomer in.

        Args:
            address: Where it asks from.
        Raises:
            InvalidSpec: The token is wrong, in whatever way; or its certificate request is unsound.
            Forbidden: The key belongs to a node that was removed.
        """
        cluster = self._cluster()
        role = role_of_token(request.token, cluster)
        if role is None or not self._is_good(role, request.csr, cluster):
            if self.wrong.take(address, self.clock.now()):
                log.warning("a join was refused: wrong token", address=address)
            raise InvalidSpec(REFUSED)
        node_id = ca.node_id_of(request.csr)
        if self.is_removed(node_id):
            raise Forbidden("this key belongs to a node that was removed; join with a fresh one")
        known = self.view().nodes.get(node_id)
        holder = Identity(node_id=node_id, role=known.role if known else role, cluster_id=cluster.id)
        issued, identity = self._issue(request.csr, holder, cluster, address)
        if known is None:
            await self.registry.admit(
                Newcomer(
                    identity=identity,
                    availability=request.availability,
                    address=address,
                    token=request.token,
                    has_etcd=request.has_etcd,
                )
            )
        log.info("a node joined", node=node_id, role=role.value, address=address)
        return issued

    async def renew(self, identity: Identity, request: RenewRequest, *, address: str = "") -> Issued:
        """Renew a node's certificate, with the role that is now asked of it.

        Args:
            address: Where it asks from.
        Raises:
            Forbidden: The node was removed.
            Unavailable: This manager does not know the node (yet).
            InvalidSpec: The request is unsound.
        """
        if self.is_removed(identity.node_id):
            raise Removed("this node was removed from the swarm")
        node = self.view().nodes.get(identity.node_id)
        if node is None:
            raise Unavailable("this manager does not know the node yet; try again")
        cluster = self._cluster()
        holder = Identity(node_id=node.id, role=certified_role(node), cluster_id=cluster.id)
        issued, renewed = self._issue(request.csr, holder, cluster, address)
        await self.registry.certify(renewed)
        return issued

    async def revive(self, request: RenewRequest, *, address: str = "") -> Issued:
        """Renew a certificate that has ended, for a node that proves to hold its key; see `manager.revival`.

        Args:
            address: Where it asks from.
        Raises:
            Unauthenticated: It may not have another one without a token. Others: as of `renew`.
        """
        try:
            identity = proven(self.view(), self._cluster(), request, self.authority().trusted_pem, self.clock.now())
        except Unauthenticated:
            if self.wrong.take(address, self.clock.now()):
                log.warning("a renewal was refused: its certificate has ended for good", address=address)
            raise
        log.info("a node whose certificate had ended is back", node=identity.node_id, address=address)
        return await self.renew(identity, request, address=address)

    def _is_good(self, role: Role, csr: str, cluster: Cluster) -> bool:
        limit, now = limit_of(cluster, role), self.clock.now()
        return is_good(limit, now) or (is_good(limit, now, has_joined=True) and self._has_joined(csr))

    def _has_joined(self, csr: str) -> bool:
        try:
            return ca.node_id_of(csr) in self.view().nodes
        except InvalidSpec:
            return False

    def _cluster(self) -> Cluster:
        cluster = self.view().cluster
        if cluster is None:
            raise Unavailable("this manager has no state yet; try again")
        return cluster

    def _issue(self, csr: str, holder: Identity, cluster: Cluster, address: str) -> tuple[Issued, Identity]:
        lifetime = cluster.spec.ca_config.node_cert_expiry
        issued = self.authority().issue(csr, holder, now=self.clock.now(), lifetime=lifetime, address=address)
        return issued, certificates.identity_of_pem(issued.certificate)
