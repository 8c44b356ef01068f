"""A backup file: what was written is read, in pieces of any size, and no other file is taken for it."""

import hashlib
import itertools
import zlib
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import a_cluster, a_node, a_service, a_task

from skep.manager import backup as backups
from skep.manager.backup import BackupReader
from skep.model import backup, codec
from skep.model.backup import BackupDamaged, BackupTooNew, Head, SavedRow, Scrypt, WrongPassPhrase
from skep.model.base import Object
from skep.model.errors import InvalidSpec

CHEAP = Scrypt(salt=b"0123456789abcdef", n=2, r=1)
DATA_KEY = bytes(range(32))
PHRASE = "correct horse battery staple"


def a_head(**changes: object) -> Head:
    head = Head(cluster_id="c", node_id="n", revision=41, created_at=7, skep="1.2.3", scrypt=CHEAP)
    return msgspec.structs.replace(head, **changes)


def some_objects(n_nodes: int = 3) -> list[Object]:
    nodes = [a_node(f"n{number}", labels={"pad": "x" * 16_000}) for number in range(n_nodes)]
    web = a_service()
    return [a_cluster(), *nodes, web, msgspec.structs.replace(a_task("t1", service=web, slot=1), version=40)]


def written(objects: Sequence[Object], head: Head | None = None) -> bytes:
    key = backups.derive(PHRASE, CHEAP)
    return b"".join(backups.write(head or a_head(), key, DATA_KEY, objects))


def read(
    raw: bytes, *, pieces: Sequence[int] = (), pass_phrase: str | None = PHRASE
) -> tuple[BackupReader, list[SavedRow]]:
    reader, rows = BackupReader(), list[SavedRow]()
    edges = sorted({0, len(raw), *(edge % (len(raw) + 1) for edge in pieces)})
    for begin, end in itertools.pairwise(edges):
        was_unknown = reader.head is None
        reader.feed(raw[begin:end])
        if was_unknown and reader.head is not None and pass_phrase is not None:
            reader.unlock(backups.derive(pass_phrase, reader.head.scrypt))
        rows.extend(reader.rows())
    reader.finish()
    return reader, rows


WHOLE = written(some_objects())
LARGE = some_objects(60)
LARGE_WHOLE = written(LARGE)


@given(st.lists(st.integers(min_value=0, max_value=1 << 24), max_size=12))
def test_what_was_written_is_read_in_pieces_of_any_size(pieces: list[int]) -> None:
    reader, rows = read(LARGE_WHOLE, pieces=pieces)
    assert [codec.decode(row.kind, row.value, row.version) for row in rows] == LARGE
    assert reader.head == a_head()
    assert reader.preface is not None
    assert reader.preface.data_key == DATA_KEY
    assert reader.counts == {"cluster": 1, "node": 60, "service": 1, "task": 1}
    assert reader.n_parts > 3


def test_a_swarm_without_objects_is_a_backup_too() -> None:
    reader, rows = read(written([]))
    assert (rows, reader.counts) == ([], {})


def test_nothing_of_the_state_stands_in_the_file_readable() -> None:
    assert b"pad" not in WHOLE
    assert DATA_KEY not in WHOLE


def test_without_the_pass_phrase_head_and_checksum_can_be_looked_at() -> None:
    reader, rows = read(WHOLE, pass_phrase=None)
    assert reader.head == a_head()
    assert (rows, reader.preface) == ([], None)


def test_another_pass_phrase_is_told_apart_from_damage() -> None:
    with pytest.raises(WrongPassPhrase, match="does not open this backup"):
        read(WHOLE, pass_phrase="incorrect")


@given(st.integers(min_value=0, max_value=len(WHOLE) - 1), st.integers(min_value=0, max_value=7), st.booleans())
def test_a_changed_bit_is_seen(at: int, bit: int, is_opened: bool) -> None:
    raw = bytearray(WHOLE)
    raw[at] ^= 1 << bit
    with pytest.raises((BackupDamaged, WrongPassPhrase)):
        read(bytes(raw), pass_phrase=PHRASE if is_opened else None)


@given(st.integers(min_value=0, max_value=len(WHOLE) - 1))
def test_a_file_that_was_cut_off_is_no_backup(length: int) -> None:
    with pytest.raises(BackupDamaged):
        read(WHOLE[:length])


def test_what_was_added_is_seen() -> None:
    with pytest.raises(BackupDamaged, match="more behind its end"):
        read(WHOLE + b"x")


def test_parts_cannot_be_left_out_by_someone_who_mends_the_checksum() -> None:
    pieces = list(backups.write(a_head(), backups.derive(PHRASE, CHEAP), DATA_KEY, LARGE))
    del pieces[2]
    mended = b"".join(pieces[:-1])
    with pytest.raises(BackupDamaged, match="damaged"):
        read(mended + hashlib.sha256(mended).digest())


def test_parts_of_another_backup_under_the_same_key_do_not_fit() -> None:
    key = backups.derive(PHRASE, CHEAP)
    ours = list(backups.write(a_head(), key, DATA_KEY, LARGE))
    other = list(backups.write(a_head(revision=42), key, DATA_KEY, LARGE))
    mixed = b"".join([*ours[:2], other[2], *ours[3:-1]])
    with pytest.raises(BackupDamaged, match="damaged"):
        read(mixed + hashlib.sha256(mixed).digest())


def test_a_newer_format_is_named_and_an_impossible_cost_refused() -> None:
    with pytest.raises(BackupTooNew, match=r"made by Skep 9\.9"):
        read(written([], a_head(format=2, skep="9.9")))
    huge = msgspec.structs.replace(CHEAP, n=1 << 40)
    with pytest.raises(BackupDamaged, match="asks for the impossible"):
        BackupReader().feed(backup.encode_head(a_head(scrypt=huge)))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_at_all_do_more_than_be_refused(head: bytes, rest: bytes) -> None:
    crc = zlib.crc32(head)
    for raw in (rest, backup.MAGIC + rest, backup.MAGIC + backup.number(len(head)) + head + backup.number(crc) + rest):
        with pytest.raises((BackupDamaged, BackupTooNew)):
            read(raw, pass_phrase=None)


def test_another_file_is_no_backup() -> None:
    with pytest.raises(BackupDamaged, match="no backup of Skep's"):
        read(b"SQLite format 3\0" * 10)
    with pytest.raises(BackupDamaged, match="empty"):
        read(b"")


def test_todays_key_costs_something_and_a_key_is_always_the_same() -> None:
    scrypt = backups.new_scrypt()
    assert scrypt.memory_bytes >= 1 << 26
    assert backups.new_scrypt().salt != scrypt.salt
    assert len(backups.derive(PHRASE, scrypt)) == 32
    assert backups.derive(PHRASE, CHEAP) == backups.derive(PHRASE, CHEAP) != backups.derive("another", CHEAP)


def test_a_short_pass_phrase_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="shorter than 8"):
        backup.check_new_pass_phrase("1234567")
    backup.check_new_pass_phrase("12345678")
