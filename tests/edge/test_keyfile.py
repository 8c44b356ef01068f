"""Key files: private, whole, and honest about damage."""

import os
from pathlib import Path

import pytest

from skep.edge import keyfile
from skep.edge.keyfile import WrongUnlockKey
from skep.model.identity import Credentials, new_unlock_key

HELD = Credentials(certificate="c", key="k", root="r")


def test_credentials_read_back_and_are_private(tmp_path: Path) -> None:
    assert keyfile.load_credentials(tmp_path / "swarm") is None
    keyfile.save_credentials(tmp_path / "swarm", HELD)
    assert keyfile.load_credentials(tmp_path / "swarm") == HELD
    assert (tmp_path / "swarm" / keyfile.CREDENTIALS_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "swarm").stat().st_mode & 0o777 == 0o700


def test_a_data_key_is_drawn_once(tmp_path: Path) -> None:
    key = keyfile.load_or_create_data_key(tmp_path)
    assert len(key) == keyfile.DATA_KEY_BYTES
    assert keyfile.load_or_create_data_key(tmp_path) == key
    keyfile.forget(tmp_path)
    assert keyfile.load_or_create_data_key(tmp_path) != key


def test_a_write_that_was_cut_off_leaves_the_old_file(tmp_path: Path) -> None:
    keyfile.save_credentials(tmp_path, HELD)
    (tmp_path / (keyfile.CREDENTIALS_FILE + ".new")).write_bytes(b"{half")
    assert keyfile.load_credentials(tmp_path) == HELD
    keyfile.save_credentials(tmp_path, HELD)


@pytest.mark.parametrize("content", [b"", b"{}", b"short"])
def test_damage_is_named(tmp_path: Path, content: bytes) -> None:
    for name in (keyfile.CREDENTIALS_FILE, keyfile.DATA_KEY_FILE):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    with pytest.raises(keyfile.KeyFileError, match="damaged"):
        keyfile.load_credentials(tmp_path)
    with pytest.raises(keyfile.KeyFileError, match="damaged"):
        keyfile.load_or_create_data_key(tmp_path)


def test_a_key_others_can_read_is_refused(tmp_path: Path) -> None:
    keyfile.save_data_key(tmp_path, bytes(32))
    (tmp_path / keyfile.DATA_KEY_FILE).chmod(0o640)
    with pytest.raises(keyfile.KeyFileError, match="chmod 600"):
        keyfile.load_or_create_data_key(tmp_path)


def test_a_locked_data_key_is_not_on_the_disk_and_opens_with_its_key_only(tmp_path: Path) -> None:
    secret = keyfile.load_or_create_data_key(tmp_path)
    key, other = (new_unlock_key(os.urandom) for _ in range(2))
    keyfile.lock_data_key(tmp_path, secret, key)
    assert keyfile.is_locked(tmp_path)
    assert not any(secret in path.read_bytes() for path in tmp_path.iterdir())
    assert keyfile.unlock_data_key(tmp_path, f" {key}\n") == secret
    for wrong in (other, "", "SWMKEY-1-", "SWMKEY-1-é", key.removeprefix("SWMKEY-1-"), key[:-3]):
        with pytest.raises(WrongUnlockKey):
            keyfile.unlock_data_key(tmp_path, wrong)
    keyfile.save_data_key(tmp_path, secret)
    assert not keyfile.is_locked(tmp_path)
    assert keyfile.load_or_create_data_key(tmp_path) == secret
