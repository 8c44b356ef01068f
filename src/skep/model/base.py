"""The two kinds of structure in the model, and the identifiers that name objects.

Pure. `Wire` structures are Docker's JSON, field for field: what a client sends is decoded into them and the
same structures are kept and sent back. `Record` structures are ours: what the swarm knows beyond the API.
"""

from typing import Any, NewType

import msgspec

from skep.lib.gonames import go_name

ClusterId = NewType("ClusterId", str)
NodeId = NewType("NodeId", str)
ServiceId = NewType("ServiceId", str)
TaskId = NewType("TaskId", str)
NetworkId = NewType("NetworkId", str)
SecretId = NewType("SecretId", str)
ConfigId = NewType("ConfigId", str)

Labels = dict[str, str]
Nanoseconds = int
"""A moment (since 1970 UTC) or a length of time, always in nanoseconds as Go and Docker count them."""


def _labels() -> Labels:
    return {}


def present_labels() -> Any:
    """A `Labels` field that is written even when empty, as Docker writes it."""
    return msgspec.field(default_factory=_labels)


def always(value: Any) -> Any:
    """A field whose default is written too, because Docker always writes it and clients count on it."""
    return msgspec.field(default_factory=lambda: value)


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=go_name):
    """A part of Docker's API, spelled as Go spells it; empty optional parts are left out."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the swarm's own state."""


class Object(Record, frozen=True, kw_only=True):
    """What every stored object carries.

    Attributes:
        version: Store revision of its last write; 0 before its first. Set by the store, never by hand.
        created_at, updated_at: When it was first and last written.
    """

    id: str
    version: int = 0
    created_at: Nanoseconds = 0
    updated_at: Nanoseconds = 0
