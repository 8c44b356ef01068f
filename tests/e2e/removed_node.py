"""What a removed node's certificate still opens: asks all ways in, again and again, run in a lab's client namespace.

    python -m tests.e2e.removed_node CREDENTIALS CONTROL API

CREDENTIALS is a copy of the node's own file. Prints one line when every way in has worked once, then, 2.5 s after each
has failed for good or at the latest 20 s later, one JSON object: when each worked last (`time.monotonic`), by name.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from skep.agent.identity import new_key_request
from skep.edge import tls_context
from skep.edge.control_client import HttpControlPort
from skep.model.identity import MANAGER_NAME, Credentials, RenewRequest
from skep.ports.transport import TransportError

LOOK_S = 0.05
OVER_S = 2.5
LIMIT_S = 20.0


class Ways:
    """The ways in, and when each of them worked last."""

    def __init__(self, credentials: Credentials, control: str, api: str) -> None:
        self.credentials = credentials
        self.control = control
        self.api = api
        self.worked: dict[str, float] = {}

    async def again_and_again(self, name: str, once: Callable[[], Awaitable[object]]) -> None:
        while True:
            with suppress(TransportError, OSError, EOFError, TimeoutError):
                async with asyncio.timeout(5):
                    await once()
                self.worked[name] = time.monotonic()
            await asyncio.sleep(LOOK_S)

    async def renew(self) -> None:
        await HttpControlPort().renew(self.control, self.credentials, RenewRequest(csr=new_key_request().csr))

    async def connect(self) -> None:
        """A session's channel; the manager waits for the hello, or says at once that the node is removed."""
        channel = await HttpControlPort().dial(self.control, self.credentials)
        try:
            async with asyncio.timeout(0.3):
                await channel.receive()
        except TimeoutError:
            return
        finally:
            await channel.close()
        raise EOFError

    async def hold(self, name: str, address: str) -> None:
        """A connection that was opened before, and stays open without a word."""
        host, _, port = address.rpartition(":")
        context = tls_context.client_context(self.credentials.root, self.credentials)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=MANAGER_NAME)
        writer.write(
            b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\nGET /events HTTP/1.1\r\nHost: x\r\n"
        )  # The rest is kept back.
        await reader.read(1)
        closed = asyncio.ensure_future(self._until_closed(reader))
        while not closed.done():
            self.worked[name] = time.monotonic()
            await asyncio.sleep(LOOK_S)
        writer.close()

    async def _until_closed(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while await reader.read(4096):
                pass


async def main() -> None:
    credentials = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Credentials)
    ways = Ways(credentials, *sys.argv[2:])
    work = [
        ways.again_and_again("renew", ways.renew),
        ways.again_and_again("session", ways.connect),
        ways.hold("held control connection", ways.control),
        ways.hold("held API connection", ways.api),
    ]
    tasks = [asyncio.ensure_future(each) for each in work]
    while len(ways.worked) < len(work):  # noqa: ASYNC110 — nobody sets an event
        await asyncio.sleep(LOOK_S)
    print("all ways are open", flush=True)
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and max(ways.worked.values()) > time.monotonic() - OVER_S:  # noqa: ASYNC110 — as above
        await asyncio.sleep(LOOK_S)
    for task in tasks:
        task.cancel()
    print(json.dumps(ways.worked))


if __name__ == "__main__":
    asyncio.run(main())
