"""A process that writes unique values to a SQLite store and prints each once it is acknowledged: `LANE-NUMBER SIZE`.

    python -m tests.edge.store_writer PATH FIRST [SYNCHRONOUS]

SYNCHRONOUS replaces the store's own setting, to see whether a trial would notice.
"""

import asyncio
import random
import sqlite3
import sys
from pathlib import Path
from typing import Any

from skep.edge import sqlite_file
from skep.edge.sqlite import SqliteStore
from skep.ports.store import Write

LANES = 4
PARTS = "abc"
"""Each value is a transaction of so many rows: they are there together or not at all."""


def value_of(name: str, size: int) -> bytes:
    """What is written under a name; a reader can tell it from any other."""
    return random.Random(name).randbytes(size)


def weaken(synchronous: str) -> None:
    """Make the store's files be opened with another setting."""
    connect = sqlite_file.StoreFile._connect

    def connect_weakly(file: sqlite_file.StoreFile, *arguments: Any) -> sqlite3.Connection:
        database = connect(file, *arguments)
        database.execute(f"PRAGMA synchronous = {synchronous}")
        return database

    sqlite_file.StoreFile._connect = connect_weakly  # type: ignore[method-assign,assignment]  # the mistake under trial


async def write(store: SqliteStore, lane: int, first: int) -> None:
    dice = random.Random(first + lane)
    for number in range(first, first + 1_000_000):
        name, size = f"{lane}-{number}", dice.choice([20, 300, 5000])
        await store.commit([Write("task", f"{name}-{part}", value_of(f"{name}-{part}", size), 0) for part in PARTS])
        print(name, size, flush=True)


async def main() -> None:
    path, first, *synchronous = sys.argv[1:]
    if synchronous:
        weaken(synchronous[0])
    store = await SqliteStore.open(Path(path))
    print("open", flush=True)
    await asyncio.gather(*(write(store, lane, int(first)) for lane in range(LANES)))


if __name__ == "__main__":
    asyncio.run(main())
