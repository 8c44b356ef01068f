"""What a backup file is: its head, which anyone may read, and its sealed parts.

Pure. The file is the magic bytes, the head (length, JSON, CRC), sealed parts (length, box), a length of zero, and the
SHA-256 of all that. The first part holds the data key and how many objects follow; the others hold the objects' rows.
The head's own framing never changes, so that an older Skep can say that a file is too new for it.
"""

import zlib
from typing import Final

import msgspec

from skep.model.base import Nanoseconds, Record
from skep.model.codec import MALFORMED
from skep.model.errors import InvalidSpec, Unauthenticated, Unsupported

MAGIC: Final = b"SKEPBK\r\n"
"""Ends as a PNG's does: a transfer that meddles with line ends is seen at once."""
FORMAT: Final = 1
"""Raise it with every change after which an older Skep would lose something of what a backup holds."""
NUMBER_BYTES: Final = 4
DIGEST_BYTES: Final = 32
MAX_HEAD_BYTES: Final = 65_536
MAX_PART_BYTES: Final = 4_000_000
PART_BYTES: Final = 256_000
"""A part is closed once it is so large; one object more may be in it, of up to a transaction's 1.5 MB."""
LEAST_PASS_PHRASE: Final = 8
MAX_SCRYPT_BYTES: Final = 1 << 30


class BackupDamaged(InvalidSpec):
    """The file is no backup, or not what was written."""


class WrongPassPhrase(Unauthenticated):
    """The pass phrase does not open the backup."""


class BackupTooNew(Unsupported):
    """A newer Skep made the backup."""


class Scrypt(Record, frozen=True, kw_only=True):
    """How the key follows from the pass phrase. Source: RFC 7914. Attributes: n, r, p: its cost parameters."""

    salt: bytes
    n: int = 1 << 16
    r: int = 8
    p: int = 1

    @property
    def memory_bytes(self) -> int:
        """What deriving takes."""
        return 128 * self.r * (self.n + self.p + 2)


class Head(Record, frozen=True, kw_only=True):
    """What the file says to anyone, bound into every sealed part.

    Attributes:
        created_at: When the state was as it is in here.
        revision: Of that state.
        skep: Version of the Skep that made it.
    """

    format: int = FORMAT
    cluster_id: str
    node_id: str
    revision: int
    created_at: Nanoseconds
    skep: str
    scrypt: Scrypt


class _AnyHead(msgspec.Struct):
    """As much as every format has."""

    format: int
    skep: str = "unknown"


class Preface(Record, frozen=True, kw_only=True):
    """The first sealed part. Attributes: data_key: what seals values in the objects; counts: objects by kind."""

    data_key: bytes
    counts: dict[str, int]


class SavedRow(msgspec.Struct, frozen=True, array_like=True):
    """One object as the store keeps it. Attributes: version: its revision in the state that was saved."""

    kind: str
    id: str
    value: bytes
    version: int


def encode_head(head: Head) -> bytes:
    """The file's beginning, up to the first part. Defaults are written out: they may be others one day."""
    fields = {**msgspec.structs.asdict(head), "scrypt": msgspec.structs.asdict(head.scrypt)}
    text = msgspec.json.encode(fields)
    return MAGIC + number(len(text)) + text + number(zlib.crc32(text))


def decode_head(text: bytes, crc: int) -> Head:
    """Read a head.

    Raises:
        BackupDamaged, BackupTooNew.
    """
    if zlib.crc32(text) != crc:
        raise BackupDamaged("the backup is damaged in its head; use another copy of it")
    try:
        made = msgspec.json.decode(text, type=_AnyHead)
        if made.format > FORMAT:
            raise BackupTooNew(
                f"the backup is of format {made.format}, made by Skep {made.skep}, and this Skep reads up to {FORMAT}; "
                "use that version or a later one"
            )
        head = msgspec.json.decode(text, type=Head)
    except MALFORMED as error:
        raise BackupDamaged("the backup's head cannot be read; use another copy of it") from error
    scrypt = head.scrypt
    is_sound = scrypt.n > 1 and scrypt.n & (scrypt.n - 1) == 0 and scrypt.r > 0 and scrypt.p > 0
    if head.format < 1 or not is_sound or scrypt.memory_bytes > MAX_SCRYPT_BYTES or scrypt.p > 16:
        raise BackupDamaged("the backup's head asks for the impossible; use another copy of it")
    return head


def number(value: int) -> bytes:
    return value.to_bytes(NUMBER_BYTES, "big")


def check_new_pass_phrase(text: str) -> None:
    """Refuse a pass phrase that is no protection.

    Raises:
        InvalidSpec.
    """
    if len(text) < LEAST_PASS_PHRASE:
        raise InvalidSpec(
            f"the pass phrase is shorter than {LEAST_PASS_PHRASE} characters; a backup holds the swarm's CA key and "
            "every secret, so choose a long one"
        )
