"""Certificates for tests: one small swarm's authority and whoever it certifies."""

import time
from dataclasses import dataclass, field

from skep.agent.identity import NodeIdentity, accept_issued, new_key_request
from skep.manager.ca import CertificateAuthority
from skep.model.identity import Credentials, Identity, Operator
from skep.model.node import Role

CLUSTER_ID = "cluster0000000000000000000"


@dataclass
class Authorities:
    """A swarm's authority. `make` gives a node's credentials; `life_s` may be in the past."""

    cluster_id: str = CLUSTER_ID
    authority: CertificateAuthority = field(default_factory=lambda: CertificateAuthority.create(time.time_ns()))

    def make(
        self,
        node_id: str,
        role: Role = Role.WORKER,
        *,
        life_s: float = 3600,
        cluster_id: str | None = None,
        address: str = "",
    ) -> Credentials:
        request = new_key_request()
        holder = Identity(node_id=node_id, role=role, cluster_id=cluster_id or self.cluster_id)
        issued = self.authority.issue(
            request.csr, holder, now=time.time_ns(), lifetime=int(life_s * 1e9), address=address
        )
        return accept_issued(request, issued)

    def operator(self, name: str, *, life_s: float = 3600, cluster_id: str | None = None) -> Credentials:
        request = new_key_request()
        holder = Operator(name=name, cluster_id=cluster_id or self.cluster_id)
        issued = self.authority.issue_operator(request.csr, holder, now=time.time_ns(), lifetime=int(life_s * 1e9))
        return Credentials(certificate=issued.certificate, key=request.key, root=issued.root)

    def node(self, node_id: str, role: Role = Role.WORKER) -> NodeIdentity:
        return NodeIdentity(self.make(node_id, role), lambda _: None, lambda: 0.5)
