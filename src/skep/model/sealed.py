"""A value under the cluster's data key, as it is stored.

Pure. Who seals and opens it is `skep.manager.seal`.
"""

from skep.model.base import Record


class Sealed(Record, frozen=True, kw_only=True):
    """A value under AES-GCM. Attributes: key_id: which data key; nonce: 12 bytes; box: ciphertext and tag."""

    key_id: str
    nonce: bytes
    box: bytes
