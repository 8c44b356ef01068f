"""New versions of secrets and configs behind one name.

Edge: asyncio through `Writes`. The name always belongs to the newest version; the one before keeps its id under
`NAME.vN`, so that tasks of a service that is being updated, or is rolled back, still find what they were made with.
Services that use the name are updated in the same transaction, and roll within their own update limits. Versions that
no service and no service's previous spec uses any more go when the next one comes.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from skep.manager.control.files import MAX_CONFIG_BYTES, MAX_SECRET_BYTES, Sealer, read_data
from skep.manager.control.find import find_config, find_secret
from skep.manager.control.services import counted, updated
from skep.manager.control.writes import Writes
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec
from skep.model.secret import VERSION_OF, Config, Secret
from skep.model.service import ConfigReference, SecretReference, Service, ServiceSpec
from skep.ports.store import MAX_OPERATIONS
from skep.store.changes import Change, Delete, Put
from skep.store.state import TableView, View

MAX_SERVICES: Final = 100
"""As many services as fit into one transaction beside the versions."""

F = TypeVar("F", Secret, Config)


class Rotation:
    """Replaces values behind their names."""

    def __init__(self, writes: Writes, sealer: Sealer) -> None:
        self._writes = writes
        self._sealer = sealer

    async def secret(self, reference: str, data: str) -> Secret:
        """Give a secret's name a new value.

        Args:
            data: In base64.
        Raises:
            NotFound, InvalidSpec: There is no such secret, it is an older version, or the value is none.
        """
        id, now = self._writes.new_id(), self._writes.clock.now()
        found = find_secret(self._writes.view, reference)
        sealed = self._sealer.seal(read_data("secret", data, MAX_SECRET_BYTES), f"secret/{id}")

        def operation(view: View) -> list[Change]:
            old = find_secret(view, found.id)
            new = Secret(id=id, spec=old.spec, sealed=sealed)
            return _rotated(view, view.secrets, old, new, now)

        await self._writes.transact(operation)
        return find_secret(self._writes.view, id)

    async def config(self, reference: str, data: str) -> Config:
        """Give a config's name a new value; as `secret`."""
        id, now = self._writes.new_id(), self._writes.clock.now()
        found = find_config(self._writes.view, reference)
        content = read_data("config", data, MAX_CONFIG_BYTES)

        def operation(view: View) -> list[Change]:
            old = find_config(view, found.id)
            return _rotated(view, view.configs, old, Config(id=id, spec=old.spec, data=content), now)

        await self._writes.transact(operation)
        return find_config(self._writes.view, id)


def _rotated(view: View, table: TableView[F], old: F, new: F, now: Nanoseconds) -> list[Change]:
    kind: str = "secret" if isinstance(old, Secret) else "config"
    name = old.spec.name
    if VERSION_OF in old.spec.labels:
        raise InvalidSpec(f"{kind} {name} is an older version of {old.spec.labels[VERSION_OF]}: rotate that")
    users = [service for service in view.services.where(kind, old.id) if not service.removing]
    if len(users) > MAX_SERVICES:
        raise InvalidSpec(
            f"{kind} {name} is used by {len(users)} services, more than the {MAX_SERVICES} that can change at once; "
            f"split them over several {kind}s"
        )
    versions = [each for each in table.values() if each.spec.labels.get(VERSION_OF) == name]
    kept = _in_use(view.services.values(), kind)
    spec_version = view.revision + 1
    changes: list[Change] = [
        Put(_renamed(old, _free_name(name, versions), {**old.spec.labels, VERSION_OF: name})),
        Put(new),
    ]
    changes += [Put(counted(updated(each, _moved(each.spec, old.id, new.id), spec_version), now)) for each in users]
    room = MAX_OPERATIONS - len(changes)
    changes += [Delete(kind, each.id, each.version) for each in versions if each.id not in kept][:room]
    return changes


def _renamed(file: F, name: str, labels: dict[str, str]) -> F:
    spec = msgspec.structs.replace(file.spec, name=name, labels=labels)
    return msgspec.structs.replace(file, spec=spec)


def _free_name(name: str, versions: Iterable[Secret | Config]) -> str:
    taken = {each.spec.name.rpartition(".v")[2] for each in versions}
    newest = max((int(number) for number in taken if number.isdecimal()), default=0)
    return f"{name}.v{newest + 1}"


def _in_use(services: Iterable[Service], kind: str) -> set[str]:
    """Ids that services refer to, now or before their last update."""
    found: set[str] = set()
    for service in services:
        for spec in (service.spec, service.previous_spec):
            container = spec.task_template.container_spec if spec else None
            if container is not None and kind == "secret":
                found |= {each.secret_id for each in container.secrets or ()}
            elif container is not None:
                found |= {each.config_id for each in container.configs or ()}
    return found


def _moved(spec: ServiceSpec, old_id: str, new_id: str) -> ServiceSpec:
    """A service's spec that refers to the new version where it referred to the old one, by the same name."""
    container = spec.task_template.container_spec
    if container is None:
        return spec

    def secret(reference: SecretReference) -> SecretReference:
        is_old = reference.secret_id == old_id
        return msgspec.structs.replace(reference, secret_id=new_id) if is_old else reference

    def config(reference: ConfigReference) -> ConfigReference:
        is_old = reference.config_id == old_id
        return msgspec.structs.replace(reference, config_id=new_id) if is_old else reference

    container = msgspec.structs.replace(
        container,
        secrets=[secret(each) for each in container.secrets] if container.secrets else container.secrets,
        configs=[config(each) for each in container.configs] if container.configs else container.configs,
    )
    template = msgspec.structs.replace(spec.task_template, container_spec=container)
    return msgspec.structs.replace(spec, task_template=template)
