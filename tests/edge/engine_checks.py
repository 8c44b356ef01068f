"""What podman and Docker Engine do alike beyond the port: images bring settings, a service that dies comes back."""

import asyncio
import os
import signal

from tests.contract.runtime_places import Engine, ServicePlace, docker

from skep.lab import images
from skep.ports.runtime import ContainerState, LogOptions

SECOND = 1_000_000_000
LIMIT_S = 30
COUNTING = ("sh", "-c", "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.1; done")
FOREVER = ("sh", "-c", "while :; do sleep 1; done")


async def check_a_loaded_image_brings_command_and_health(place: ServicePlace[Engine], runtime: Engine) -> None:
    config = images.ImageConfig(entrypoint=FOREVER[:2], command=FOREVER[2:], health_test=("CMD", "true"))
    await docker(runtime, "load", stdin=images.image_archive("skep/healthy:1", images.busybox_root(), config))
    container = await runtime.run(await runtime.create(place.config(image="skep/healthy:1")))
    assert container.state is ContainerState.RUNNING
    health = container.health
    assert health is not None
    assert (health.test, health.interval, health.retries) == (("CMD", "true"), 30 * SECOND, 3)


async def check_a_killed_service_comes_back_unnoticed(place: ServicePlace[Engine], runtime: Engine) -> None:
    container_id = await runtime.create(place.config(*COUNTING))
    pid = (await runtime.run(container_id)).pid
    exits = runtime.exits()
    heard = asyncio.ensure_future(anext(exits))
    before = runtime.service.pid
    os.kill(before, signal.SIGKILL)
    container = await runtime.inspect(container_id)  # Sent again once the service is back.
    assert (container.pid, container.state) == (pid, ContainerState.RUNNING)
    assert runtime.service.pid not in (0, before)
    await check_no_line_is_lost(runtime, container_id)
    await runtime.stop(container_id, grace=0)
    async with asyncio.timeout(LIMIT_S):
        assert await heard == container_id


async def check_no_line_is_lost(runtime: Engine, container_id: str) -> None:
    """Read the log of a container that counts, until it is some numbers further than it is now."""
    lines = (await docker(runtime, "logs", container_id)).splitlines()
    wanted = len(lines) + 5
    async with asyncio.timeout(LIMIT_S):
        async for entry in runtime.logs(container_id, LogOptions(follow=True, tail=5)):
            lines.append(entry.payload.decode().strip())
            if int(lines[-1]) >= wanted:
                break
    assert list(dict.fromkeys(lines)) == [str(number) for number in range(1, wanted + 1)]
