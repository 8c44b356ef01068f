"""A backup's file on this machine: written whole or not at all, and looked through.

Edge: files.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click

from skep.edge.unix_http import StreamedReply

if TYPE_CHECKING:
    from skep.manager.backup import BackupReader

PIECE_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class PassPhrase:
    """Where a pass phrase comes from. Attributes: file: None asks for it, `-` reads standard input."""

    file: Path | None

    @property
    def is_given(self) -> bool:
        return self.file is not None

    def read(self, *, is_new: bool = False) -> str:
        """The pass phrase: the file's first line, or what is typed, twice if it is new.

        Raises:
            click.ClickException: There is none.
        """
        if self.file is None:
            if not sys.stdin.isatty():
                raise click.ClickException("there is no terminal to ask for the pass phrase; give --passphrase-file")
            typed: str = click.prompt("Pass phrase", hide_input=True, confirmation_prompt=is_new, err=True)
            return typed
        try:
            is_stdin = str(self.file) == "-"
            text = sys.stdin.readline() if is_stdin else self.file.read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise click.ClickException(f"the pass phrase cannot be read from {self.file}: {_cause(error)}") from error
        if not text.strip("\r\n"):
            raise click.ClickException(f"{self.file} begins with an empty line; put the pass phrase on its first line")
        return text.rstrip("\r\n")


def write(path: Path, reply: StreamedReply, pass_phrase: str) -> "BackupReader":
    """Write a backup as it comes, make sure that the pass phrase opens all of it, and only then put it in its place.

    Raises:
        click.ClickException: It cannot be written, or did not come whole; the place is as it was.
        SkepError: What came is no sound backup.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        if path.exists() and not path.is_file():
            raise click.ClickException(f"{path} is there and is no plain file; name another one")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            reader = look_through(_copied(reply, file), pass_phrase)
            file.flush()
            os.fsync(descriptor)
        fresh.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {_cause(error)}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return reader


def check(path: Path, pass_phrase: str | None) -> "BackupReader":
    """Look through a backup; without a pass phrase only at its head and checksum.

    Raises:
        click.ClickException: It cannot be read. SkepError: it is no sound backup, or the pass phrase is wrong.
    """
    try:
        with path.open("rb") as file:
            return look_through(iter(lambda: file.read(PIECE_BYTES), b""), pass_phrase)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {_cause(error)}") from error


def look_through(pieces: Iterator[bytes], pass_phrase: str | None) -> "BackupReader":
    """Read a backup to its end.

    Raises:
        SkepError: It is no sound backup, or the pass phrase is wrong.
    """
    from skep.manager import backup as backups  # Imported late: cryptography is slow to load.

    reader = backups.BackupReader()
    is_locked = pass_phrase is not None
    for piece in pieces:
        reader.feed(piece)
        if is_locked and pass_phrase is not None and reader.head is not None:
            reader.unlock(backups.derive(pass_phrase, reader.head.scrypt))
            is_locked = False
        for _ in reader.rows():
            pass  # Each was checked on its way.
    reader.finish()
    return reader


def _copied(reply: StreamedReply, file: IO[bytes]) -> Iterator[bytes]:
    import http.client

    while True:
        try:
            piece = reply.read_some()
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(
                "the daemon stopped amid the backup, so there is none; its log says why"
            ) from error
        if not piece:
            return
        file.write(piece)
        yield piece


def _cause(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text"
