"""Names for what its user did not name.

Pure. As Docker does it, two words that are easy to say; the words are our own.
"""

from collections.abc import Callable
from typing import Final

QUALITIES: Final = (
    "amber", "brave", "bright", "brisk", "busy", "calm", "clever", "cosy", "curious", "dapper", "eager", "early",
    "fair", "fearless", "fond", "gentle", "gilded", "glad", "golden", "hardy", "hasty", "honest", "humming", "jolly",
    "keen", "kind", "lively", "loyal", "lucky", "mellow", "merry", "mild", "modest", "nimble", "noble", "patient",
    "placid", "plucky", "polite", "proud", "quick", "quiet", "ready", "restless", "rosy", "serene", "sharp", "shy",
    "silent", "sleepy", "sly", "smooth", "snug", "spry", "steady", "sunny", "swift", "tidy", "trusty", "vivid",
    "warm", "wary", "wise", "witty",
)  # fmt: skip
BEEKEEPERS: Final = (
    "aristotle", "buckfast", "butler", "cheshire", "cook", "cotton", "crane", "dadant", "dzierzon", "farrar",
    "frisch", "hartlib", "heddon", "hooper", "huber", "janscha", "killion", "langstroth", "latham", "layens",
    "lindauer", "lubbock", "maeterlinck", "mangum", "manley", "mehring", "miller", "morse", "pellett", "pliny",
    "quinby", "rauschenfels", "reaumur", "root", "schirach", "seeley", "snelgrove", "swammerdam", "taber", "taranov",
    "thorley", "varro", "vergil", "warder", "warre", "wheler", "wildman", "winston",
)  # fmt: skip


def random_name(random_bytes: Callable[[int], bytes]) -> str:
    """A name such as `quiet_huber`. Args: random_bytes: answers that many random bytes."""
    first, second = random_bytes(2)
    return f"{QUALITIES[first % len(QUALITIES)]}_{BEEKEEPERS[second % len(BEEKEEPERS)]}"
