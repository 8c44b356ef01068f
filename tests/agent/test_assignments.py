"""The assignment set and its memory on disk."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.node import an_overlay, assigned, the_cluster

from skep.agent import assignments
from skep.agent.assignments import AssignmentSet
from skep.model.assignment import Delta, Item

FULL = Delta(base=0, version=5, put=[the_cluster(), an_overlay(), assigned("t1"), assigned("t2")])


def a_set(path: Path) -> AssignmentSet:
    held = AssignmentSet(path, "node1")
    held.load()
    return held


def test_what_was_taken_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "assignments"
    held = a_set(path)
    held.take("e1", FULL)
    held.take("e1", Delta(base=5, version=6, put=[assigned("t3")], remove=["task/t1"]))
    again = a_set(path)
    assert (again.epoch, again.version) == ("e1", 6)
    assert again.intent == held.intent
    assert again.dismissed == {"t1"}
    assert again.ingress_network_id == "ingress"


@pytest.mark.parametrize(
    ("epoch", "base"),
    [
        pytest.param("e1", 4, id="an older base"),
        pytest.param("e1", 6, id="a newer base"),
        pytest.param("e2", 5, id="another numbering"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path, epoch: str, base: int) -> None:
    held = a_set(tmp_path / "assignments")
    held.take("e1", FULL)
    before = held.intent
    with pytest.raises(ValueError, match="does not apply to version 5"):
        held.take(epoch, Delta(base=base, version=9, remove=["task/t1"]))
    assert held.intent is before
    assert a_set(tmp_path / "assignments").intent == before


def test_nothing_applies_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not apply"):
        a_set(tmp_path / "assignments").take("e1", Delta(base=1, version=2))


def test_a_full_set_dismisses_what_it_leaves_out(tmp_path: Path) -> None:
    held = a_set(tmp_path / "assignments")
    held.take("e1", FULL)
    change = held.take("e2", Delta(base=0, version=1, put=[assigned("t2")]))
    assert change.is_full
    assert "task/t1" in change.removed
    assert "network/net1" in change.removed
    assert "task/t2" not in change.removed
    assert held.dismissed == {"t1"}
    assert a_set(tmp_path / "assignments").dismissed == {"t1"}
    held.forget("t1")
    assert held.dismissed == set()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_record_is_ignored_and_healed_by_the_next(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "assignments"
    held = a_set(path)
    held.take("e1", FULL)
    held.take("e1", Delta(base=5, version=6, remove=["task/t1"]))
    path.write_bytes(path.read_bytes()[:-cut])
    torn = a_set(path)
    assert torn.version == 5
    torn.take("e1", Delta(base=5, version=7, remove=["task/t2"]))
    assert a_set(path).intent == torn.intent


@given(st.data())
def test_damage_anywhere_yields_an_earlier_version_or_nothing(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "assignments"
        held = a_set(path)
        versions = {0: {}}
        held.take("e1", FULL)
        versions[5] = held.intent.tasks
        held.take("e1", Delta(base=5, version=6, remove=["task/t1"]))
        versions[6] = held.intent.tasks
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        damaged = a_set(path)
        assert damaged.intent.tasks == versions[damaged.version]


def test_the_log_is_rewritten_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignments, "REWRITE_BYTES", 2_000)
    path = tmp_path / "assignments"
    held = a_set(path)
    held.take("e1", FULL)
    for version in range(5, 105):
        held.take("e1", Delta(base=version, version=version + 1, put=[assigned("t2")]))
    assert path.stat().st_size < 10_000
    assert a_set(path).intent == held.intent


def test_a_disk_that_is_full_costs_the_memory_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "assignments"
    held = a_set(path)
    (tmp_path / "state").write_text("a file where the directory belongs")
    change = held.take("e1", FULL)
    assert held.version == 5
    assert change.put
    (tmp_path / "state").unlink()
    held.take("e1", Delta(base=5, version=6))
    assert a_set(path).intent == held.intent


ITEMS = st.lists(st.sampled_from([assigned("t1"), assigned("t2"), an_overlay(), the_cluster()]), max_size=4)
KEYS = st.lists(st.sampled_from(["task/t1", "task/t2", "network/net1", "cluster"]), max_size=3)


@given(st.lists(st.tuples(st.booleans(), ITEMS, KEYS), max_size=12))
def test_the_memory_equals_what_is_held_after_every_step(steps: list[tuple[bool, list[Item], list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "assignments"
        held = a_set(path)
        for number, (is_full, put, remove) in enumerate(steps, start=1):
            base = 0 if is_full else held.version
            held.take("e1", Delta(base=base, version=number, put=put, remove=remove))
            again = a_set(path)
            assert again.intent == held.intent
            assert again.dismissed == held.dismissed
