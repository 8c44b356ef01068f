"""Names and places of a lab."""

from pathlib import Path

import pytest

from skep.lab import layout
from skep.model.errors import Conflict, InvalidSpec, NotFound


def a_lab(root: Path, **asked: object) -> layout.LabLayout:
    plan = {"node_count": 3, "manager_count": 1, "engine": "process", "options": [], **asked}
    return layout.plan_lab(root, **plan)  # type: ignore[arg-type] # the values under test may be wrong on purpose


def test_two_directories_share_no_name(tmp_path: Path) -> None:
    one, other = a_lab(tmp_path / "a"), a_lab(tmp_path / "b")
    assert not {one.fabric, one.client, one.cgroup} & {other.fabric, other.client, other.cgroup}


@pytest.mark.parametrize(
    "asked",
    [{"node_count": 0}, {"node_count": 201}, {"manager_count": 4}, {"manager_count": 0}, {"engine": "rocket"}],
    ids=str,
)
def test_what_cannot_be_is_refused(tmp_path: Path, asked: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec, match="--"):
        a_lab(tmp_path, **asked)


def test_a_directory_too_long_for_its_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="too long"):
        a_lab(tmp_path / ("x" * 100))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    lab = a_lab(tmp_path / "lab", node_count=5)
    layout.save_lab(lab)
    assert layout.load_lab(tmp_path / "lab") == lab


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(Conflict, match="other files"):
        layout.save_lab(a_lab(tmp_path))
    lab = a_lab(tmp_path / "lab")
    layout.save_lab(lab)
    with pytest.raises(Conflict, match="already"):
        layout.save_lab(lab)


def test_no_lab_and_no_such_node_are_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="skep lab up"):
        layout.load_lab(tmp_path)
    with pytest.raises(NotFound, match="node1, node2, node3"):
        a_lab(tmp_path).node("node9")
