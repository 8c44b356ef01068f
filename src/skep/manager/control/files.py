"""Secrets and configs: small files kept by the swarm.

Edge: asyncio through `Writes`. A secret is sealed before it reaches the store and is never given back by the API.
Source: swarmkit/manager/controlapi/secret.go and config.go, also for the sentences.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from skep.manager.control.checks import check_file_name
from skep.manager.control.find import find_config, find_secret
from skep.manager.control.writes import Writes
from skep.model.errors import Conflict, InUse, InvalidSpec, Unsupported
from skep.model.sealed import Sealed
from skep.model.secret import Config, ConfigSpec, Secret, SecretSpec
from skep.model.service import Service
from skep.store.changes import Change, Delete, Put
from skep.store.state import View

MAX_SECRET_BYTES: Final = 500 * 1024
MAX_CONFIG_BYTES: Final = 1000 * 1024


class Sealer(Protocol):
    """Seals values under the cluster's data key, and opens them."""

    def seal(self, plain: bytes, purpose: str) -> Sealed: ...

    def open(self, sealed: Sealed, purpose: str) -> bytes: ...


class Secrets:
    """Operations on secrets."""

    def __init__(self, writes: Writes, sealer: Sealer) -> None:
        self._writes = writes
        self._sealer = sealer

    async def create(self, spec: SecretSpec) -> Secret:
        """Seal and store a new secret."""
        check_file_name(spec.name)
        if spec.driver is not None:
            raise Unsupported("secret drivers are not possible; give the secret's data")
        plain = read_data("secret", spec.data, MAX_SECRET_BYTES)
        id = self._writes.new_id()
        kept = msgspec.structs.replace(spec, data="")
        secret = Secret(id=id, spec=kept, sealed=self._sealer.seal(plain, f"secret/{id}"))

        def operation(view: View) -> list[Change]:
            if view.secrets.where("name", spec.name):
                raise _taken("secret", spec.name)
            return [Put(secret)]

        await self._writes.transact(operation)
        return secret

    async def update(self, reference: str, version: int, spec: SecretSpec) -> Secret:
        """Replace a secret's labels; nothing else of it changes, ever.

        The value it has may be sent along, as `stack deploy` does; if its labels are the same too, nothing is written.
        """
        secret = find_secret(self._writes.view, reference)

        def operation(view: View) -> list[Change]:
            old = find_secret(view, secret.id)
            self._writes.revisions.check("secret", old, version)
            _check_only_labels(spec.name, "" if self._holds(old, spec.data) else spec.data, old.spec.name)
            if spec.labels == old.spec.labels:
                return []
            return [Put(msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, labels=spec.labels)))]

        await self._writes.transact(operation)
        return find_secret(self._writes.view, secret.id)

    def _holds(self, secret: Secret, data: str) -> bool:
        """Whether a secret has this very value."""
        if not data or secret.sealed is None:
            return False
        held = self._sealer.open(secret.sealed, f"secret/{secret.id}")
        return hmac.compare_digest(held, read_data("secret", data, MAX_SECRET_BYTES))

    async def remove(self, reference: str) -> None:
        """Remove a secret no service uses."""
        secret = find_secret(self._writes.view, reference)

        def operation(view: View) -> list[Change]:
            found = find_secret(view, secret.id)
            _check_unused("secret", found.spec.name, view.services.where("secret", found.id))
            return [Delete("secret", found.id, found.version)]

        await self._writes.transact(operation)


class Configs:
    """Operations on configs."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes

    async def create(self, spec: ConfigSpec) -> Config:
        """Store a new config."""
        check_file_name(spec.name)
        kept = msgspec.structs.replace(spec, data="")
        config = Config(id=self._writes.new_id(), spec=kept, data=read_data("config", spec.data, MAX_CONFIG_BYTES))

        def operation(view: View) -> list[Change]:
            if view.configs.where("name", spec.name):
                raise _taken("config", spec.name)
            return [Put(config)]

        await self._writes.transact(operation)
        return config

    async def update(self, reference: str, version: int, spec: ConfigSpec) -> Config:
        """Replace a config's labels; nothing else of it changes, ever."""
        config = find_config(self._writes.view, reference)

        def operation(view: View) -> list[Change]:
            old = find_config(view, config.id)
            self._writes.revisions.check("config", old, version)
            data = base64.b64encode(old.data).decode()
            _check_only_labels(spec.name, "" if spec.data == data else spec.data, old.spec.name)
            return [Put(msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, labels=spec.labels)))]

        await self._writes.transact(operation)
        return find_config(self._writes.view, config.id)

    async def remove(self, reference: str) -> None:
        """Remove a config no service uses."""
        config = find_config(self._writes.view, reference)

        def operation(view: View) -> list[Change]:
            found = find_config(view, config.id)
            _check_unused("config", found.spec.name, view.services.where("config", found.id))
            return [Delete("config", found.id, found.version)]

        await self._writes.transact(operation)


def read_data(kind: str, text: str, limit: int) -> bytes:
    """A value as it was sent.

    Raises:
        InvalidSpec: It is not base64, or too long, or nothing.
    """
    try:
        plain = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSpec(f"the {kind}'s data is not base64") from error
    if not 0 < len(plain) <= limit:
        raise InvalidSpec(f"{kind} data must be larger than 0 and less than {limit} bytes")
    return plain


def _taken(kind: str, name: str) -> Conflict:
    return Conflict(f"rpc error: code = AlreadyExists desc = {kind} {name} already exists")


def _check_only_labels(name: str, data: str, old_name: str) -> None:
    if name not in ("", old_name) or data:
        raise InvalidSpec("only updates to Labels are allowed")


def _check_unused(kind: str, name: str, services: Sequence[Service]) -> None:
    users = sorted({service.spec.name for service in services if not service.removing})
    if users:
        noun = "service" if len(users) == 1 else "services"
        raise InUse(
            f"rpc error: code = InvalidArgument desc = {kind} '{name}' is in use by the following {noun}: "
            + ", ".join(users)
        )
