"""A store's file that is put aside takes along its log, which would damage the next file of the same name."""

import shutil
from pathlib import Path

import pytest

from skep.daemon import stores
from skep.daemon.stores import FORMER_FILE, StorePlaces
from skep.edge.sqlite_file import StoreFile
from skep.ports.store import Write


@pytest.fixture
def places(tmp_path: Path) -> StorePlaces:
    return StorePlaces(tmp_path, tmp_path / "run")


def leave_unclosed(places: StorePlaces, *ids: str) -> None:
    """What a killed daemon leaves of a store with these rows: a file and its log."""
    aside = places.swarm_dir / "aside"
    aside.mkdir()
    file = StoreFile(aside / "store.db")
    file.write([[Write("node", id, b"value", 0)] for id in ids])
    for each in aside.glob("store.db*"):
        shutil.copy(each, places.swarm_dir / each.name)
    file.close()
    shutil.rmtree(aside)


def rows(path: Path) -> set[str]:
    file = StoreFile(path, create=False)
    try:
        return {row.id for row in file.load()[1]}
    finally:
        file.close()


def test_a_file_is_put_aside_with_its_log_and_the_next_one_is_sound(places: StorePlaces) -> None:
    leave_unclosed(places, "a", "b")
    assert (places.swarm_dir / "store.db-wal").exists()
    stores.forget_sqlite(places)
    assert not list(places.swarm_dir.glob("store.db-wal"))
    StoreFile(places.store_file).close()
    assert rows(places.store_file) == set()
    assert rows(places.swarm_dir / FORMER_FILE) == {"a", "b"}


def test_a_log_whose_file_was_put_aside_before_the_daemon_died_follows_it(places: StorePlaces) -> None:
    leave_unclosed(places, "a", "b")
    places.store_file.rename(places.swarm_dir / FORMER_FILE)
    stores.forget_sqlite(places)
    stores.forget_sqlite(places)
    assert rows(places.swarm_dir / FORMER_FILE) == {"a", "b"}


def test_a_file_that_was_closed_does_not_get_the_log_of_an_earlier_one(places: StorePlaces) -> None:
    leave_unclosed(places, "a", "b")
    stores.forget_sqlite(places)
    leave_unclosed(places, "c")
    StoreFile(places.store_file, create=False).close()
    stores.forget_sqlite(places)
    assert rows(places.swarm_dir / FORMER_FILE) == {"c"}
