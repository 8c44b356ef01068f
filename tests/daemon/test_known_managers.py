"""Where the managers are is kept over restarts; a file that is gone or damaged is no more than that."""

from pathlib import Path

from skep.daemon import known_managers
from skep.model.session import ManagerAddress

MANAGERS = [ManagerAddress(node_id="m1", addr="192.0.2.1:2377"), ManagerAddress(node_id="m2", addr="192.0.2.2:2377")]


def test_they_are_kept(tmp_path: Path) -> None:
    assert known_managers.load(tmp_path) == []
    known_managers.save(tmp_path, MANAGERS)
    known_managers.save(tmp_path, MANAGERS[1:])
    assert known_managers.load(tmp_path) == MANAGERS[1:]
    assert [path.name for path in tmp_path.iterdir()] == [known_managers.FILE]


def test_a_damaged_file_or_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / known_managers.FILE).write_bytes(b'[{"node')
    assert known_managers.load(tmp_path) == []
    known_managers.save(tmp_path / "nowhere", MANAGERS)
