"""Limits on how often something may happen, per key.

Pure: the moment comes in as a value.
"""

from dataclasses import dataclass, field

SECOND = 1_000_000_000


@dataclass(slots=True)
class TokenBuckets:
    """A bucket of tokens per key that fills again steadily; a key never seen has a full one.

    Attributes:
        per_second: How fast a bucket fills. burst: how many tokens it holds.
        max_keys: Beyond it the key that asked longest ago is forgotten, so that memory is bounded.
    """

    per_second: float
    burst: int
    max_keys: int = 10_000
    levels: dict[str, tuple[float, int]] = field(default_factory=dict)

    def take(self, key: str, now: int) -> bool:
        """Take a token if there is one.

        Args:
            now: Nanoseconds, never going back.
        """
        level, at = self.levels.pop(key, (float(self.burst), now))
        level = min(self.burst, level + (now - at) / SECOND * self.per_second)
        has_token = level >= 1
        self.levels[key] = (level - 1 if has_token else level, now)
        if len(self.levels) > self.max_keys:
            del self.levels[next(iter(self.levels))]
        return has_token
