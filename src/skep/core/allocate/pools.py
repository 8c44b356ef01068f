"""One space of numbers of which each has at most one holder: the addresses of a network, VNIs, published ports.

Pure. A number that was let go is not chosen again until it has cooled down, and then only when its turn comes round
(next fit): a packet, a DNS answer or a neighbour entry that still names it must not find somebody else there. Who had
it may have it again at any time, so that a plan which could not be stored costs no numbers. Time is not known when a
release is observed, so a release waits in `freed` for the next decision to date it.
"""

from collections.abc import Iterable

from skep.lib.durations import SECOND
from skep.lib.ranges import RangeSet
from skep.model.base import Nanoseconds

COOL_DOWN = 10 * SECOND
"""Twice the time to live of our DNS answers, and well above the drain limit."""


class Pool:
    """Who holds which number.

    Attributes:
        size: How many numbers there are to be given out.
    Args:
        domain: Inclusive ranges from which numbers are chosen; a number outside can still be held if asked for by name.
        reserved: Numbers never chosen.
    """

    def __init__(self, domain: Iterable[tuple[int, int]], reserved: Iterable[int] = ()) -> None:
        self.domain = sorted(domain)
        self.holders: dict[int, str] = {}
        self._reserved = frozenset(reserved)
        self._taken = RangeSet((number, number) for number in self._reserved)
        self._freed: dict[int, None] = {}
        self._cooling: dict[int, Nanoseconds] = {}  # Ready-again moments, ascending: they are added as time goes on.
        self._former: dict[int, str] = {}  # Who had what is freed or cooling; the other way round just below.
        self._let_go: dict[str, dict[int, None]] = {}
        self._taken_early: set[int] = set()  # Held since before they had cooled down.
        self._cursor = 0
        self.size = self._n_untaken()

    def hold(self, number: int, holder: str) -> None:
        """Record that `holder` has the number; a number that somebody holds stays with them."""
        if self.holders.setdefault(number, holder) == holder:
            self._taken.add(number)
            if number in self._former:
                self._taken_early.add(number)
                self._freed.pop(number, None)
                self._cooling.pop(number, None)
                self._forget_former(number)
            if self._cursor <= number and any(first <= number <= last for first, last in self.domain):
                self._cursor = number + 1

    def release(self, number: int, holder: str) -> None:
        """Let go of a number that `holder` has; it starts to cool down."""
        if self.holders.get(number) == holder:
            del self.holders[number]
            self._taken_early.discard(number)
            self._freed[number] = None
            self._former[number] = holder
            self._let_go.setdefault(holder, {})[number] = None

    def give_back(self, number: int, holder: str) -> None:
        """Undo a `choose` or `take` of which nobody has heard: the number is free at once, unless it was resting."""
        if number in self._taken_early:
            self.release(number, holder)
        elif self.holders.get(number) == holder:
            del self.holders[number]
            self._taken.remove(number)
            self._cursor = min(self._cursor, number)

    def choose(self, holder: str, now: Nanoseconds) -> int | None:
        """Give `holder` a number it let go of, or else the next free one; None when all are held or rest."""
        self.settle(now)
        for former in self._let_go.get(holder, {}):
            if any(first <= former <= last for first, last in self.domain):  # It may have asked for another by name.
                self.hold(former, holder)
                return former
        number = self._first_gap(self._cursor)
        if number is None:
            number = self._first_gap(0)
        if number is not None:
            self.holders[number] = holder
            self._taken.add(number)
            self._cursor = number + 1
        return number

    def take(self, number: int, holder: str) -> bool:
        """Give `holder` the number it asks for by name; False if another holds it or it is reserved.

        Unlike a chosen one it need not have cooled down: who asks for an address again wants that very one.
        """
        if number in self.holders or number in self._reserved:
            return self.holders.get(number) == holder
        self.hold(number, holder)
        return True

    def free_count(self, now: Nanoseconds) -> int:
        """How many numbers `choose` could give out now."""
        self.settle(now)
        return self._n_untaken()

    def ready_at(self, now: Nanoseconds) -> Nanoseconds | None:
        """When the next number has cooled down; None if none is cooling."""
        self.settle(now)
        return next(iter(self._cooling.values()), None)

    def settle(self, now: Nanoseconds) -> None:
        """Begin to cool down what was released, and take back what has cooled down."""
        for number in self._freed:
            self._cooling[number] = now + COOL_DOWN
        self._freed.clear()
        while self._cooling:
            number, moment = next(iter(self._cooling.items()))
            if moment > now:
                break
            del self._cooling[number]
            self._taken.remove(number)
            self._forget_former(number)

    def _forget_former(self, number: int) -> None:
        former = self._former.pop(number)
        numbers = self._let_go[former]
        del numbers[number]
        if not numbers:
            del self._let_go[former]

    def _n_untaken(self) -> int:
        return sum(last - first + 1 - self._taken.count(first, last) for first, last in self.domain)

    def _first_gap(self, start: int) -> int | None:
        for first, last in self.domain:
            number = self._taken.next_gap(max(start, first))
            if number <= last:
                return number
        return None
