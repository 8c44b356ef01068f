"""Unique values written through several managers' sockets, each verified once and then removed again.

    python -m tests.e2e.api_load RATE SOCKET...

Creates RATE configs a second, spread over the managers; what was answered with 201 is acknowledged, what broke off is
unknown. For each line `{"sockets": […]}` on standard input it looks for everything acknowledged until then on each of
those managers, prints what it found as one line of JSON, and has it removed beside the load, so that the swarm's state
stays small. Ends with its standard input.
"""

import asyncio
import base64
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

ANSWER_S = 8.0
ARRIVAL_S = 20.0
"""What was acknowledged by one manager has to be on every other that works within this time."""
MAX_OPEN = 48
"""Requests one manager may be keeping to itself; the next go to another one."""
TICK_S = 0.01
NOT_STORED = "nothing was stored"


@dataclass
class Findings:
    """What one look showed.

    Attributes:
        unwanted: There although their removal was acknowledged, or although it was said that nothing was stored.
        latencies_s: Of the writes acknowledged since the last look.
    """

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    held_back: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unwanted: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@dataclass
class Manager:
    """One socket. Attributes: n_open: requests that are under way."""

    socket: str
    client: aiohttp.ClientSession
    n_open: int = 0

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Raises: aiohttp.ClientError, OSError, TimeoutError: What became of it is not known."""
        self.n_open += 1
        try:
            async with self.client.request(method, f"http://skep{path}", json=body) as response:
                return response.status, await response.json() if response.content_type == "application/json" else None
        finally:
            self.n_open -= 1


class ApiLoad:
    """The load and what it knows of every value it wrote."""

    def __init__(self, managers: list[Manager], rate: float) -> None:
        self._managers = managers
        self._rate = rate
        self._mark = f"{random.SystemRandom().getrandbits(32):08x}"
        self._acknowledged: dict[str, str] = {}
        self._unknown: set[str] = set()
        self._gone: set[str] = set()
        self._to_remove: deque[tuple[str, str]] = deque()
        self._since = Findings()
        self._running: set[asyncio.Task[None]] = set()

    async def write(self) -> None:
        """Write at the rate until cancelled; what no manager takes in time is not caught up with."""
        began, number = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * self._rate)
            while number < due:
                number += 1
                self._begin(number)
            await asyncio.sleep(TICK_S)

    def _begin(self, number: int) -> None:
        n = len(self._managers)
        free = [m for m in (self._managers[(number + k) % n] for k in range(n)) if m.n_open < MAX_OPEN]
        if not free:
            self._since.held_back += 1
            return
        self._spawn(self._write_one(free[0], f"{self._mark}-{number}"))

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _write_one(self, manager: Manager, name: str) -> None:
        began = time.monotonic()
        body = {"Name": name, "Data": base64.b64encode(name.encode()).decode()}
        try:
            status, answer = await manager.call("POST", "/configs/create", body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            self._unknown.add(name)
            self._since.unknown += 1
            return
        if status == 201:
            self._acknowledged[name] = answer["ID"]
            self._since.acknowledged += 1
            self._since.latencies_s.append(round(time.monotonic() - began, 4))
            return
        text = f"{status} {answer}"
        (self._gone if NOT_STORED in text else self._unknown).add(name)
        self._since.refused += 1
        if text not in self._since.refusals:
            self._since.refusals.append(text)

    async def look(self, sockets: list[str]) -> Findings:
        """Compare what each of these managers has with what was acknowledged, and have that removed."""
        findings, self._since = self._since, Findings()
        wanted = dict(self._acknowledged)
        gone = set(self._gone)
        for manager in self._managers:
            if manager.socket in sockets:
                await self._look_at(manager, wanted, gone, findings)
        for name in wanted:
            del self._acknowledged[name]
        self._to_remove.extend(wanted.items())
        return findings

    async def _look_at(self, manager: Manager, wanted: dict[str, str], gone: set[str], findings: Findings) -> None:
        limit = time.monotonic() + ARRIVAL_S
        while True:
            listed = await self._listed(manager, limit)
            missing = [name for name, id in wanted.items() if listed.get(name, [None])[0] != id]
            back = listed.keys() & gone
            if not (missing or back) or time.monotonic() > limit:
                break
            await asyncio.sleep(0.2)
        findings.lost += [f"{name} on {manager.socket}" for name in missing]
        findings.twice += [f"{name} on {manager.socket}" for name, ids in listed.items() if len(ids) > 1]
        findings.unwanted += [f"{name} on {manager.socket}" for name in back]

    async def _listed(self, manager: Manager, limit: float) -> dict[str, list[str]]:
        """Ids by name, as this manager has them; nothing if it does not answer in time."""
        while time.monotonic() < limit:
            try:
                status, answer = await manager.call("GET", "/configs")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                status, answer = 0, None
            if status == 200:
                found: dict[str, list[str]] = {}
                for each in answer:
                    found.setdefault(each["Spec"]["Name"], []).append(each["ID"])
                # What broke off and is there all the same is to be removed as well.
                for name in self._unknown & found.keys():
                    self._unknown.discard(name)
                    self._to_remove.append((name, found[name][0]))
                return found
            await asyncio.sleep(0.1)
        return {}

    async def remove(self) -> None:
        """Remove what was looked at, as fast as it goes, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            for manager in self._managers:
                while self._to_remove and manager.n_open < MAX_OPEN // 2:
                    name, id = self._to_remove.popleft()
                    self._spawn(self._remove_one(manager, name, id))

    async def _remove_one(self, manager: Manager, name: str, id: str) -> None:
        try:
            status, _ = await manager.call("DELETE", f"/configs/{id}")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            status = 0
        if status == 204:
            self._gone.add(name)
        elif status == 404:
            self._unknown.add(
                name
            )  # Removed by a request that broke off, or this manager is behind: the next look tells.
        else:
            self._to_remove.append((name, id))


async def main() -> None:
    rate, *sockets = sys.argv[1:]
    limit = aiohttp.ClientTimeout(total=ANSWER_S)
    managers = [
        Manager(path, aiohttp.ClientSession(connector=aiohttp.UnixConnector(path, limit=0), timeout=limit))
        for path in sockets
    ]
    load = ApiLoad(managers, float(rate))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    lanes = [asyncio.ensure_future(lane) for lane in (load.write(), load.remove())]
    print("started", flush=True)
    while line := await lines.readline():
        print(json.dumps(asdict(await load.look(json.loads(line)["sockets"]))), flush=True)
    for lane in lanes:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)
    for manager in managers:
        await manager.client.close()


if __name__ == "__main__":
    asyncio.run(main())
