"""An etcd that is not the managers' own: how it is reached, whether a swarm's state counts there, and how it fares.

Edge: files of certificates, the gateway. Whoever runs that etcd cares for its members, their certificates and backups.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Gateway, GatewayError, Target
from skep.edge.etcd.keys import Keys
from skep.edge.etcd.lanes import TXN
from skep.edge.etcd.members import STATUS
from skep.edge.tls_context import client_context
from skep.model.errors import InvalidSpec
from skep.model.identity import Credentials
from skep.ports.store import StoreUnavailable

ASK_S: Final = 5.0

log = structlog.get_logger(__name__)


def external_target(endpoints: Sequence[str], root: Path, certificate: Path, key: Path) -> Target:
    """How its members are reached.

    Args:
        endpoints: `https://HOST:PORT`, tried in this order.
        root, certificate, key: Files in PEM: whom to trust, and what this manager shows. May be renewed at any time.
    Raises:
        InvalidSpec: A file cannot be read, or is not what it should be.
    """
    return Target(endpoints, _RenewedContext(root, certificate, key))


class _RenewedContext:
    """The TLS context of the files as they are; what is half renewed is left until it fits together."""

    def __init__(self, *files: Path) -> None:
        """Args: files: root, certificate, key. Raises: InvalidSpec."""
        self._files = files
        try:
            self._marks = self._look()
            self._made = self._make()
        except (OSError, ValueError) as error:  # OpenSSL's errors are OSErrors.
            names = ", ".join(map(str, self._files))
            raise InvalidSpec(
                f"the certificates for the external etcd cannot be used ({error}); name a root, a certificate and its "
                f"key in PEM, instead of {names}"
            ) from error

    def __call__(self) -> ssl.SSLContext:
        try:
            marks = self._look()
            if marks != self._marks:
                self._made, self._marks = self._make(), marks
        except (OSError, ValueError) as error:
            log.info("renewed certificates for the external etcd do not fit together yet", reason=str(error))
        return self._made

    def _look(self) -> list[tuple[int, int]]:
        found = [file.stat() for file in self._files]
        return [(each.st_mtime_ns, each.st_ino) for each in found]

    def _make(self) -> ssl.SSLContext:
        root, certificate, key = (file.read_text() for file in self._files)
        return client_context(root, Credentials(certificate=certificate, key=key, root=root))


@dataclass(frozen=True, slots=True)
class Answered:
    """One endpoint. Attributes: status: what its member says; None where it does not, for the `reason`."""

    endpoint: str
    status: wire.StatusAnswer | None
    reason: str = ""


class StateMark:
    """The mark that a swarm's state counts there, which is set once the state was moved. Made in a running event loop.

    Without it, what lies there of a swarm is of a move that was cut off, and may be written over.
    """

    def __init__(self, target: Target, cluster_id: str) -> None:
        self._gateway = Gateway(target)
        self._endpoints = target.endpoints
        self._keys = Keys.of(cluster_id)

    async def is_set(self) -> bool:
        """Raises: StoreUnavailable."""
        look = wire.RequestOp(request_range=wire.Range(self._keys.settled))
        answer = await self._ask(look)
        return any(response.response_range.kvs for response in answer.responses)

    async def set(self) -> None:
        """Raises: StoreUnavailable."""
        await self._ask(wire.RequestOp(request_put=wire.Put(self._keys.settled)))

    async def forget_state(self) -> None:
        """Remove the mark and everything else there is of the swarm. Raises: StoreUnavailable."""
        prefix = self._keys.prefix
        everything = wire.DeleteRange(prefix, wire.prefix_end(prefix))
        await self._ask(wire.RequestOp(request_delete_range=everything))

    async def look(self) -> Sequence[Answered]:
        """Ask every endpoint how its member fares."""
        return await asyncio.gather(*map(self._look, self._endpoints))

    async def close(self) -> None:
        await self._gateway.close()

    async def _look(self, endpoint: str) -> Answered:
        body, limit_s = wire.encode(wire.Nothing()), self._gateway.patience.attempt_s
        try:
            status = await self._gateway.attempt(endpoint, STATUS, body, wire.StatusAnswer, limit_s=limit_s)
        except GatewayError as error:
            return Answered(endpoint, None, str(error))
        return Answered(endpoint, status)

    async def _ask(self, operation: wire.RequestOp) -> wire.TxnAnswer:
        """Ask for one thing, of a quorum; all of them are safe to be done twice."""
        try:
            return await self._gateway.ask(TXN, wire.Txn(success=[operation]), wire.TxnAnswer, limit_s=ASK_S)
        except GatewayError as error:
            raise StoreUnavailable(f"the external etcd cannot be used ({error}); see that its members run") from error
