"""A program of this node: started, found again, known from strangers, and started anew when it ends or hangs."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sessions import until

from skep.edge.kept_process import KeepingLimits, KeptProcess, Program, ProgramFailed

pytestmark = pytest.mark.anyio

LIMIT_S = 30
BRISK = KeepingLimits(ping_every_s=0.05, pings_missed=2, end_s=5, first_delay_s=0.02, longest_delay_s=0.1)
RUNS = 'echo started; : > "$1/answers"; while :; do sleep 1; done'


class Bench:
    """A directory with a program in it that answers as long as its file is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepared = 0
        self.kept: list[KeptProcess] = []

    def program(self, script: str = RUNS, *more: str) -> Program:
        command = ["/bin/sh", "-c", script, "sh", str(self.folder), *more]
        return Program("thing", command, self.folder, self.answers, mark=str(self.folder), prepare=self.prepare)

    def keep(self, program: Program, limits: KeepingLimits = BRISK) -> KeptProcess:
        self.kept.append(KeptProcess(program, limits))
        return self.kept[-1]

    async def run(self, program: Program) -> KeptProcess:
        kept = self.keep(program)
        await kept.start()
        await kept.wait_ready(LIMIT_S)
        return kept

    async def answers(self) -> bool:
        return (self.folder / "answers").exists()

    async def prepare(self) -> None:
        self.prepared += 1
        (self.folder / "answers").unlink(missing_ok=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        for kept in bench.kept:
            await kept.close()


def is_alive(pid: int) -> bool:
    """Also a zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_one_that_outlived_its_daemon_is_adopted(bench: Bench) -> None:
    first = await bench.run(bench.program())
    pid = first.pid
    await first.detach()
    second = await bench.run(bench.program())
    assert (second.pid, second.n_restarts, bench.prepared) == (pid, 0, 1)
    await second.close()
    assert second.pid == 0
    assert not is_alive(pid)


@pytest.mark.parametrize("is_changed", [True, False], ids=["another command", "files it read have changed"])
async def test_one_that_is_no_longer_what_is_wanted_is_ended_first(bench: Bench, is_changed: bool) -> None:
    first = await bench.run(bench.program())
    pid = first.pid
    await first.detach()
    second = bench.keep(bench.program(RUNS, *["more"] * is_changed))
    await second.start(may_adopt=is_changed)
    await second.wait_started()
    assert second.pid != pid
    assert not is_alive(pid)
    assert bench.prepared == 2


async def test_a_neighbour_that_has_the_number_by_now_is_left_alone(bench: Bench) -> None:
    neighbour = subprocess.Popen(["/bin/sh", "-c", "while :; do sleep 1; done", "sh", "/elsewhere"])
    try:
        (bench.folder / "thing.pid").write_text(str(neighbour.pid))
        kept = await bench.run(bench.program())
        assert kept.pid != neighbour.pid
        assert is_alive(neighbour.pid)
    finally:
        neighbour.kill()
        neighbour.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_that_ends_or_hangs_is_started_anew(bench: Bench, number: signal.Signals) -> None:
    kept = await bench.run(bench.program())
    pid = kept.pid
    os.kill(pid, number)
    (bench.folder / "answers").unlink()
    await until(lambda: kept.n_restarts == 1, LIMIT_S)
    await kept.wait_ready(LIMIT_S)
    assert kept.pid != pid
    assert not is_alive(pid)
    assert kept.failure == "started"
    assert bench.prepared == 2


@pytest.mark.parametrize(
    ("script", "limits", "why"),
    [
        pytest.param("echo no such thing >&2; exit 1", BRISK, "no such thing", id="ends"),
        pytest.param("echo slow; sleep 100", replace(BRISK, start_s=0.1), "slow", id="takes too long"),
        pytest.param("exit 1", BRISK, "it wrote no reason", id="says nothing"),
    ],
)
async def test_one_that_does_not_start_says_why_at_once(
    bench: Bench, script: str, limits: KeepingLimits, why: str
) -> None:
    (bench.folder / "thing.log").write_text("what an earlier one said\n")
    kept = bench.keep(bench.program(script), limits)
    await kept.start()
    with pytest.raises(ProgramFailed, match=f"^thing does not start: {why}$"):
        async with asyncio.timeout(LIMIT_S):
            await kept.wait_started()
    await kept.close()
    assert not (bench.folder / "thing.pid").exists()


async def test_one_that_was_about_to_end_when_it_was_adopted_is_followed_by_another(bench: Bench) -> None:
    first = await bench.run(bench.program())
    pid = first.pid
    await first.detach()
    (bench.folder / "answers").unlink()
    second = bench.keep(bench.program())
    await second.start()
    os.kill(pid, signal.SIGKILL)
    await second.wait_started()
    assert second.pid != pid


async def test_one_whose_program_is_replaced_comes_back(bench: Bench) -> None:
    shell = bench.folder / "shell"
    shell.symlink_to("/bin/sh")
    program = bench.program()
    kept = await bench.run(replace(program, command=[str(shell), *program.command[1:]]))
    shell.unlink()
    os.kill(kept.pid, signal.SIGKILL)
    await until(lambda: str(shell) in kept.failure, LIMIT_S)
    with pytest.raises(ProgramFailed, match="No such file"):
        await kept.wait_ready(0.1)
    shell.symlink_to("/bin/sh")
    await kept.wait_ready(LIMIT_S)
    assert kept.pid
