"""Backups written and read, piece by piece, with no file in sight.

Pure but for the salt, which is drawn from the operating system. Parts are sealed with AES-GCM under a key that scrypt
makes of the pass phrase. A part's number, and whether it is the last, are its nonce; the head is bound into each: so
parts can be neither exchanged nor left out, and a file that was cut off is never taken for a whole one.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skep.model import backup, codec
from skep.model.backup import BackupDamaged, Head, Preface, SavedRow, Scrypt, WrongPassPhrase
from skep.model.base import Object
from skep.model.codec import MALFORMED

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
TAG_BYTES: Final = 16
CUT_OFF: Final = "the backup is cut off: its end is missing; use another copy of it"
DAMAGED: Final = "the backup is damaged; use another copy of it"

_rows = msgspec.msgpack.Decoder(list[SavedRow])
_preface = msgspec.msgpack.Decoder(Preface)


def new_scrypt() -> Scrypt:
    """Today's cost, 64 MiB and about a quarter of a second, with a fresh salt."""
    return Scrypt(salt=os.urandom(SALT_BYTES))


def derive(pass_phrase: str, scrypt: Scrypt) -> bytes:
    """The key of a pass phrase. Slow on purpose: not for the event loop; other threads run meanwhile."""
    return hashlib.scrypt(  # hashlib's lets other threads run, cryptography's does not.
        pass_phrase.encode(errors="surrogateescape"),
        salt=scrypt.salt,
        n=scrypt.n,
        r=scrypt.r,
        p=scrypt.p,
        maxmem=scrypt.memory_bytes + (1 << 20),
        dklen=KEY_BYTES,
    )


def write(head: Head, key: bytes, data_key: bytes, objects: Sequence[Object]) -> Iterator[bytes]:
    """A whole backup, in pieces of about a quarter of a megabyte.

    Args:
        key: `derive`d with the head's parameters.
        objects: All of one revision; kept until they are written, which costs nothing: objects do not change.
    """
    begin = backup.encode_head(head)
    digest = hashlib.sha256(begin)
    yield begin
    boxes = _Boxes(begin, key)
    counts: dict[str, int] = {}
    for value in objects:
        kind = codec.KIND_OF[type(value)]
        counts[kind] = counts.get(kind, 0) + 1
    plain = msgspec.msgpack.encode(Preface(data_key=data_key, counts=counts))
    for following in _parts(objects):
        framed = boxes.seal(plain, is_last=False)
        digest.update(framed)
        yield framed
        plain = following
    framed = boxes.seal(plain, is_last=True) + backup.number(0)
    digest.update(framed)
    yield framed
    yield digest.digest()


def _parts(objects: Sequence[Object]) -> Iterator[bytes]:
    rows: list[SavedRow] = []
    size = 0
    for value in objects:
        stored = codec.encode(msgspec.structs.replace(value, version=0))
        rows.append(SavedRow(codec.KIND_OF[type(value)], value.id, stored, value.version))
        size += len(stored)
        if size >= backup.PART_BYTES:
            yield msgspec.msgpack.encode(rows)
            rows, size = [], 0
    if rows:
        yield msgspec.msgpack.encode(rows)


class _Boxes:
    """Seals or opens parts, each once and in order."""

    def __init__(self, head: bytes, key: bytes) -> None:
        self._bound = hashlib.sha256(head).digest()
        self._cipher = AESGCM(key)
        self._number = 0

    def seal(self, plain: bytes, *, is_last: bool) -> bytes:
        """The part as it stands in the file."""
        box = self._cipher.encrypt(self._nonce(is_last), plain, self._bound)
        return backup.number(len(box)) + box

    def open(self, box: bytes, *, is_last: bool) -> bytes:
        """Raises: InvalidTag."""
        return self._cipher.decrypt(self._nonce(is_last), box, self._bound)

    def _nonce(self, is_last: bool) -> bytes:
        nonce = self._number.to_bytes(11, "big") + bytes([is_last])
        self._number += 1
        return nonce


