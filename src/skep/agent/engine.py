"""Connect a manager to this node's container engine.

Edge: asyncio, through the port it is given. Whatever a manager asks the engine is as good as asked by root here, which
it is: a manager decides what runs on the node anyway.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path

from skep.model.errors import Unavailable, Unsupported
from skep.ports.bytestream import ByteStream, StreamBroken
from skep.ports.runtime import Runtime

Connect = Callable[[Path], Awaitable[ByteStream]]
"""Connects to a unix socket. Raises `StreamBroken` where nobody answers."""


async def open_engine(runtime: Runtime, connect: Connect | None, hostname: str) -> ByteStream:
    """Connect to the engine's own API.

    Raises:
        Unsupported: It has none. Unavailable: it does not answer.
    """
    path = runtime.passthrough
    if path is None or connect is None:
        raise Unsupported(
            f"the engine of node {hostname} runs tasks only and cannot be asked about containers; "
            "use `docker service logs` and `docker service ps`, or run the node with the podman engine"
        )
    try:
        return await connect(path)
    except StreamBroken as error:
        raise Unavailable(f"the container engine of node {hostname} does not answer: {error}") from error
