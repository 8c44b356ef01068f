"""The control groups of a lab: what freezes a node, and what is removed with it.

Edge: /sys/fs/cgroup, version 1 (one tree per controller) and version 2 (one tree).
"""

import time
from collections.abc import Iterator
from pathlib import Path

from skep.lab.underlay import LabFailure

CGROUP_ROOT = Path("/sys/fs/cgroup")
THAWED, FROZEN = "THAWED", "FROZEN"


def is_unified() -> bool:
    """Whether the machine has cgroup version 2 alone."""
    return (CGROUP_ROOT / "cgroup.controllers").exists()


def freezer(path: str) -> Path:
    """Where a group is in the tree that can freeze."""
    return (CGROUP_ROOT if is_unified() else CGROUP_ROOT / "freezer") / path.lstrip("/")


def join_group(path: str, pid: int) -> None:
    """Put a process into a group, making it. On version 2 processes may only be in leaves."""
    group = freezer(path) / "init" if is_unified() else freezer(path)
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text(str(pid))


def set_frozen(path: str, *, is_frozen: bool, deadline_s: float = 10.0) -> None:
    """Freeze or thaw a group with everything below it; returns when it is so.

    Raises:
        LabFailure: It did not happen in time.
    """
    group = freezer(path)
    limit = time.monotonic() + deadline_s
    if is_unified():
        (group / "cgroup.freeze").write_text("1" if is_frozen else "0")
    else:
        (group / "freezer.state").write_text(FROZEN if is_frozen else THAWED)
    while has_frozen(path) != is_frozen:
        if time.monotonic() > limit:
            raise LabFailure(f"the group {path} did not {'freeze' if is_frozen else 'thaw'} within {deadline_s:g} s")
        time.sleep(0.01)


def has_frozen(path: str) -> bool:
    """Whether a group is frozen now."""
    group = freezer(path)
    try:
        if is_unified():
            return "frozen 1" in (group / "cgroup.events").read_text()
        return (group / "freezer.state").read_text().strip() == FROZEN
    except FileNotFoundError:
        return False


def trees(path: str) -> Iterator[Path]:
    """The group in every controller's tree, where it exists."""
    roots = [CGROUP_ROOT] if is_unified() else [child for child in CGROUP_ROOT.iterdir() if child.is_dir()]
    seen: set[tuple[int, int]] = set()
    for root in roots:
        group = root / path.lstrip("/")
        if group.is_dir():
            status = group.stat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield group


def members(path: str) -> set[int]:
    """Process ids in a group or below it."""
    pids: set[int] = set()
    for group in trees(path):
        for file in group.rglob("cgroup.procs"):
            try:
                pids.update(int(line) for line in file.read_text().split())
            except OSError:
                continue  # The group went while we looked.
    return pids


def remove_group(path: str, deadline_s: float = 10.0) -> None:
    """Remove an empty group with its children in every tree, waiting for the last process to be gone."""
    limit = time.monotonic() + deadline_s
    for group in trees(path):
        children = sorted((child for child in group.rglob("*") if child.is_dir()), key=lambda p: -len(p.parts))
        for directory in [*children, group]:
            while directory.exists():
                try:
                    directory.rmdir()
                except OSError as error:
                    if time.monotonic() > limit:
                        raise LabFailure(f"the control group {directory} cannot be removed: {error}") from error
                    time.sleep(0.02)
