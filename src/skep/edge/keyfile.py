"""Key material on disk: the node's credentials and the cluster's data key.

Edge: small files of mode 0600 in a directory of mode 0700, written whole and durably. Where managers are locked, the
data key lies here only under the unlock key (AES-GCM), which is nowhere on this disk.
"""

import base64
import os
import stat
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skep.model.codec import MALFORMED
from skep.model.identity import UNLOCK_KEY_PREFIX, Credentials

DATA_KEY_BYTES: Final = 32
CREDENTIALS_FILE: Final = "credentials.json"
DATA_KEY_FILE: Final = "data-key"
LOCKED_KEY_FILE: Final = "data-key.locked"
NONCE_BYTES: Final = 12


class KeyFileError(Exception):
    """A key file is damaged or open to others; the text says which and what to do."""


class WrongUnlockKey(KeyFileError):
    """That key does not unlock the data key."""


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
    """Keep the data key as it is: that of a manager that joined, or that is no longer locked."""
    _write(directory / DATA_KEY_FILE, secret)
    (directory / LOCKED_KEY_FILE).unlink(missing_ok=True)


def is_locked(directory: Path) -> bool:
    """Whether the data key is here under an unlock key only."""
    return (directory / LOCKED_KEY_FILE).exists() and not (directory / DATA_KEY_FILE).exists()


def lock_data_key(directory: Path, secret: bytes, unlock_key: str) -> None:
    """Keep the data key under an unlock key only.

    Args:
        unlock_key: As users see it, `SWMKEY-1-…`.
    """
    nonce = os.urandom(NONCE_BYTES)
    box = AESGCM(_unlock_bytes(unlock_key)).encrypt(nonce, secret, LOCKED_KEY_FILE.encode())
    _write(directory / LOCKED_KEY_FILE, nonce + box)
    (directory / DATA_KEY_FILE).unlink(missing_ok=True)


def unlock_data_key(directory: Path, unlock_key: str) -> bytes:
    """Open the locked data key.

    Raises:
        WrongUnlockKey: It is another key's. KeyFileError: The file is damaged, gone or open to others.
    """
    path = directory / LOCKED_KEY_FILE
    raw = _read(path)
    if raw is None:
        raise KeyFileError(f"{path} is gone; restore it from a backup")
    try:
        return AESGCM(_unlock_bytes(unlock_key)).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], LOCKED_KEY_FILE.encode())
    except (InvalidTag, ValueError) as error:
        raise WrongUnlockKey("swarm could not be unlocked: invalid key provided") from error


def _unlock_bytes(text: str) -> bytes:
    """Raises: WrongUnlockKey: it is no such key."""
    try:
        raw = base64.b64decode(text.strip().removeprefix(UNLOCK_KEY_PREFIX) + "=", validate=True)
    except ValueError as error:
        raise WrongUnlockKey("swarm could not be unlocked: invalid key provided") from error
    if not text.strip().startswith(UNLOCK_KEY_PREFIX) or len(raw) != DATA_KEY_BYTES:
        raise WrongUnlockKey("swarm could not be unlocked: invalid key provided")
    return raw


def has_data_key(directory: Path) -> bool:
    """Whether the data key is here as it is."""
    return (directory / DATA_KEY_FILE).exists()


def forget_data_key(directory: Path) -> None:
    """Remove the data key: this node is no manager any more."""
    for name in (DATA_KEY_FILE, LOCKED_KEY_FILE):
        (directory / name).unlink(missing_ok=True)


def forget(directory: Path) -> None:
    """Remove all key material."""
    for name in (CREDENTIALS_FILE, DATA_KEY_FILE, LOCKED_KEY_FILE):
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
