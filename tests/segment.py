"""Machines as network namespaces on one segment, of which each can be cut off; all gone with the test process.

Each namespace is that of a process which sleeps and which the kernel ends with the test process, however that ends.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skep.edge.namespaces import entered

SUBNET = "192.168.78"
OWN_HOST = 100
CUT = (
    "add table inet cut; add chain inet cut {0} {{ type filter hook {0} priority 0; }}; add rule inet cut {0} {1} drop"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Attributes: pid: of the process whose network namespace it is."""

    address: str
    pid: int

    def command(self, words: Sequence[str]) -> Sequence[str]:
        """What runs a program there."""
        return ["nsenter", "-t", str(self.pid), "--net", *words]

    def run(self, *words: str) -> None:
        done = subprocess.run(self.command(words), capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stderr}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be there: the sockets this thread opens belong to it."""
        descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            with entered(descriptor):
                yield
        finally:
            os.close(descriptor)

    def cut_off(self, *others: "Machine") -> None:
        """Let nothing pass between it and others, or, where none are named, anybody."""
        for chain, side in (("input", "saddr"), ("output", "daddr")):
            what = f"ip {side} {{ {', '.join(each.address for each in others)} }}" if others else 'meta iifname != "lo"'
            what = what.replace("iifname", "oifname") if chain == "output" else what
            self.run("nft", CUT.format(chain, what))

    def heal(self) -> None:
        self.run("nft", "delete table inet cut")


@contextmanager
def segment(n_machines: int) -> Iterator[list[Machine]]:
    """Machines that reach one another; the last one is for the test itself."""
    with contextlib.ExitStack() as stack:
        hub, *pids = [stack.enter_context(_namespace()) for _ in range(n_machines + 2)]
        machines = [Machine(f"{SUBNET}.{n + 1}", pid) for n, pid in enumerate(pids)]
        Machine("", hub).run("ip", "link", "add", "br0", "up", "type", "bridge")
        for n, machine in enumerate(machines):
            peer = ["type", "veth", "peer", "name", "eth0", "netns", str(machine.pid)]
            Machine("", hub).run("ip", "link", "add", f"m{n}", "up", "master", "br0", *peer)
            machine.run("ip", "link", "set", "lo", "up")
            machine.run("ip", "addr", "add", f"{machine.address}/24", "dev", "eth0")
            machine.run("ip", "link", "set", "eth0", "up")
        yield machines


@contextmanager
def _namespace() -> Iterator[int]:
    """A process in a network namespace of its own."""
    own = Path("/proc/self/ns/net").stat().st_ino
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
    with subprocess.Popen(command) as process:
        try:
            until = time.monotonic() + 20
            while Path(f"/proc/{process.pid}/ns/net").stat().st_ino == own:
                assert time.monotonic() < until, "no network namespace was made"
                time.sleep(0.005)
            yield process.pid
        finally:
            process.kill()
