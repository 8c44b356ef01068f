"""A few words of shell, enough for the programs that tests put into containers.

Known: `echo TEXT [>&2]`, `exit N`, `sleep SECONDS`, `true`, `false`, `trap 'exit N' SIGNAL`, `trap '' SIGNAL` and
`while :; do sleep N; done`, joined by `;`. Anything else is an error of the test, said aloud.
"""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Sequence

FOREVER = "while :; do sleep forever; done"
LOOP = re.compile(r"while :; do sleep [\d.]+; done")
TRAP = re.compile(r"trap '(?:exit (\d+))?' (\w+)")
PROGRAMS = ("sh", "true", "false", "sleep", "echo")


class Process:
    """A program as process 1: a signal without a handler does nothing to it, but for SIGKILL."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Raises: FileNotFoundError: There is no such program."""
        if arguments[0] not in PROGRAMS:
            raise FileNotFoundError(arguments[0])
        script = arguments[2] if tuple(arguments[:2]) == ("sh", "-c") else " ".join(arguments)
        self._statements = _split(script)
        self._handlers: dict[int, int | None] = {}
        self._ended = asyncio.Event()
        self.exit_code = 0

    def signal(self, number: int) -> None:
        """Send it a signal."""
        code = 137 if number == signal.SIGKILL else self._handlers.get(number)
        if code is not None and not self._ended.is_set():
            self.exit_code = code
            self._ended.set()

    async def run(self) -> AsyncIterator[tuple[int, bytes]]:
        """Run it; yields channel and line as it writes."""
        for statement in self._statements:
            await asyncio.sleep(0)
            if self._ended.is_set():
                return
            if written := _echoed(statement):
                yield written
            else:
                await self._do(statement)
        self._ended.set()

    async def _do(self, statement: str) -> None:
        word, _, rest = statement.partition(" ")
        if statement == FOREVER:
            await self._ended.wait()
        elif trap := TRAP.fullmatch(statement):
            self._handlers[signal.Signals[f"SIG{trap[2]}"]] = int(trap[1]) if trap[1] else None
        elif word == "sleep":
            await self._sleep(float(rest))
        elif word in ("exit", "true", "false"):
            self.exit_code = int(rest or 0) if word == "exit" else int(word == "false")
            if word == "exit":
                self._ended.set()
        elif statement:
            raise AssertionError(f"the fake's shell does not know: {statement}")

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass


def _split(script: str) -> list[str]:
    """Split at semicolons, but not inside loops."""
    return [part.strip().replace("\0", FOREVER) for part in LOOP.sub("\0", script).split(";")]


def _echoed(statement: str) -> tuple[int, bytes] | None:
    if not statement.startswith("echo "):
        return None
    text = statement.removeprefix("echo ")
    channel = 2 if text.endswith(">&2") else 1
    return channel, text.removesuffix(">&2").strip().encode() + b"\n"
