"""Reading conmon's log files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.edge import crilog
from skep.ports.runtime import LogEntry, LogOptions

STAMP = "2026-01-31T12:00:{:02d}.000000007+00:00"
FIRST_NS = 1_769_860_800_000_000_007
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(b"stdout F hello", LogEntry(1, FIRST_NS, b"hello\n"), id="line"),
        pytest.param(b"stderr P part", LogEntry(2, FIRST_NS, b"part"), id="part"),
        pytest.param(b"stdout F ", LogEntry(1, FIRST_NS, b"\n"), id="empty"),
        pytest.param(b"stdout F a  b ", LogEntry(1, FIRST_NS, b"a  b \n"), id="spaces"),
        pytest.param(b"stdin F x", None, id="unknown-channel"),
        pytest.param(b"stdout", None, id="torn"),
    ],
)
def test_parse_line(line: bytes, expected: LogEntry | None) -> None:
    assert crilog.parse_line(STAMP.format(0).encode() + b" " + line) == expected


def test_a_line_without_a_time_is_none() -> None:
    assert crilog.parse_line(b"yesterday stdout F x") is None


ENTRIES = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.sampled_from("FFP"), st.integers(0, 40)), max_size=30
)


@given(entries=ENTRIES, tail=st.integers(0, 12), chunk=st.sampled_from([7, 64, 65536]), only_out=st.booleans())
def test_tail_is_the_end_of_all(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, int]], tail: int, chunk: int, only_out: bool
) -> None:
    path = tmp_path_factory.mktemp("log") / "ctr.log"
    lines = [f"{STAMP.format(0)} {channel} {tag} {'x' * size}\n" for channel, tag, size in entries]
    path.write_text("".join(lines))
    options = LogOptions(tail=tail, stderr=not only_out)
    kept, crilog.CHUNK = crilog.CHUNK, chunk
    try:
        rest = path.read_bytes()[crilog.tail_offset(path, options) :].splitlines()
    finally:
        crilog.CHUNK = kept
    wanted = [tag for channel, tag, _ in entries if channel == "stdout" or not only_out]
    found = [entry for entry in map(crilog.parse_line, rest) if entry and crilog.is_wanted(entry, options)]
    ended = sum(entry.payload.endswith(b"\n") for entry in found)
    assert ended == min(tail, wanted.count("F"))


@pytest.mark.anyio
async def test_a_replaced_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    path.write_text(f"{STAMP.format(0)} stdout F old\n")
    seen: list[bytes] = []

    async def wait_end() -> None:
        fresh = tmp_path / "ctr.log.tmp"  # As conmon does when a log reaches its size limit.
        fresh.write_text(f"{STAMP.format(1)} stdout F new and longer than before\n")
        fresh.rename(path)

    async for entry in crilog.read_log(path, LogOptions(follow=True), wait_end):
        seen.append(entry.payload)
    assert seen == [b"old\n", b"new and longer than before\n"]


@pytest.mark.anyio
async def test_no_file_is_no_log(tmp_path: Path) -> None:
    async def wait_end() -> None:
        return

    read = crilog.read_log(tmp_path / "none", LogOptions(tail=3, follow=True), wait_end)
    assert [entry async for entry in read] == []
