"""What this node has to ask a manager for: secrets and configs of its tasks, places on networks for its containers.

Edge: asyncio events only. A question stays until it is answered, over as many sessions as that takes; an answer is kept
nowhere but with whoever asked.
"""

import asyncio
from collections.abc import Sequence

from skep.model.errors import InvalidSpec
from skep.model.session import Answer, FileSent, FileWanted, Question


class Wants:
    """Questions under way. One event loop."""

    def __init__(self) -> None:
        self._asked: dict[Question, asyncio.Future[Answer]] = {}
        self._sent: set[Question] = set()
        self._is_new = asyncio.Event()

    async def fetch(self, wanted: FileWanted) -> FileSent:
        """Ask for a file and wait for it, however long no manager is there.

        Raises:
            InvalidSpec: The manager does not give it; the text is its reason.
        """
        sent = await self.ask(wanted)
        if sent.error:
            raise InvalidSpec(sent.error)
        return sent if isinstance(sent, FileSent) else FileSent(wanted=wanted)

    async def ask(self, question: Question) -> Answer:
        """Ask and wait, however long no manager is there; the answer may be a refusal."""
        answer = self._asked.setdefault(question, asyncio.get_running_loop().create_future())
        self._is_new.set()
        try:
            return await asyncio.shield(answer)
        finally:
            if not answer.done():
                self._asked.pop(question, None)
                self._sent.discard(question)

    def renew(self) -> None:
        """A new session: what the old one left open is asked again."""
        self._sent.clear()
        self._is_new.set()

    async def next(self) -> Sequence[Question]:
        """Wait until there is something to ask that was not yet asked in this session."""
        while not (fresh := [question for question in self._asked if question not in self._sent]):
            self._is_new.clear()
            await self._is_new.wait()
        self._sent.update(fresh)
        return fresh

    def take(self, sent: Answer) -> None:
        """A manager answered; an answer nobody waits for any more is dropped."""
        answer = self._asked.pop(sent.wanted, None)
        self._sent.discard(sent.wanted)
        if answer is not None and not answer.done():
            answer.set_result(sent)
