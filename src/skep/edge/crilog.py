"""Read the log files that engines write: one line per write, with time and channel.

Edge: plain reads of a growing file. Reading the file ourselves costs the engine nothing, gives nanoseconds and keeps
working while the engine's service is away. Source: conmon's is the log format of Kubernetes' CRI:
`2026-01-31T12:00:00.123456789+00:00 stdout F text`, where P marks a part of a longer line. Other formats of one entry
per line bring their own `Parse`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from skep.lib import timestamps
from skep.ports.runtime import LogEntry, LogOptions

CHUNK = 65536
FOLLOW_INTERVAL_S = 0.1
CHANNELS = {b"stdout": 1, b"stderr": 2}


Parse = Callable[[bytes], LogEntry | None]
"""Reads one line of a file, without its newline; None if it is no entry (a torn write)."""


def parse_line(line: bytes) -> LogEntry | None:
    """Read one line of the file, without its newline; None if it is none of conmon's (a torn write)."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[1] not in CHANNELS or not parts[2]:
        return None
    try:
        moment = timestamps.parse_rfc3339(parts[0].decode("ascii"))
    except ValueError:
        return None
    payload = parts[3] + b"\n" if parts[2][:1] == b"F" else parts[3]
    return LogEntry(channel=CHANNELS[parts[1]], timestamp=moment, payload=payload)


def is_wanted(entry: LogEntry, options: LogOptions) -> bool:
    """Whether channel and time fit."""
    wanted = options.stdout if entry.channel == 1 else options.stderr
    return wanted and entry.timestamp >= options.since


class _Lines:
    """Whole lines of a growing file, from an offset on; starts over when the file was replaced or cut."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._inode = 0
        self._rest = b""

    def read(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                if (self._inode and facts.st_ino != self._inode) or facts.st_size < self._offset:
                    self._offset, self._rest = 0, b""
                self._inode = facts.st_ino
                file.seek(self._offset)
                while chunk := file.read(CHUNK):
                    self._offset += len(chunk)
                    *whole, self._rest = (self._rest + chunk).split(b"\n")
                    yield from whole
        except FileNotFoundError:
            return


def tail_offset(path: Path, options: LogOptions, parse: Parse = parse_line) -> int:
    """Find where the last `options.tail` wanted lines begin, reading backwards.

    Returns:
        A byte offset at the start of a line; the end of the file for a tail of 0.
    """
    with path.open("rb") as file:
        start, found = file.seek(0, os.SEEK_END), 0
        if options.tail == 0:
            return start
        for offset, line in _lines_backwards(file, start):
            found += _ends_wanted_line(parse(line), options)
            if found > options.tail:
                break
            start = offset  # Parts of a long line come before its end: they move the start along.
        return start


def _lines_backwards(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their offsets, last first."""
    position, pending = end, b""
    while position > 0:
        step = min(CHUNK, position)
        position -= step
        file.seek(position)
        first, *lines = (block := file.read(step) + pending).split(b"\n")
        offset = position + len(block)
        for line in reversed(lines):
            offset -= len(line)
            yield offset, line
            offset -= 1
        pending = first
    yield 0, pending


def _ends_wanted_line(entry: LogEntry | None, options: LogOptions) -> bool:
    return entry is not None and entry.payload.endswith(b"\n") and is_wanted(entry, options)


async def read_log(
    path: Path, options: LogOptions, wait_end: Callable[[], Awaitable[None]], parse: Parse = parse_line
) -> AsyncIterator[LogEntry]:
    """Yield a container's log, oldest first.

    Args:
        wait_end: Returns once the container has ended and its log is complete; used only to follow.
    """
    offset = 0
    if options.tail >= 0:
        with suppress(FileNotFoundError):
            offset = tail_offset(path, options, parse)
    lines = _Lines(path, offset)
    if not options.follow:
        for entry in _wanted(map(parse, lines.read()), options):
            yield entry
        return
    ended = asyncio.ensure_future(wait_end())
    try:
        is_last = False
        while True:
            for entry in _wanted(map(parse, lines.read()), options):
                yield entry
            if is_last:
                return
            await asyncio.wait({ended}, timeout=FOLLOW_INTERVAL_S)
            is_last = ended.done()
    finally:
        ended.cancel()


def _wanted(entries: Iterable[LogEntry | None], options: LogOptions) -> Iterator[LogEntry]:
    for entry in entries:
        if entry is not None and is_wanted(entry, options):
            yield entry
