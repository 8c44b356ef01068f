"""Identifiers as Swarm writes them: 25 characters of base 36.

Pure: randomness comes in as bytes.
"""

from collections.abc import Callable

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
ID_BYTES = 17  # 36**25 needs 130 bits.


def base36(number: int, width: int = 0) -> str:
    """Write a non-negative integer in base 36, padded with zeros to `width` characters."""
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits)).rjust(max(width, 1), "0")


def new_id(random_bytes: Callable[[int], bytes]) -> str:
    """Draw a fresh identifier.

    Args:
        random_bytes: Returns that many random bytes; injected so that a simulation can replay it.
    Returns:
        25 characters `0-9a-z`.
    Source: swarmkit/identity/randomid.go.
    """
    number = int.from_bytes(random_bytes(ID_BYTES), "big") % 36**ID_LENGTH
    return base36(number, ID_LENGTH)
