"""Make what a task needs before it can be started, and remove it all again.

Edge: asyncio; drives the engine, the data plane, the name server and the task's files. Both ways are idempotent, so a
daemon that was killed in the middle goes through them again.
"""

import asyncio

import structlog

from skep.agent import container as containers
from skep.agent import images, private_files
from skep.agent.host import Host
from skep.agent.waiting import BackOff, unless
from skep.core import templates
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.errors import InvalidSpec
from skep.model.service import ContainerSpec, Protocol
from skep.model.task import Task
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.runtime import Container, RuntimeFailure

NETWORK_PATIENCE = 5 * SECOND

log = structlog.get_logger(__name__)


def pauses() -> BackOff:
    """Between tries at something that may fail for a while."""
    return BackOff(100 * MILLISECOND, 5 * SECOND)


async def prepare(host: Host, task: Task, version: int, stop_wanted: asyncio.Event) -> Container:
    """Prepare everything of a task up to a container that only needs to be started.

    Args:
        version: The assignment version that must be in force in the kernel before a sandbox can be made.
        stop_wanted: Ends waiting for the image and the network.
    Raises:
        Interrupted: A stop is wanted. InvalidSpec: it can never run here. RuntimeFailure, DataPlaneFailure,
        FilesFailure, NameServiceFailure, OSError: as their adapters say.
    """
    spec = templates.expand_container(task.spec.container_spec or ContainerSpec(), task, host.node)
    containers.check(spec)
    _check_host_ports(host, task)
    await unless(stop_wanted, images.have(host, task, spec.image))
    await unless(stop_wanted, wait_networks(host, version))
    sandbox = await host.plane.prepare(host.mesh.sandbox_of(task))
    await host.names.open(host.mesh.asker_of(task))
    _write_files(host, task, spec, spec.hostname)
    files = await private_files.supply(host, task, spec, stop_wanted)
    around = containers.Surroundings(directory=host.records.path(task.id), sandbox=sandbox, files=files)
    container_id = await host.runtime.create(containers.configure(task, spec, around))
    if not spec.hostname:  # Docker's default hostname is known only now; nothing has read the files yet.
        _write_files(host, task, spec, container_id[:12])
    return await host.runtime.inspect(container_id)


def _check_host_ports(host: Host, task: Task) -> None:
    """Refuse to hide a program of the node behind a task: translation comes before its socket, and it would go silent.

    Raises:
        InvalidSpec: With Docker's sentence.
    """
    for port in containers.host_ports(task):
        if port.protocol == Protocol.TCP and port.published_port in host.probe.taken():
            raise InvalidSpec(
                "driver failed programming external connectivity: failed to bind host port for 0.0.0.0:"
                f"{port.published_port}:{port.target_port}/tcp: address already in use by a program of this node; "
                "stop that program or publish another port"
            )


async def wait_networks(host: Host, version: int) -> None:
    """Wait until an assignment version is in force in the kernel.

    Raises:
        DataPlaneFailure: It takes too long.
    """
    if host.mesh.applied_version >= version:
        return
    is_applied = asyncio.ensure_future(host.mesh.wait_applied(version - 1))
    try:
        patience = asyncio.ensure_future(host.clock.sleep(NETWORK_PATIENCE))
        try:
            await asyncio.wait({is_applied, patience}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if not is_applied.done():
            raise DataPlaneFailure(host.mesh.trouble or "the node's network is not programmed yet: is its kernel busy?")
    finally:
        is_applied.cancel()


def _write_files(host: Host, task: Task, spec: ContainerSpec, hostname: str) -> None:
    addresses = [interface.address for interface in host.mesh.sandbox_of(task).interfaces]
    contents = {
        "hosts": containers.hosts_file(spec, hostname or "localhost", addresses),
        "resolv.conf": containers.resolv_conf(spec),
        "hostname": f"{hostname}\n",
    }
    for name, text in contents.items():  # In place: a container made by an earlier daemon has these very files mounted.
        host.records.write(task.id, name, text.encode(), in_place=True)


async def release_sandbox(host: Host, task_id: str) -> None:
    """Remove a task's sandbox, however long the kernel refuses, and its secrets."""
    host.drop_files(task_id)
    between = pauses()
    while True:
        try:
            await host.names.close(task_id)
            await host.plane.release(task_id)
        except DataPlaneFailure as failure:
            log.warning("a sandbox cannot be removed yet", task=task_id, error=str(failure))
            await host.clock.sleep(between.next())
        else:
            return


async def remove_container(host: Host, task_id: str, container_id: str) -> None:
    """Remove a task's container, however long the engine refuses.

    Args:
        container_id: Empty if it is not known whether there is one: a create whose answer was lost.
    """
    between = pauses()
    while True:
        try:
            for found in [container_id] if container_id else await _containers_of(host, task_id):
                await host.runtime.remove(found)
        except RuntimeFailure as failure:
            log.warning("a container cannot be removed yet", task=task_id, error=str(failure))
            await host.clock.sleep(between.next())
        else:
            return


async def _containers_of(host: Host, task_id: str) -> list[str]:
    found = await host.runtime.list_containers()
    return [container.id for container in found if container.labels.get(containers.TASK_ID_LABEL) == task_id]
