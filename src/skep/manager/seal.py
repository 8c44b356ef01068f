"""Values sealed under the cluster's data key before they reach any store: the CA's key, secrets.

Pure but for its nonces, which are drawn from the operating system because a repeated one would break AES-GCM.
What a box belongs to is bound into it, so that one object's box cannot be passed off as another's. The key itself is
kept by the daemon; autolock will wrap it there, and nothing here changes.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skep.model.errors import Unauthenticated
from skep.model.sealed import Sealed

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


@dataclass(frozen=True, slots=True, repr=False)
class DataKey:
    """Attributes: id: names the key in what it sealed; secret: 32 bytes."""

    id: str
    secret: bytes

    @classmethod
    def of(cls, secret: bytes) -> "DataKey":
        """A key named by its own digest, so that a wrong one is told apart from a damaged box."""
        return cls(id=hashlib.sha256(b"skep data key\0" + secret).hexdigest()[:16], secret=secret)


class Sealer(Protocol):
    """Seals values under the cluster's data key, and opens them."""

    def seal(self, plain: bytes, purpose: str) -> Sealed: ...
    def open(self, sealed: Sealed, purpose: str) -> bytes: ...


class Seal:
    """Seals with the newest key, opens with any it was given."""

    def __init__(self, current: DataKey, older: Mapping[str, DataKey] | None = None) -> None:
        self._current = current
        self._keys = {**(older or {}), current.id: current}

    def seal(self, plain: bytes, purpose: str) -> Sealed:
        """Seal a value.

        Args:
            purpose: What it belongs to, such as `secret/<id>`; needed again to open it.
        """
        nonce = os.urandom(NONCE_BYTES)
        box = AESGCM(self._current.secret).encrypt(nonce, plain, purpose.encode())
        return Sealed(key_id=self._current.id, nonce=nonce, box=box)

    def open(self, sealed: Sealed, purpose: str) -> bytes:
        """Open a sealed value.

        Raises:
            Unauthenticated: Another key sealed it, or it was changed, or it belongs to something else.
        """
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise Unauthenticated(f"the {purpose} is sealed under data key {sealed.key_id}, which is not here")
        try:
            return AESGCM(key.secret).decrypt(sealed.nonce, sealed.box, purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise Unauthenticated(f"the {purpose} was changed since it was sealed; restore it from a backup") from error
