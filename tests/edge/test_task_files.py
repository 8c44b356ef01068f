"""A task's files in memory: real tmpfs, real owners and modes."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep.edge.task_files import MEMORY_TYPES, MemoryFiles, file_system_of
from skep.ports.files import FilesFailure, PrivateFile

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "files"
    yield place
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


def test_files_lie_in_memory_where_only_root_gets(directory: Path) -> None:
    files = MemoryFiles(directory)
    [path] = files.place("t1", [PrivateFile(name="0", content=b"key", uid=33, gid=44, mode=0o400)])
    assert file_system_of(path) == "tmpfs"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    seen = path.stat()
    assert (path.read_bytes(), seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (b"key", 33, 44, 0o400)


def test_a_file_placed_again_keeps_its_inode_for_who_has_it_mounted(directory: Path) -> None:
    files = MemoryFiles(directory)
    [before] = files.place("t1", [PrivateFile(name="0", content=b"long value", mode=0o400)])
    inode = before.stat().st_ino
    [after] = MemoryFiles(directory).place("t1", [PrivateFile(name="0", content=b"short", mode=0o400)])
    assert (after.stat().st_ino, after.read_bytes()) == (inode, b"short")


def test_removed_files_are_gone_and_a_second_daemon_mounts_nothing_over_them(directory: Path) -> None:
    MemoryFiles(directory).place("t1", [PrivateFile(name="0", content=b"a")])
    later = MemoryFiles(directory)
    later.place("t2", [PrivateFile(name="0", content=b"b")])
    assert later.task_ids() == {"t1", "t2"}
    later.remove("t1")
    later.remove("t1")
    assert later.task_ids() == {"t2"}
    mounted = sum(str(directory) in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    assert mounted == (0 if file_system_of(directory.parent) in MEMORY_TYPES else 1)


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FilesFailure, match="cannot keep the task's secrets in memory"):
        MemoryFiles(tmp_path / "file" / "x").place("t1", [PrivateFile(name="0", content=b"a")])
