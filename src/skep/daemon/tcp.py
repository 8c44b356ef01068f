"""The Engine API on TCP: this node's own certificate, and whom it believes, as of each connection.

Edge: TLS contexts. Without a swarm there is no certificate, so every connection is refused until the node is in one.
"""

import ssl
from collections.abc import Callable
from functools import partial

from skep.daemon.node import Node
from skep.edge import tls, tls_context
from skep.model.identity import Credentials

OLDEST = ssl.TLSVersion.TLSv1_2
"""Old clients of Docker's API do not speak 1.3."""


def context(node: Node) -> Callable[[], ssl.SSLContext]:
    """The TLS context for the next connection. What it returns raises `tls.Refused` on a node out of any swarm."""

    def credentials() -> Credentials:
        held = node.credentials
        if held is None:
            raise tls.Refused("this node is in no swarm")
        return held

    return tls_context.LiveContext(credentials, partial(tls_context.server_context, oldest=OLDEST))


def trust(node: Node) -> Callable[[], tls.Trust]:
    """Whom the next connection may come from."""
    return lambda: tls.Trust(node.cluster_id, node.is_stranger, admits_operators=True, is_demoted=node.is_demoted)
