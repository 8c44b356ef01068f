"""What can be wrong with a Compose file, told with its place.

Pure.
"""

from collections.abc import Iterable

from skep.model.errors import InvalidSpec
from skep.stack.nodes import Place


class ComposeError(InvalidSpec):
    """A Compose file cannot be meant. The text begins with file and line; several problems have a line each."""

    def __init__(self, place: Place | None, reason: str) -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.place = place
        self.reason = reason


def joined(problems: Iterable[ComposeError]) -> ComposeError:
    """Many problems as one error, so that a user can mend them all at once."""
    found = list(problems)
    return found[0] if len(found) == 1 else ComposeError(None, "\n".join(str(problem) for problem in found))


class UnreadableFile(Exception):
    """What an injected reader raises; the text is the reason, such as `no such file`."""
