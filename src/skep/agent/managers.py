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
        self._is_doubtful = False

    def learn(self, addresses: Sequence[str]) -> None:
        """Replace the list by what a manager said; an empty one teaches nothing."""
        if addresses:
            self._addresses = list(dict.fromkeys(addresses))

    def praise(self, address: str) -> None:
        """That one answered: try it first the next time."""
        self._good, self._is_doubtful = address, False

    def doubt(self, address: str) -> None:
        """That one broke off: it may be dead or hang, so try it last the next time."""
        self._is_doubtful |= address == self._good

    def order(self, dice: Dice, cut_off: str = "") -> list[str]:
        """The last good one first, or last if in doubt, even if it was not named since; the others shuffled.

        Args:
            cut_off: One that could not be reached of late; behind the others.
        """
        others = [address for address in self._addresses if address != self._good]
        others.sort(key=lambda _: dice.fraction())
        others.sort(key=lambda address: address == cut_off)
        if not self._good:
            return others
        return [*others, self._good] if self._is_doubtful else [self._good, *others]
