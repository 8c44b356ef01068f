"""Trials of power cuts: a store's writer on ext4 on a disk with a volatile cache, cut at a random request of the disk.

    unshare --mount python -m tests.edge.power_cuts DIRECTORY TRIALS SEED [--lying] [--synchronous OFF]

Prints one line of JSON for each trial. Whatever ends this process, its mounts end with its mount namespace, and the
loop devices with the mounts. Each trial goes on with the disk that the cut before it left, so that recoveries are cut,
too; every tenth begins with an empty file system. What was acknowledged must be there after every later cut.
"""

import argparse
import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.edge.store_writer import PARTS, value_of
from tests.edge.volatile_disk import VolatileDisk

from skep.edge.sqlite import SqliteStore
from skep.ports.store import StoreError

IMAGE_BYTES = 32 << 20
LIMIT_S = 60.0
FRESH_EVERY = 10
MAX_REQUESTS = 250
"""Opening the store takes some 20 requests of the disk, a group of commits some 2 to 4."""


@dataclass
class Outcome:
    """Attributes: acknowledged: since the file system was empty; torn: transactions of which only a part is there."""

    trial: int
    cut_after: int
    acknowledged: int = 0
    unflushed: int = 0
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    damage: str = ""


class Trials:
    """What goes from one trial to the next."""

    def __init__(self, directory: Path, seed: int, *, is_lying: bool, synchronous: str) -> None:
        self._directory = directory
        self._dice = random.Random(seed)
        self._is_lying = is_lying
        self._synchronous = [synchronous] if synchronous else []
        self._places = {name: directory / name for name in ("fuse", "mounted", "copy")}
        for place in self._places.values():
            place.mkdir()
        self._empty = self._make_file_system()
        self._image = self._empty
        self._acknowledged: dict[str, int] = {}
        self._is_beyond_repair = False

    def run(self, trial: int) -> Outcome:
        if trial % FRESH_EVERY == 0 or self._is_beyond_repair:
            self._image = self._empty
            self._acknowledged.clear()
        outcome = Outcome(trial, cut_after=self._dice.randint(1, MAX_REQUESTS))
        self._image = self._cut_while_writing(outcome)
        self._look(outcome)
        self._is_beyond_repair = bool(outcome.damage)
        return outcome

    def _make_file_system(self) -> bytes:
        file = self._directory / "empty.img"
        file.write_bytes(bytes(IMAGE_BYTES))
        lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-E", lazy, str(file)], check=True)
        return file.read_bytes()

    def _cut_while_writing(self, outcome: Outcome) -> bytes:
        """Let a writer write until the disk stands still; what the disk would hold after a power cut then."""
        disk = VolatileDisk(self._image, is_lying=self._is_lying)
        disk.attach(self._places["fuse"])
        mounted = self._places["mounted"]
        try:
            subprocess.run(["mount", "-o", "loop", str(disk.path), str(mounted)], check=True)
            try:
                disk.freeze_after(outcome.cut_after)
                with self._writer(mounted / "store.db", outcome.trial * 1_000_000) as writer:
                    self._note_until(disk, writer)
                    outcome.unflushed = disk.n_unflushed
                    image = disk.cut(self._dice)
                    # What is still under way now happens after the cut: nobody looks at it.
                    writer.send_signal(signal.SIGKILL)
                    disk.thaw()
            finally:
                disk.thaw()
                subprocess.run(["umount", str(mounted)], check=True)
        finally:
            disk.detach()
        outcome.acknowledged = len(self._acknowledged)
        return image

    def _writer(self, path: Path, first: int) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "tests.edge.store_writer", str(path), str(first), *self._synchronous]
        # A writer that is frozen would stay for ever if this process were killed.
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *line], stdout=subprocess.PIPE, bufsize=0)

    def _note_until(self, disk: VolatileDisk, writer: "subprocess.Popen[bytes]") -> None:
        """Read what the writer acknowledges until the disk stands still, then freeze the writer and read the rest.

        A disk that answers nothing lets no later write be acknowledged, except by a store that did not wait for it:
        with that, what was printed before the freeze counts, since a user has seen it.
        """
        assert writer.stdout is not None
        source, text = writer.stdout.fileno(), b""
        until = time.monotonic() + LIMIT_S
        while not disk.frozen.is_set():
            if time.monotonic() > until:
                raise RuntimeError(f"the writer asks nothing of its disk; it said {text!r}")
            if select.select([source], [], [], 0.005)[0]:
                piece = os.read(source, 1 << 16)
                if not piece:
                    raise RuntimeError(f"the writer ended with {writer.wait()}")
                text += piece
        writer.send_signal(signal.SIGSTOP)
        while select.select([source], [], [], 0.02)[0]:
            text += os.read(source, 1 << 16)
        for line in text.decode().split("\n")[:-1]:
            if line != "open":
                name, size = line.split()
                self._acknowledged[name] = int(size)

    def _look(self, outcome: Outcome) -> None:
        """Replay the copy's journal, open the store on it, and compare with what was acknowledged."""
        file, mounted = self._directory / "copy.img", self._places["copy"]
        file.write_bytes(self._image)
        repair = subprocess.run(["e2fsck", "-p", str(file)], capture_output=True, text=True)
        if repair.returncode > 1:
            outcome.damage = f"e2fsck gave {repair.returncode}: {repair.stdout}{repair.stderr}"
            return
        subprocess.run(["mount", "-o", "loop", str(file), str(mounted)], check=True)
        try:
            found = asyncio.run(_rows(mounted / "store.db"))
        except StoreError as error:
            outcome.damage = str(error)
            return
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
        names = {id.rpartition("-")[0] for id in found}
        outcome.torn = [name for name in names if any(f"{name}-{part}" not in found for part in PARTS)]
        outcome.lost = [
            name
            for name, size in self._acknowledged.items()
            if any(found.get(f"{name}-{part}") != value_of(f"{name}-{part}", size) for part in PARTS)
        ]


async def _rows(path: Path) -> dict[str, bytes]:
    store = await SqliteStore.open(path)
    try:
        return {row.id: row.value for row in (await store.load())[1]}
    finally:
        await store.close()


@contextmanager
def outlived() -> Iterator[None]:
    """Keep a process in this mount namespace until just after this one has ended, however it does.

    The kernel unmounts what is left with the last process. If that were the one that serves the disk, it would wait for
    itself for ever: a killed process lets go of its files after its namespaces.
    """
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True):
        yield


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("trials", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--lying", action="store_true")
    parser.add_argument("--synchronous", default="")
    asked = parser.parse_args()
    trials = Trials(asked.directory, asked.seed, is_lying=asked.lying, synchronous=asked.synchronous)
    with outlived():
        for number in range(asked.trials):
            print(json.dumps(asdict(trials.run(number))), flush=True)


if __name__ == "__main__":
    main()
