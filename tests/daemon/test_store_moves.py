"""Moves between SQLite and etcd that are killed at random moments, over and over, until one is done.

Beside the kills at each named step (`test_store_switch`), these fall anywhere, also between two writes of a copy; half
of them take etcd too, as a power cut would. To etcd it is moved under writes, back with the daemon stopped.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.daemon.test_store_switch import Machine

N_KILLS = int(os.environ.get("SKEP_MOVE_KILLS", "20"))
LIMIT_S = 120.0

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(120 + 30 * N_KILLS)]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path)
    await made.found()
    try:
        yield made
    finally:
        made.close()


def moving(machine: Machine, log: Path) -> "subprocess.Popen[str]":
    """A move as a process; what it says goes to a file, which a kill does not lose."""
    settings = {"directory": str(machine.directory), "client_port": machine.client, "peer_url": machine.peer_url}
    line = [sys.executable, "-m", "tests.daemon.store_mover"]
    with log.open("w") as said:
        process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=said, stderr=said, text=True, cwd=Path(__file__).parents[2]
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**settings, "kill_at": ""}) + "\n")
    process.stdin.close()
    return process


def whole_move_s(machine: Machine, log: Path) -> float:
    """Move to the other kind of store in peace; how long that took."""
    began = time.monotonic()
    process = moving(machine, log)
    assert process.wait(LIMIT_S) == 0, log.read_text()
    note(machine, log)
    return time.monotonic() - began


def note(machine: Machine, log: Path) -> None:
    """Take in what was acknowledged; a last line that was cut off was not."""
    words = [line.split() for line in log.read_text().split("\n")[:-1]]
    machine.acknowledged |= {word[1] for word in words if word[:1] == ["acknowledged"]}


async def kill_and_look(machine: Machine, log: Path, dice: random.Random, length_s: float) -> bool:
    """Kill a move somewhere on its way and open what counts then; returns whether the state was in etcd."""
    process = moving(machine, log)
    try:
        process.wait(dice.uniform(0, length_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if dice.random() < 0.5:
        machine.close()
    note(machine, log)
    await machine.check()
    return machine.member.etcd is not None


def _tell(machine: Machine, length_s: float, moved: int) -> None:
    print(f"\n{N_KILLS} kills within {length_s:.1f} s, {moved} after the move; {len(machine.acknowledged)} objects")


async def test_a_move_to_etcd_killed_at_random_moments_loses_nothing(machine: Machine, tmp_path: Path) -> None:
    dice, log, moved = random.Random(1), tmp_path / "log", 0
    length_s = whole_move_s(machine, log)
    whole_move_s(machine, log)
    for _ in range(N_KILLS):
        if await kill_and_look(machine, log, dice, length_s):
            moved += 1
            whole_move_s(machine, log)
            assert machine.member.etcd is None
    _tell(machine, length_s, moved)


async def test_a_move_back_killed_at_random_moments_loses_nothing(machine: Machine, tmp_path: Path) -> None:
    dice, log, moved = random.Random(2), tmp_path / "log", 0
    whole_move_s(machine, log)
    length_s = whole_move_s(machine, log)
    whole_move_s(machine, log)
    for _ in range(N_KILLS):
        if not await kill_and_look(machine, log, dice, length_s):
            moved += 1
            whole_move_s(machine, log)
            assert machine.member.etcd is not None
    _tell(machine, length_s, moved)
