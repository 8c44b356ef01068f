"""Carries one stream of a node between the manager a user asked and the one that holds the node's session.

Edge: asyncio; a channel of its own for each stream, whose slowness is the stream's: what nobody reads is not read from
the node either. It ends when either side ends, or the channel breaks.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, assert_never

from skep.manager.streams import refusal_of
from skep.model import session as protocol
from skep.model.codec import MALFORMED
from skep.model.errors import Disconnected, SkepError, Unavailable, Unsupported
from skep.model.identity import Credentials
from skep.model.session import (
    MAX_PAYLOAD,
    CarryOpen,
    EngineRequest,
    LogRequest,
    RelayOpen,
    StreamData,
    StreamEnd,
    StreamEof,
    StreamRequest,
)
from skep.ports.bytestream import ByteStream, StreamBroken
from skep.ports.transport import Channel, ChannelClosed, RelayPort, TransportError

OPENING_S: Final = 5.0
STDIN: Final = 0
NOT_LEADING: Final = "the manager that was asked does not lead the swarm any more; try again"
BROKEN: Final = "the connection between the managers broke"


class NodeStreams(Protocol):
    """See `manager.sessions`."""

    def open_stream(self, node_id: str, request: LogRequest) -> AsyncIterator[StreamData]: ...
    def open_engine(self, node_id: str) -> ByteStream: ...


Find = Callable[[], Awaitable[NodeStreams | None]]
Hold = Callable[[str, Channel], Awaitable[None]]


class Relay:
    """Opens streams of nodes by way of the manager that leads."""

    def __init__(
        self, port: RelayPort, credentials: Callable[[], Credentials], leader: Callable[[], Awaitable[str]]
    ) -> None:
        """Prepare.

        Args:
            credentials: This manager's, as of now.
            leader: Where the leader listens. Raises `Unavailable` where there is none for a while.
        """
        self._port = port
        self._credentials = credentials
        self._leader = leader

    async def open_stream(self, node_id: str, request: LogRequest) -> AsyncIterator[StreamData]:
        """As `Sessions.open_stream`."""
        channel = await self._open(node_id, request)
        try:
            while (part := await _next(channel)) is not None:
                yield part
        except ChannelClosed as error:
            raise Disconnected(BROKEN) from error
        finally:
            await channel.close()

    def open_engine(self, node_id: str) -> ByteStream:
        """As `Sessions.open_engine`; connects when it is first used."""
        return _CarriedStream(lambda: self._open(node_id, EngineRequest()))

    async def open_session(self, node_id: str, addr: str) -> Channel:
        """A channel over which the manager at an address holds a node's session; see `manager.carrying`.

        Raises:
            Unavailable: It cannot be reached.
        """
        return await self._connect(addr, CarryOpen(node_id=node_id))

    async def _open(self, node_id: str, request: StreamRequest) -> Channel:
        """Raises: Unavailable: The leader cannot be reached."""
        return await self._connect(await self._leader(), RelayOpen(node_id=node_id, request=request))

    async def _connect(self, addr: str, opening: RelayOpen | CarryOpen) -> Channel:
        try:
            channel = await self._port.relay(addr, self._credentials())
        except TransportError as error:
            raise Unavailable(
                f"node {opening.node_id} is reached over the leader, which does not answer: {error}"
            ) from error
        try:
            await channel.send(protocol.encoder.encode(opening))
        except ChannelClosed as error:
            await channel.close()
            raise Unavailable(BROKEN) from error
        except BaseException:
            await channel.close()
            raise
        return channel


class _CarriedStream:
    """A connection to a node's engine by way of another manager. Implements `ports.bytestream.ByteStream`."""

    def __init__(self, connect: Callable[[], Awaitable[Channel]]) -> None:
        self._connect = connect
        self._connecting: asyncio.Future[Channel] | None = None
        self._is_over = False

    async def send(self, data: bytes, /) -> None:
        for start in range(0, len(data), MAX_PAYLOAD):
            await self._send(StreamData(stream=0, channel=STDIN, payload=data[start : start + MAX_PAYLOAD]))

    async def send_end(self) -> None:
        await self._send(StreamEof(stream=0))

    async def receive(self) -> bytes:
        if self._is_over:
            return b""
        channel = await self._channel()
        try:
            part = await _next(channel)
        except ChannelClosed as error:
            raise StreamBroken(BROKEN) from error
        self._is_over = part is None
        return part.payload if part is not None else b""

    async def close(self) -> None:
        self._is_over = True
        connecting, self._connecting = self._connecting, _refused()
        if connecting is None:
            return
        if not connecting.done():
            connecting.cancel()
        for channel in await asyncio.gather(connecting, return_exceptions=True):
            if not isinstance(channel, BaseException):
                await channel.close()

    async def _send(self, message: StreamData | StreamEof) -> None:
        try:
            channel = await self._channel()
            await channel.send(protocol.encoder.encode(message))
        except (ChannelClosed, SkepError) as error:
            raise StreamBroken(str(error)) from error

    async def _channel(self) -> Channel:
        """The channel; connects once, for sender and receiver. Raises: SkepError."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        return await asyncio.shield(self._connecting)


def _refused() -> "asyncio.Future[Channel]":
    closed: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    closed.set_exception(Unavailable("the connection was closed"))
    closed.exception()  # Seen.
    return closed


async def _next(channel: Channel) -> StreamData | None:
    """The next part; None at the proper end.

    Raises:
        Unavailable, Unsupported: The node ended it with an error. Disconnected: its session broke. ChannelClosed.
    """
    raw = await channel.receive()
    try:
        message: StreamData | StreamEnd = protocol.from_relay.decode(raw)
    except MALFORMED as error:
        raise Unavailable(f"the leader sent what is no message: {error}") from error
    if isinstance(message, StreamData):
        return message
    if message.error:
        raise refusal_of(message)
    return None


# --- at the manager that leads ---------------------------------------------------------------


async def serve_relay(find: Find, channel: Channel, hold: Hold | None = None) -> None:
    """Open the stream that another manager asks for, or hold the session it carries, to its end; closes the channel.

    Args:
        find: Finds the streams of this manager's sessions; None where it does not lead.
        hold: Holds the session of a node, by id, that the other manager carries.
    """
    try:
        opening = await _opening(channel)
        if isinstance(opening, CarryOpen) and hold is not None:
            await hold(opening.node_id, channel)
        else:
            await channel.send(protocol.encoder.encode(await _carry(find, opening, channel)))
    except (ChannelClosed, TimeoutError):
        pass  # The user has gone, or the other manager.
    finally:
        await channel.close()


async def _opening(channel: Channel) -> protocol.ToRelay | str:
    """What is asked, or why it is nothing. Raises: ChannelClosed, TimeoutError."""
    async with asyncio.timeout(OPENING_S):
        raw = await channel.receive()
    try:
        asked: protocol.ToRelay = protocol.to_relay.decode(raw)
    except MALFORMED as error:
        return f"the request to the leader cannot be read: {error}"
    return asked


async def _carry(find: Find, opening: protocol.ToRelay | str, channel: Channel) -> StreamEnd:
    """Returns: how it ended. Raises: ChannelClosed."""
    if isinstance(opening, str):
        return StreamEnd(stream=0, error=opening)
    if not isinstance(opening, RelayOpen):
        return StreamEnd(stream=0, error="the request to the leader does not say which node's stream is meant")
    streams = await find()
    if streams is None:
        return StreamEnd(stream=0, error=NOT_LEADING)
    try:
        match opening.request:
            case LogRequest():
                parts = streams.open_stream(opening.node_id, opening.request)
                await _until_gone(_downward(parts, channel), _listen(channel))
            case EngineRequest():
                await _carry_engine(streams.open_engine(opening.node_id), channel)
            case _:
                assert_never(opening.request)
    except StreamBroken as error:
        return StreamEnd(stream=0, error=str(error) or BROKEN)
    except SkepError as refusal:
        return StreamEnd(
            stream=0,
            error=str(refusal),
            is_unsupported=isinstance(refusal, Unsupported),
            is_lost=isinstance(refusal, Disconnected),
        )
    return StreamEnd(stream=0)


async def _carry_engine(stream: ByteStream, channel: Channel) -> None:
    async def parts() -> AsyncIterator[StreamData]:
        while data := await stream.receive():
            yield StreamData(stream=0, payload=data)

    try:
        await _until_gone(_downward(parts(), channel), _upward(stream, channel))
    finally:
        await stream.close()


async def _until_gone(down: Awaitable[None], up: Awaitable[None]) -> None:
    """Carry both ways until the node's end is over, or the other manager has gone."""
    downward, upward = asyncio.ensure_future(down), asyncio.ensure_future(up)
    try:
        await asyncio.wait({downward, upward}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (downward, upward):
            each.cancel()
        await asyncio.gather(downward, upward, return_exceptions=True)
    ended = downward if not downward.cancelled() else upward
    ended.result()


async def _downward(parts: AsyncIterator[StreamData], channel: Channel) -> None:
    try:
        async for part in parts:
            await channel.send(protocol.encoder.encode(part))
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


async def _listen(channel: Channel) -> None:
    """Wait until the other manager has gone. Raises: ChannelClosed."""
    while True:
        await channel.receive()


async def _upward(stream: ByteStream, channel: Channel) -> None:
    """Carry what the user sends, and then wait until they have gone. Raises: ChannelClosed."""
    try:
        while True:
            message = protocol.to_relay.decode(await channel.receive())
            if isinstance(message, StreamData):
                await stream.send(message.payload)
            elif isinstance(message, StreamEof):
                await stream.send_end()
    except StreamBroken:
        await _listen(channel)  # It takes no more; what it says still counts.
    except MALFORMED as error:
        raise ChannelClosed(f"the other manager sent what is no message: {error}") from error
