"""Entries of several sources, oldest first."""

import asyncio

import pytest

from skep.manager.time_merge import QUEUED_ENTRIES, Source, TimeMerge

pytestmark = pytest.mark.anyio


async def say(source: Source[str], *entries: tuple[int, str], ends: bool = True) -> None:
    for moment, text in entries:
        await source.put(moment, text)
    if ends:
        source.end()


async def all_of(merge: TimeMerge[str]) -> list[str]:
    found: list[str] = []
    while (entry := await merge.take()) is not None:
        found.append(entry)
    return found


async def test_the_oldest_comes_first_whoever_says_it_first() -> None:
    merge: TimeMerge[str] = TimeMerge(None)
    one, other = merge.open(), merge.open()
    await say(one, (1, "a"), (4, "d"))
    late = asyncio.create_task(say(other, (2, "b"), (3, "c"), (5, "e")))
    assert await all_of(merge) == ["a", "b", "c", "d", "e"]
    await late


async def test_a_source_keeps_its_own_order_even_where_its_clock_went_back() -> None:
    merge: TimeMerge[str] = TimeMerge(None)
    await say(merge.open(), (5, "first"), (3, "second"))
    await say(merge.open(), (4, "other"))
    assert await all_of(merge) == ["other", "first", "second"]


async def test_without_sources_it_is_over_unless_it_is_held() -> None:
    merge: TimeMerge[str] = TimeMerge(0.01)
    assert await merge.take() is None
    merge.hold()
    waiting = asyncio.create_task(merge.take())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    merge.release()
    assert await waiting is None


async def test_a_silent_source_is_waited_for_only_so_long_and_then_not_at_all() -> None:
    merge: TimeMerge[str] = TimeMerge(0.2)
    talking, silent = merge.open(), merge.open()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await say(talking, *((n, str(n)) for n in range(5)), ends=False)
    assert [await merge.take() for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert loop.time() - began >= 0.2, "the silent one was waited for"
    await silent.put(0, "back")
    assert await merge.take() == "back"


async def test_what_waits_is_given_out_in_order_once_patience_is_over() -> None:
    merge: TimeMerge[str] = TimeMerge(0.05)
    one, other, _silent = merge.open(), merge.open(), merge.open()
    await say(one, (2, "b"), ends=False)
    await say(other, (1, "a"), ends=False)
    assert [await merge.take(), await merge.take()] == ["a", "b"]


async def test_a_source_that_says_much_has_to_wait_for_the_reader() -> None:
    merge: TimeMerge[str] = TimeMerge(None)
    talker = asyncio.create_task(say(merge.open(), *((n, str(n)) for n in range(3 * QUEUED_ENTRIES))))
    await asyncio.sleep(0)
    assert not talker.done()
    assert await all_of(merge) == [str(n) for n in range(3 * QUEUED_ENTRIES)]
    await talker
