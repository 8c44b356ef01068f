"""What this node has to ask a manager for: the secrets and configs of the tasks it is preparing.

Edge: asyncio events only. A question stays until it is answered, over as many sessions as that takes; an answer is kept
nowhere but with whoever asked.
"""

import asyncio
from collections.abc import Sequence

from skep.model.errors import InvalidSpec
from skep.model.session import FileSent, FileWanted


class Wants:
    """Questions under way. One event loop."""

    def __init__(self) -> None:
        self._asked: dict[FileWanted, asyncio.Future[FileSent]] = {}
        self._sent: set[FileWanted] = set()
        self._is_new = asyncio.Event()

    async def fetch(self, wanted: FileWanted) -> FileSent:
        """Ask for a file and wait for it, however long no manager is there.

        Raises:
            InvalidSpec: The manager does not give it; the text is its reason.
        """
        answer = self._asked.setdefault(wanted, asyncio.get_running_loop().create_future())
        self._is_new.set()
        try:
            sent = await asyncio.shield(answer)
        finally:
            if not answer.done():
                self._asked.pop(wanted, None)
                self._sent.discard(wanted)
        if sent.error:
            raise InvalidSpec(sent.error)
        return sent

    def renew(self) -> None:
        """A new session: what the old one left open is asked again."""
        self._sent.clear()
        self._is_new.set()

    async def next(self) -> Sequence[FileWanted]:
        """Wait until there is something to ask that was not yet asked in this session."""
        while not (fresh := [wanted for wanted in self._asked if wanted not in self._sent]):
            self._is_new.clear()
            await self._is_new.wait()
        self._sent.update(fresh)
        return fresh

    def take(self, sent: FileSent) -> None:
        """A manager answered; an answer nobody waits for any more is dropped."""
        answer = self._asked.pop(sent.wanted, None)
        self._sent.discard(sent.wanted)
        if answer is not None and not answer.done():
            answer.set_result(sent)
