"""Labs for benchmarks, and what a lab's daemons take.

Edge: processes and namespaces; a lab is removed whatever happens.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Lab, make_lab

from skep.lab import nodes
from skep.lab.layout import NodeLayout


@contextmanager
def a_lab(**asked: Any) -> Iterator[Lab]:
    """A lab in a directory of its own."""
    made = contextmanager(make_lab)
    with tempfile.TemporaryDirectory(prefix="skep-bench-") as directory, made(Path(directory) / "l", **asked) as lab:
        yield lab


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MiB. Attributes: resident: all it has mapped; share: pages it shares counted in part."""

    resident: float
    share: float


def daemon_memory(node: NodeLayout) -> Memory:
    """What a node's daemon takes, without the programs it starts."""
    pid = nodes.daemon_pid(node)
    assert pid, f"the daemon of {node.name} does not run"
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name] = int(size) / 1024
    return Memory(sizes["Rss:"], sizes["Pss:"])
