"""How the daemon answers requests whose clients do not stay."""

import asyncio
import gc

import pytest
from aiohttp import web

from skep.api.server import _carry_out
from skep.model.errors import Unavailable

pytestmark = pytest.mark.anyio


async def test_a_change_that_fails_after_its_client_has_gone_is_no_surprise() -> None:
    """Nobody is there to be told; it is a line in the log, and no exception that nobody looked at."""
    surprises: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: surprises.append(context))
    began, may_fail = asyncio.Event(), asyncio.Event()

    async def change() -> web.StreamResponse:
        began.set()
        await may_fail.wait()
        raise Unavailable("the store is away")

    answering = asyncio.ensure_future(_carry_out(change()))
    await began.wait()
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    may_fail.set()
    await asyncio.sleep(0.01)
    gc.collect()
    assert surprises == []
