"""Damage of every kind that a file or a reply can have is noticed as damage, never an unforeseen exception."""

import zlib
from pathlib import Path

import pytest

from skep.agent.assignments import AssignmentSet
from skep.agent.records import RecordStore
from skep.edge import oci_state
from skep.edge.engine_requests import Answer
from skep.edge.process.records import Records
from skep.edge.sandboxes import RecordBook

DAMAGES = [
    pytest.param(b"", id="empty"),
    pytest.param(b'{"message": "cut', id="cut short"),
    pytest.param(b'{"message": "\xff\xfe"}', id="not UTF-8"),
    pytest.param(b"[" * 100_000, id="nested deeply as JSON"),
    pytest.param(b"\x91" * 100_000, id="nested deeply as MessagePack"),
    pytest.param(b"\x81\xa6status\xc0", id="another shape"),
    pytest.param(b'{"id": 7}', id="another type"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "sandboxes").mkdir()
    (tmp_path / "sandboxes" / "t1.json").write_bytes(damage)
    assert RecordBook(tmp_path / "sandboxes").read_all() == {}

    (tmp_path / "tasks" / "t1").mkdir(parents=True)
    (tmp_path / "tasks" / "t1" / "status").write_bytes(damage)
    assert RecordStore(tmp_path / "tasks").load("t1") is None

    container = tmp_path / "engine" / "containers" / "c1"
    container.mkdir(parents=True)
    (container / "record.json").write_bytes(damage)
    Records(tmp_path / "engine", tmp_path / "run").load()
    assert not container.exists()

    (tmp_path / "state.json").write_bytes(damage)
    (tmp_path / "status").write_bytes(damage)
    assert oci_state.first_process(tmp_path).pid == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_assignment_log_is_asked_for_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "assignments"
    path.write_bytes(len(damage).to_bytes(4, "big") + zlib.crc32(damage).to_bytes(4, "big") + damage)
    held = AssignmentSet(path, "n1")
    held.load()
    assert held.version == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_an_engine_says_badly_is_shown_as_it_is(damage: bytes) -> None:
    assert Answer(500, damage).failure
