"""Runs works side by side until the first of them ends.

Edge: asyncio.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Run some works until the first ends, and drop the others; raises what that one raised."""
    parts = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
    for part in done:
        part.result()
