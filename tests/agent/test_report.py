"""Reports: the newest per task, until they are stored."""

import asyncio

import pytest

from skep.agent.report import ReportBook
from skep.model.lifecycle import TaskState as S
from skep.model.session import TaskReport
from skep.model.task import TaskStatus

pytestmark = pytest.mark.anyio


def a_status(state: S, message: str = "") -> TaskStatus:
    return TaskStatus(state=state, message=message)


async def news(book: ReportBook) -> list[tuple[str, S]]:
    reports = await asyncio.wait_for(book.wait_news(), 5)
    return [(report.task_id, report.status.state) for report in reports]


async def is_silent(book: ReportBook) -> bool:
    waiting = asyncio.ensure_future(book.wait_news())
    for _ in range(5):
        await asyncio.sleep(0)
    is_done = waiting.done()
    waiting.cancel()
    return not is_done


async def test_statuses_between_two_sends_fold_into_the_newest() -> None:
    book = ReportBook()
    for state in (S.ACCEPTED, S.PREPARING, S.READY):
        book.note("t1", a_status(state))
    book.note("t0", a_status(S.RUNNING))
    assert await news(book) == [("t0", S.RUNNING), ("t1", S.READY)]


async def test_what_is_sent_is_not_sent_again_over_the_same_session_but_over_a_new_one() -> None:
    book = ReportBook()
    book.note("t1", a_status(S.READY))
    await news(book)
    assert await is_silent(book)
    book.renew()
    assert await news(book) == [("t1", S.READY)]


async def test_news_carry_everything_not_yet_confirmed() -> None:
    book = ReportBook()
    book.note("t1", a_status(S.READY))
    await news(book)
    book.note("t2", a_status(S.READY))
    assert await news(book) == [("t1", S.READY), ("t2", S.READY)]


async def test_a_confirmation_of_the_old_keeps_the_new() -> None:
    book = ReportBook()
    book.note("t1", a_status(S.READY))
    sent = await book.wait_news()
    book.note("t1", a_status(S.RUNNING))
    book.confirm(sent)
    assert await news(book) == [("t1", S.RUNNING)]
    book.confirm([TaskReport(task_id="t1", status=a_status(S.RUNNING))])
    assert len(book) == 0
    book.renew()
    assert await is_silent(book)


async def test_a_status_never_goes_back_and_a_message_may_change() -> None:
    book = ReportBook()
    book.note("t1", a_status(S.RUNNING))
    book.note("t1", a_status(S.STARTING))
    assert await news(book) == [("t1", S.RUNNING)]
    book.note("t1", a_status(S.RUNNING, "started, but"))
    assert (await book.wait_news())[0].status.message == "started, but"


async def test_a_forgotten_task_is_not_reported() -> None:
    book = ReportBook()
    book.note("t1", a_status(S.RUNNING))
    book.forget("t1")
    assert await is_silent(book)
