"""The sandboxes of plain containers on the swarm's networks: interfaces, names and the files they read.

Edge: asyncio; drives the data plane and the name server, writes small files. What is in force already is not written
again, so that looking at a container costs nothing while nothing changes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from skep.agent import container as containers
from skep.agent import preparation
from skep.agent.assignments import AssignmentSet
from skep.agent.attached import HOSTS, RESOLV_CONF, AttachedContainer, ContainerEndpoint
from skep.agent.host import Host
from skep.model.errors import Unavailable
from skep.model.lifecycle import TaskState
from skep.model.service import ContainerSpec, DNSConfig
from skep.model.task import Task, TaskStatus
from skep.ports.dataplane import DataPlaneFailure, SandboxConfig, SandboxInterface
from skep.ports.resolver import Asker, NameServiceFailure

NOTHING_FITS: Final = (DataPlaneFailure, NameServiceFailure, OSError)

log = structlog.get_logger(__name__)


class PlainSandboxes:
    """All of a node. One event loop."""

    def __init__(self, host: Host, assignments: AssignmentSet) -> None:
        self._host = host
        self._assignments = assignments
        self._in_force: dict[str, tuple[SandboxConfig, Asker]] = {}

    def forget_all(self) -> None:
        """Trust nothing that was done before: another daemon may have been in between."""
        self._in_force.clear()

    def task(self, task_id: str) -> Task | None:
        """An attachment as the managers assigned it; None if they did not (yet)."""
        assigned = self._assignments.intent.tasks.get(f"task/{task_id}")
        return assigned.task if assigned is not None else None

    def address_of(self, endpoint: ContainerEndpoint) -> str:
        """With prefix length; empty while it has none."""
        task = self.task(endpoint.task_id)
        return next((each.address for each in task.attachments if each.address), "") if task is not None else ""

    async def release(self, sandbox_id: str) -> None:
        """Remove a sandbox; no error if it is gone.

        Raises:
            DataPlaneFailure: The kernel does not do it now.
        """
        self._in_force.pop(sandbox_id, None)
        await self._host.names.close(sandbox_id)
        await self._host.plane.release(sandbox_id)

    async def shape(self, container: AttachedContainer) -> None:
        """Give a sandbox exactly the interfaces and names that it has addresses for.

        Raises:
            Unavailable: The kernel does not do it now.
        """
        held = {each.number: each for each in container.endpoints if self.address_of(each)}
        networks = [each.network_id for each in held.values()]
        has_exit = bool(held) and self._host.mesh.has_way_out(networks)
        none = SandboxInterface(network_id="", address="")
        config = SandboxConfig(
            task_id=container.sandbox_id,
            interfaces=[
                SandboxInterface(network_id=held[number].network_id, address=self.address_of(held[number]))
                if number in held
                else none
                for number in range(max(held, default=-1) + 1)
            ],
            gateway=has_exit and not container.is_borrowed,
            namespace=Path(f"/proc/{container.pid}/ns/net") if container.is_borrowed else None,
        )
        asker = Asker(
            task_id=container.sandbox_id,
            networks=tuple(networks),
            is_forwarding=has_exit or container.is_borrowed,
            resolvers=tuple(container.nameservers),
        )
        if self._in_force.get(container.sandbox_id) == (config, asker):
            return
        self._in_force.pop(container.sandbox_id, None)
        try:
            await preparation.wait_networks(self._host, self._assignments.version)
            await self._host.plane.prepare(config)
            await self._host.names.open(asker)
            self.write_files(container, [self.address_of(each) for each in held.values()])
        except NOTHING_FITS as failure:
            raise Unavailable(f"the container's network cannot be prepared: {failure}") from failure
        self._in_force[container.sandbox_id] = config, asker
        for endpoint in held.values():
            self._report(endpoint.task_id)

    def _report(self, task_id: str) -> None:
        task = self.task(task_id)
        if task is not None and task.status.state < TaskState.RUNNING:
            status = TaskStatus(timestamp=self._host.clock.now(), state=TaskState.RUNNING, message="attached")
            self._host.report(task_id, status)

    def restore_files(self, container: AttachedContainer) -> None:
        """Let a container ask its engine's name servers again."""
        lines = [f"nameserver {server}" for server in container.nameservers]
        if container.search:
            lines.insert(0, "search " + " ".join(container.search))
        try:
            Path(container.resolv_conf).write_text("\n".join(lines) + "\n")
        except OSError as failure:  # It is gone with the container.
            log.warning("a container's resolv.conf cannot be written", path=container.resolv_conf, error=str(failure))

    def write_files(self, container: AttachedContainer, addresses: Sequence[str]) -> None:
        """In place: the container may have these very files mounted."""
        spec = ContainerSpec(
            hosts=list(container.hosts),
            dns_config=DNSConfig(search=list(container.search), options=list(container.options)),
        )
        if container.is_borrowed:
            Path(container.resolv_conf).write_text(containers.resolv_conf(spec))
            return
        hostname = container.hostname or container.container_id[:12] or "localhost"
        contents = {HOSTS: containers.hosts_file(spec, hostname, addresses), RESOLV_CONF: containers.resolv_conf(spec)}
        for name, text in contents.items():
            self._host.records.write(container.sandbox_id, name, text.encode(), in_place=True)
