"""Objects to bytes and back.

Pure. MessagePack, for the store and for sessions; the kind stands in the key, not in the value. Fields
added later need defaults so that older rows still decode.
"""

from typing import Final

import msgspec

from skep.model.base import Object
from skep.model.cluster import Cluster
from skep.model.network import Network
from skep.model.node import Node
from skep.model.secret import Config, Secret
from skep.model.service import Service
from skep.model.task import Task

KINDS: Final[dict[str, type[Object]]] = {
    "cluster": Cluster,
    "node": Node,
    "service": Service,
    "task": Task,
    "network": Network,
    "secret": Secret,
    "config": Config,
}
KIND_OF: Final[dict[type[Object], str]] = {kind: name for name, kind in KINDS.items()}


_encoder = msgspec.msgpack.Encoder()
_decoders = {name: msgspec.msgpack.Decoder(kind) for name, kind in KINDS.items()}


MALFORMED: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What msgspec raises for bytes from outside: bad UTF-8 is a `UnicodeDecodeError`, deep nesting `RecursionError`."""


class CorruptObject(ValueError):
    """Stored bytes that are not the object their key says."""


def encode(value: Object) -> bytes:
    """Write an object as MessagePack."""
    return _encoder.encode(value)


def decode(kind: str, raw: bytes, version: int) -> Object:
    """Read an object back.

    Args:
        kind: A key of `KINDS`.
        version: The store revision of the row, which becomes the object's version.
    Raises:
        CorruptObject: The bytes do not hold such an object.
    """
    try:
        value = _decoders[kind].decode(raw)
    except (KeyError, *MALFORMED) as error:
        raise CorruptObject(f"a stored {kind} cannot be read: {error}") from error
    return msgspec.structs.replace(value, version=version)
