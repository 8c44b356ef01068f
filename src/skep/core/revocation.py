"""Which managers' certificates are good for nothing any more, because their nodes are no managers.

Pure. Our own listeners look at the state, but etcd looks at certificates only: so the last ones issued to each manager
are remembered on its node, and on the cluster once it is demoted or removed, until the last of them has ended.
"""

from typing import Final

import msgspec

from skep.core.identity import BACKDATE
from skep.lib.durations import DAY
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.identity import Identity
from skep.model.node import Node, Role

REMEMBERED: Final = 8
"""No more than two of a node are valid at once, for it renews late; rotations of the root add some."""
DEFAULT_LIFE: Final = 90 * DAY


def certified(node: Node, identity: Identity) -> Node:
    """A node with the certificate it was issued."""
    serials = node.manager_serials
    if identity.role is Role.MANAGER and identity.serial not in serials:
        serials = [*serials, identity.serial][-REMEMBERED:]
    return msgspec.structs.replace(
        node, certificate_serial=identity.serial, role=identity.role, manager_serials=serials
    )


def revoked(cluster: Cluster, node: Node, now: Nanoseconds) -> Cluster:
    """The cluster in which a node's certificates as a manager count no more."""
    until = last_end(cluster, now)
    kept = {serial: end for serial, end in cluster.revoked_certificates.items() if end > now}
    return msgspec.structs.replace(cluster, revoked_certificates=kept | dict.fromkeys(node.manager_serials, until))


def last_end(cluster: Cluster, now: Nanoseconds) -> Nanoseconds:
    """When the last certificate that was issued until now has ended."""
    return now + max(cluster.spec.ca_config.node_cert_expiry, DEFAULT_LIFE) + BACKDATE
