"""Where the swarm's managers are, and in which order to try them.

Pure; the dice come in.
"""

from collections.abc import Sequence

from skep.ports.clock import Dice


class AddressBook:
    """Addresses (host:port) of managers; never becomes empty once it has any."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(dict.fromkeys(addresses))
        self._good = ""

    def learn(self, addresses: Sequence[str]) -> None:
        """Replace the list by what a manager said; an empty one teaches nothing."""
        if addresses:
            self._addresses = list(dict.fromkeys(addresses))

    def praise(self, address: str) -> None:
        """That one answered: try it first the next time."""
        self._good = address

    def order(self, dice: Dice) -> list[str]:
        """The last good one first, even if it was not named since; the others shuffled, so that nodes spread."""
        others = [address for address in self._addresses if address != self._good]
        others.sort(key=lambda _: dice.fraction())
        return [self._good, *others] if self._good else others
