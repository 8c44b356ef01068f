"""Services: create, update, roll back, remove.

Edge: asyncio through `Writes`. Source: swarmkit/manager/controlapi/service.go.
"""

import msgspec

from skep.core.orchestrate import jobs, modes, rebalance
from skep.core.orchestrate.rebalance import Move
from skep.core.rehearsal import Rehearsal, rehearse
from skep.core.schedule import Inventory
from skep.lib.names import random_name
from skep.manager.control.files import Sealer
from skep.manager.control.find import find_service
from skep.manager.control.service_checks import check_kept, checked_service
from skep.manager.control.writes import Writes
from skep.model.base import Nanoseconds
from skep.model.errors import InUse, InvalidSpec, NotFound
from skep.model.registry import NO_AUTH, AuthSource, read_auth
from skep.model.sealed import Sealed
from skep.model.service import Service, ServiceSpec, UpdateStatus, registry_auth_purpose
from skep.store.changes import Put
from skep.store.state import View


class Services:
    """Operations on services."""

    def __init__(self, writes: Writes, sealer: Sealer) -> None:
        self._writes = writes
        self._sealer = sealer

    async def create(self, spec: ServiceSpec, auth: AuthSource = NO_AUTH) -> Service:
        """Store a new service, named by chance if its user did not; the leader does the rest."""
        id = self._writes.new_id()
        given = self._given_auth(id, auth)
        if not spec.name:
            spec = msgspec.structs.replace(spec, name=self._free_name())
        now = self._writes.clock.now()

        def operation(view: View) -> list[Put]:
            checked = checked_service(view, spec)
            service = Service(id=id, spec=checked, spec_version=view.revision + 1, registry_auth=given)
            return [Put(counted(service, now))]

        await self._writes.transact(operation)
        return self._stored(id)

    async def update(self, reference: str, version: int, spec: ServiceSpec, auth: AuthSource = NO_AUTH) -> Service:
        """Replace the spec of the service as of `version`; registry credentials not given anew stay."""
        service = find_service(self._writes.view, reference)
        given = self._given_auth(service.id, auth)
        now = self._writes.clock.now()

        def operation(view: View) -> list[Put]:
            old = find_service(view, service.id)
            self._writes.revisions.check("service", old, version)
            check_kept(old.spec, spec)
            new = updated(old, checked_service(view, spec, old.id), view.revision + 1)
            kept = old.previous_registry_auth if auth.taken_from == "previous-spec" else old.registry_auth
            return [Put(counted(msgspec.structs.replace(new, registry_auth=given or kept), now))]

        await self._writes.transact(operation)
        return self._stored(service.id)

    async def roll_back(self, reference: str, version: int, auth: AuthSource = NO_AUTH) -> Service:
        """Swap the spec of the service as of `version` with the one before, registry credentials and all."""
        service = find_service(self._writes.view, reference)
        given = self._given_auth(service.id, auth)
        now = self._writes.clock.now()

        def operation(view: View) -> list[Put]:
            old = find_service(view, service.id)
            self._writes.revisions.check("service", old, version)
            if old.previous_spec is None:
                raise InUse(f"service {old.id} does not have a previous spec")
            spec = checked_service(view, old.previous_spec, old.id)
            new = rolled_back(old, spec, view.revision + 1, now)
            before = given or old.previous_registry_auth or old.registry_auth
            return [Put(counted(msgspec.structs.replace(new, registry_auth=before), now))]

        await self._writes.transact(operation)
        return self._stored(service.id)

    async def remove(self, reference: str) -> None:
        """Have a service's tasks stopped; the leader deletes it after the last of them."""
        service = find_service(self._writes.view, reference)
        await self._writes.transact(
            lambda view: [Put(msgspec.structs.replace(find_service(view, service.id), removing=True))]
        )

    def _given_auth(self, service_id: str, auth: AuthSource) -> Sealed | None:
        """The credentials that came with a request, sealed; None if they name nobody.

        Raises:
            InvalidSpec: They cannot be read, or are to come from nowhere.
        """
        if auth.taken_from not in ("", "spec", "previous-spec"):
            raise InvalidSpec(
                f"unsupported registryAuthFrom value '{auth.taken_from}'; it can be spec or previous-spec"
            )
        if read_auth(auth.header).is_empty:
            return None
        return self._sealer.seal(auth.header.encode(), registry_auth_purpose(service_id))

    def _free_name(self) -> str:
        name = random_name(self._writes.random_bytes)
        while any(self._writes.view.services.where("name", name)):
            name = f"{random_name(self._writes.random_bytes)}-{self._writes.new_id()[:6]}"
        return name

    def rehearse(self, spec: ServiceSpec, reference: str = "") -> Rehearsal:
        """What would become of a new service, or of an existing one with another spec; everything is checked first."""
        view, now = self._writes.view, self._writes.clock.now()
        if reference:
            old = find_service(view, reference)
            check_kept(old.spec, spec)
            service = updated(old, checked_service(view, spec, old.id), view.revision + 1)
        else:
            checked = checked_service(view, spec)
            service = Service(id=self._writes.new_id(), spec=checked, spec_version=view.revision + 1)
        return rehearse(view, counted(service, now), now, self._writes.new_id)

    async def rebalance(self, reference: str, *, is_dry: bool) -> list[Move]:
        """Mark the tasks of a service that would be better off elsewhere; the leader moves them.

        Returns:
            The moves; with `is_dry` nothing is stored.
        """
        service = find_service(self._writes.view, reference)
        found: list[Move] = []

        def operation(view: View) -> list[Put]:
            now = self._writes.clock.now()
            found[:] = rebalance.moves(view, find_service(view, service.id), Inventory.of(view), now)
            return [Put(msgspec.structs.replace(move.task, move=rebalance.REASON)) for move in found]

        if is_dry:
            operation(self._writes.view)
        else:
            await self._writes.transact(operation)
        return found

    def _stored(self, id: str) -> Service:
        service = self._writes.view.services.get(id)
        if service is None:
            raise NotFound(f"service {id} not found")  # Removed by someone else this very moment.
        return service


def counted(service: Service, now: Nanoseconds) -> Service:
    """A job with its iteration, at once: Docker's CLI reads it before the leader has looked."""
    return msgspec.structs.replace(service, job_status=jobs.iteration(service, now))


def updated(old: Service, spec: ServiceSpec, spec_version: int) -> Service:
    """A service with a new spec. Nothing happened yet of this update, whatever became of the last one."""
    return msgspec.structs.replace(
        old,
        spec=spec,
        spec_version=max(spec_version, old.spec_version + 1),
        previous_spec=old.spec,
        previous_spec_version=old.spec_version,
        previous_registry_auth=old.registry_auth,
        update_status=None,
    )


def rolled_back(old: Service, spec: ServiceSpec, spec_version: int, now: Nanoseconds) -> Service:
    """A service on its way back to the spec before; a job simply begins again with it."""
    if modes.is_job(modes.mode_of(spec)):
        return updated(old, spec, spec_version)
    status = UpdateStatus(state="rollback_started", started_at=now, message="manually requested rollback")
    return msgspec.structs.replace(updated(old, spec, spec_version), update_status=status)
