"""Key material on disk: the node's credentials and the cluster's data key.

Edge: small files of mode 0600 in a directory of mode 0700, written whole and durably. Autolock will replace the
plain data key by a wrapped one; only this module and its caller will notice.
"""

import os
import stat
from pathlib import Path
from typing import Final

import msgspec

from skep.model.codec import MALFORMED
from skep.model.identity import Credentials

DATA_KEY_BYTES: Final = 32
CREDENTIALS_FILE: Final = "credentials.json"
DATA_KEY_FILE: Final = "data-key"


class KeyFileError(Exception):
    """A key file is damaged or open to others; the text says which and what to do."""


def load_credentials(directory: Path) -> Credentials | None:
    """Read the node's credentials; None if it has none.

    Raises:
        KeyFileError: The file is damaged or open to others.
    """
    path = directory / CREDENTIALS_FILE
    raw = _read(path)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=Credentials)
    except MALFORMED as error:
        raise KeyFileError(f"{path} is damaged; restore it from a backup, or leave the swarm and join again") from error


def save_credentials(directory: Path, credentials: Credentials) -> None:
    """Write the node's credentials durably: a power cut leaves either the old ones or the new."""
    _write(directory / CREDENTIALS_FILE, msgspec.json.encode(credentials))


def load_or_create_data_key(directory: Path) -> bytes:
    """The cluster's data key as this manager keeps it, drawn if there is none.

    Raises:
        KeyFileError: The file is damaged or open to others.
    """
    path = directory / DATA_KEY_FILE
    raw = _read(path)
    if raw is None:
        raw = os.urandom(DATA_KEY_BYTES)
        _write(path, raw)
    if len(raw) != DATA_KEY_BYTES:
        raise KeyFileError(f"{path} is damaged; restore it from a backup: without it no secret can be read")
    return raw


def save_data_key(directory: Path, secret: bytes) -> None:
    """Keep the data key that a manager was given when it joined."""
    _write(directory / DATA_KEY_FILE, secret)


def forget(directory: Path) -> None:
    """Remove all key material."""
    for name in (CREDENTIALS_FILE, DATA_KEY_FILE):
        (directory / name).unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(f"{path} is open to others (mode {mode:04o}); run chmod 600 on it and start again")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