class BackupReader:
    """A backup whose bytes come in pieces of any size.

    Without a key only head, shape and checksum are looked at. Until `finish` has returned nothing that was read is to
    be believed to be all.

    Attributes:
        head: Once enough has come; None before.
        preface: Once the first part has been opened.
        counts: Objects read so far, by kind.
        n_parts: Sealed parts seen so far.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.preface: Preface | None = None
        self.counts: dict[str, int] = {}
        self.n_parts = 0
        self._waiting = bytearray()
        self._begin = b""
        self._held: bytes | None = None
        self._boxes: _Boxes | None = None
        self._digest = hashlib.sha256()
        self._is_ended = False
        self._is_whole = False

    def feed(self, piece: bytes) -> None:
        """Take more of the file.

        Raises:
            BackupDamaged, BackupTooNew.
        """
        self._waiting += piece
        if self.head is None:
            self._read_head()

    def unlock(self, key: bytes) -> None:
        """Open what comes: call it once `head` is known, before any `rows`.

        Args:
            key: `derive`d with the head's parameters.
        """
        self._boxes = _Boxes(self._begin, key)

    def rows(self) -> Iterator[SavedRow]:
        """The rows of what has come so far and was not given yet; without a key none.

        Raises:
            WrongPassPhrase: It does not open the first part.
            BackupDamaged.
        """
        while self.head is not None and not self._is_whole and (length := self._next_length()) is not None:
            if self._is_ended:
                self._take_digest()
                return
            if len(self._waiting) < backup.NUMBER_BYTES + length:
                return
            framed = self._take(backup.NUMBER_BYTES + length)
            self._digest.update(framed)
            if self._held is not None:
                yield from self._open(self._held, is_last=length == 0)
            elif length == 0:
                raise BackupDamaged(DAMAGED)
            self._held = framed[backup.NUMBER_BYTES :] if length else None
            self._is_ended = length == 0
            self.n_parts += length > 0

    def finish(self) -> None:
        """The file has ended.

        Raises:
            BackupDamaged: Something is missing, too much or other than was written.
        """
        if self.head is None:
            raise BackupDamaged(CUT_OFF if self._waiting else "the file is empty; use another copy of the backup")
        for _ in self.rows():
            raise AssertionError("rows were left behind: take them before the end")
        if not self._is_whole:
            raise BackupDamaged(CUT_OFF)
        if self._waiting:
            raise BackupDamaged("the backup has more behind its end than was written; use another copy of it")
        if self.preface is not None and self.preface.counts != self.counts:
            raise BackupDamaged("the backup holds other objects than it says; use another one")

    def _read_head(self) -> None:
        fixed = len(backup.MAGIC) + backup.NUMBER_BYTES
        magic = bytes(self._waiting[: len(backup.MAGIC)])
        if not backup.MAGIC.startswith(magic):
            raise BackupDamaged("this is no backup of Skep's; give the file that `skep backup save` wrote")
        if len(self._waiting) < fixed:
            return
        length = int.from_bytes(self._waiting[len(backup.MAGIC) : fixed], "big")
        if length > backup.MAX_HEAD_BYTES:
            raise BackupDamaged("the backup is damaged in its head; use another copy of it")
        if len(self._waiting) < fixed + length + backup.NUMBER_BYTES:
            return
        self._begin = self._take(fixed + length + backup.NUMBER_BYTES)
        self._digest.update(self._begin)
        crc = int.from_bytes(self._begin[-backup.NUMBER_BYTES :], "big")
        self.head = backup.decode_head(self._begin[fixed : fixed + length], crc)

    def _next_length(self) -> int | None:
        """Of the next part; of the digest's where the parts have ended; None while it has not come."""
        if self._is_ended:
            return 0 if len(self._waiting) >= backup.DIGEST_BYTES else None
        if len(self._waiting) < backup.NUMBER_BYTES:
            return None
        length = int.from_bytes(self._waiting[: backup.NUMBER_BYTES], "big")
        if length > backup.MAX_PART_BYTES or 0 < length < TAG_BYTES:
            raise BackupDamaged(DAMAGED)
        return length

    def _take_digest(self) -> None:
        if self._take(backup.DIGEST_BYTES) != self._digest.digest():
            raise BackupDamaged("the backup is damaged: its checksum is another one; use another copy of it")
        self._is_whole = True

    def _open(self, box: bytes, *, is_last: bool) -> Sequence[SavedRow]:
        if self._boxes is None:
            return ()
        try:
            plain = self._boxes.open(box, is_last=is_last)
            if self.preface is None:
                self.preface = _preface.decode(plain)
                return ()
            rows = _rows.decode(plain)
        except InvalidTag as error:
            if self.preface is None:
                raise WrongPassPhrase(
                    "the pass phrase does not open this backup; give the one it was made with"
                ) from error
            raise BackupDamaged(DAMAGED) from error
        except MALFORMED as error:
            raise BackupDamaged("the backup's contents cannot be read; use another one") from error
        for row in rows:
            _check(row)
            self.counts[row.kind] = self.counts.get(row.kind, 0) + 1
        return rows

    def _take(self, n: int) -> bytes:
        taken = bytes(self._waiting[:n])
        del self._waiting[:n]
        return taken


def _check(row: SavedRow) -> None:
    """Make sure that an object can be read before anything is done with it."""
    try:
        found = codec.decode(row.kind, row.value, row.version)
    except codec.CorruptObject as error:
        raise BackupDamaged(f"{error}: the backup was made by another Skep; restore it with that version") from error
    if found.id != row.id:
        raise BackupDamaged(f"the backup holds the {row.kind} {found.id} under another id; use another one")
