"""Carries a node's session between the node and the manager that leads, for a node that cannot reach that one itself.

Edge: asyncio; channels come in open. After the hello nothing is read: each message is passed on before the next one is
taken, so a slow side slows the other, and what is under way is bounded by the two connections.
"""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

from skep.manager.race import first_of
from skep.manager.sessions import HELLO_S
from skep.model import session as protocol
from skep.model.codec import MALFORMED
from skep.model.errors import SkepError
from skep.model.session import Hello
from skep.ports.transport import Channel, ChannelClosed

REACH_S: Final = 2.0
"""A node waits for its welcome meanwhile, and has other managers to ask."""
ENDED: Final = "the leader ended the session, or the way to it broke; try again"
MOVED: Final = "another manager leads the swarm now; try again"


async def first_message(node: Channel) -> bytes:
    """What a node says first; empty if it does not say anything in time."""
    try:
        async with asyncio.timeout(HELLO_S):
            return await node.receive()
    except (ChannelClosed, TimeoutError):
        return b""


def wish_of(first: bytes) -> str:
    """Where the hello asks to be carried to; empty for nowhere, or if it is none."""
    try:
        message: protocol.FromAgent = protocol.from_agent.decode(first)
    except MALFORMED:
        return ""
    return message.carry_to if isinstance(message, Hello) else ""


async def carry_session(
    node: Channel, hello: bytes, opening: Coroutine[Any, Any, Channel], moved: Coroutine[Any, Any, None]
) -> str:
    """Carry a session until either side ends it, or the leader is another one.

    Args:
        node: Stays open, so that the node can be told.
        hello: What was read of it.
        opening: Reaches the leader.
        moved: Returns once that one does not lead any more.
    Returns:
        Why it is over.
    """
    over = asyncio.ensure_future(moved)
    carrying = asyncio.ensure_future(_carry(node, hello, opening))
    try:
        await asyncio.wait({carrying, over}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for part in (carrying, over):
            part.cancel()
        await asyncio.gather(carrying, over, return_exceptions=True)
    return MOVED if carrying.cancelled() else carrying.result()


async def _carry(node: Channel, hello: bytes, opening: Coroutine[Any, Any, Channel]) -> str:
    try:
        async with asyncio.timeout(REACH_S):
            leader = await opening
    except (SkepError, TimeoutError) as error:
        return f"this manager does not reach the leader either, ask another: {error}"
    try:
        await leader.send(hello)
        await first_of(_upward(node, leader), _downward(leader, node))
    except ChannelClosed:
        pass  # Which of the two has gone does not matter.
    finally:
        await leader.close()
    return ENDED


async def _upward(node: Channel, leader: Channel) -> None:
    """Pass on what the node says; once the leader takes no more it is dropped, as the leader's last words still count.

    Raises:
        ChannelClosed: The node has gone.
    """
    is_taken = True
    while True:
        message = await node.receive()
        if is_taken:
            is_taken = await _is_taken(leader.send(message))


async def _is_taken(sending: Awaitable[None]) -> bool:
    try:
        await sending
    except ChannelClosed:
        return False
    return True


async def _downward(leader: Channel, node: Channel) -> None:
    """Raises: ChannelClosed: One of the two has gone."""
    while True:
        await node.send(await leader.receive())
