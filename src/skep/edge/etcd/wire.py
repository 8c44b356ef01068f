"""The part of etcd's v3 API that is used, as its JSON gateway spells it.

Pure. 64-bit numbers come as text and are read as numbers; bytes travel as base64; what is zero is left out.
Source: etcd 3.4, etcdserver/etcdserverpb/rpc.proto and mvcc/mvccpb/kv.proto.
"""

from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

T = TypeVar("T")


class Header(Struct, frozen=True):
    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


class KeyValue(Struct, frozen=True):
    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class Range(Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    keys_only: bool = False
    count_only: bool = False


class Put(Struct, frozen=True, omit_defaults=True):
    key: bytes
    value: bytes = b""
    lease: int = 0


class DeleteRange(Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""


class Compare(Struct, frozen=True, omit_defaults=True):
    """Attributes: target: which of the attributes below is compared, with EQUAL; a missing key has zeros."""

    key: bytes
    target: str
    create_revision: int | UnsetType = UNSET
    mod_revision: int | UnsetType = UNSET


class RequestOp(Struct, frozen=True, omit_defaults=True):
    """Attributes: one of them."""

    request_put: Put | UnsetType = UNSET
    request_range: Range | UnsetType = UNSET
    request_delete_range: DeleteRange | UnsetType = UNSET


class Txn(Struct, frozen=True, omit_defaults=True):
    compare: list[Compare] = []
    success: list[RequestOp] = []
    failure: list[RequestOp] = []


class RangeAnswer(Struct, frozen=True):
    header: Header = Header()
    kvs: list[KeyValue] = []
    more: bool = False


class ResponseOp(Struct, frozen=True):
    response_range: RangeAnswer = RangeAnswer()


class TxnAnswer(Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: list[ResponseOp] = []


class WatchCreate(Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""
    start_revision: int = 0
    progress_notify: bool = False


class WatchRequest(Struct, frozen=True):
    create_request: WatchCreate


class KeyEvent(Struct, frozen=True):
    type: str = "PUT"
    kv: KeyValue = KeyValue()


class WatchAnswer(Struct, frozen=True):
    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[KeyEvent] = []


class Failure(Struct, frozen=True):
    """What the gateway says instead of an answer. Attributes: code: gRPC's."""

    error: str | dict[str, object] = ""
    message: str = ""
    code: int = 0


class WatchLine(Struct, frozen=True):
    """One line of a stream."""

    result: WatchAnswer | None = None
    error: dict[str, object] | str | None = None


class LeaseGrant(Struct, frozen=True):
    TTL: int


class LeaseGranted(Struct, frozen=True):
    ID: int = 0
    TTL: int = 0
    error: str = ""


class LeaseId(Struct, frozen=True):
    ID: int


class KeptAlive(Struct, frozen=True):
    """Attributes: result.TTL: 0 once the lease is gone."""

    result: LeaseGranted = LeaseGranted()


class Nothing(Struct, frozen=True):
    """A request without fields, or an answer none of which matters."""


class MemberFields(Struct, frozen=True, omit_defaults=True):
    """A member, or a request about one."""

    ID: int | UnsetType = UNSET
    name: str = ""
    peerURLs: list[str] = []
    clientURLs: list[str] = []
    isLearner: bool = False


class Transfer(Struct, frozen=True):
    """A request to make another member etcd's own leader."""

    targetID: int


class MemberList(Struct, frozen=True):
    header: Header = Header()
    members: list[MemberFields] = []


class StatusAnswer(Struct, frozen=True):
    """Attributes: errors: what etcd holds to be wrong with the member, such as `NOSPACE`."""

    header: Header = Header()
    version: str = ""
    dbSize: int = 0
    dbSizeInUse: int = 0
    leader: int = 0
    raftIndex: int = 0
    raftAppliedIndex: int = 0
    isLearner: bool = False
    errors: list[str] = []


class Version(Struct, frozen=True):
    """The page `/version`."""

    etcdserver: str = ""


MALFORMED: Final = (msgspec.ValidationError, msgspec.DecodeError)


def encode(request: Struct) -> bytes:
    return msgspec.json.encode(request)


def decode(raw: bytes, answer: type[T]) -> T:
    """Read an answer. Raises one of `MALFORMED`."""
    return msgspec.json.decode(raw, type=answer, strict=False)


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with `prefix`, which must not end in 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
