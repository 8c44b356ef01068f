"""The messages of the one session an agent holds with a manager.

Pure. MessagePack over a WebSocket over mTLS; each message is a tagged structure. The identity of the sender is its
certificate, never a field here. Streams (logs, connections to a node's engine) are multiplexed by number, with
credit so that a slow reader slows its own stream only.
"""

import enum

import msgspec

from skep.model.assignment import Delta
from skep.model.base import Nanoseconds, Record
from skep.model.node import NodeDescription, Role, TLSInfo
from skep.model.task import TaskStatus

PROTOCOL = 1
INITIAL_CREDIT = 262_144
"""Bytes a stream's sender may send before it must wait for a `StreamCredit`."""


# --- agent to manager ----------------------------------------------------------


class Hello(Record, frozen=True, kw_only=True, tag="hello"):
    """First message.

    Attributes:
        assignment_version, epoch: What it still holds, 0 and "" for nothing.
        certificate_serial: Of the certificate it holds.
        carry_to: Where the leader listens that the node cannot reach itself: a manager that does not lead is asked to
            carry the session there, as long as that one leads. Empty for none.
    """

    protocol: int = PROTOCOL
    description: NodeDescription
    underlay: str
    capabilities: list[str] = []
    epoch: str = ""
    assignment_version: int = 0
    certificate_serial: str = ""
    carry_to: str = ""


class CertificateHeld(Record, frozen=True, kw_only=True, tag="certificate_held"):
    """The node has taken another certificate, or other roots, into use. Attributes: trust: roots and issuer."""

    serial: str
    trust: TLSInfo


class TaskReport(Record, frozen=True, kw_only=True):
    task_id: str
    status: TaskStatus


class Report(Record, frozen=True, kw_only=True, tag="report"):
    """Observed task states. Attributes: number: counts up per session; answered by `ReportStored`."""

    number: int
    tasks: list[TaskReport]


class Heartbeat(Record, frozen=True, kw_only=True, tag="heartbeat"):
    """I live. Attributes: applied: the assignment version whose mesh is in force in the kernel, read back."""

    applied: int = 0


class Applied(Record, frozen=True, kw_only=True, tag="applied"):
    """Sent as soon as a version is in force; see `Heartbeat.applied`."""

    version: int


class FileKind(enum.StrEnum):
    SECRET = "secret"  # noqa: S105  # the word, not one
    CONFIG = "config"
    REGISTRY_AUTH = "registry_auth"


class FileWanted(Record, frozen=True, kw_only=True, tag="file_wanted"):
    """The node prepares a task that uses this secret or config and has to have its value; answered by `FileSent`.

    Attributes:
        file_id: For registry credentials the id of the task's service.
    """

    task_id: str
    kind: FileKind
    file_id: str


class AttachmentStep(enum.StrEnum):
    """What a node asks about a plain container's place on a network."""

    CHECK = "check"
    ATTACH = "attach"
    DETACH = "detach"


class AttachmentWanted(Record, frozen=True, kw_only=True, tag="attachment_wanted"):
    """A plain container of the node is to be on a network, or is no more; answered by `AttachmentAnswered`.

    May be sent again after a lost session: the id says that it is the same.

    Attributes:
        task_id: Of the attachment, chosen by the node; empty for a mere check.
        network: Its name or id. names: under which the container is known there.
        address: The one asked for, without prefix; empty for any.
    """

    step: AttachmentStep
    task_id: str = ""
    network: str = ""
    container_id: str = ""
    names: tuple[str, ...] = ()
    address: str = ""


# --- manager to agent ----------------------------------------------------------


class ManagerAddress(Record, frozen=True, kw_only=True):
    node_id: str
    addr: str


class Welcome(Record, frozen=True, kw_only=True, tag="welcome"):
    """Answer to `Hello`.

    Attributes:
        epoch: Names the numbering of assignment versions; a version of another epoch means nothing.
        heartbeat_period: How often to beat.
        managers: Where else to go when this session breaks.
        is_carried: Whether another manager carries the session to the one that answers.
    """

    epoch: str
    heartbeat_period: Nanoseconds
    managers: list[ManagerAddress] = []
    is_carried: bool = False


class Managers(Record, frozen=True, kw_only=True, tag="managers"):
    managers: list[ManagerAddress]


class TrustWanted(Record, frozen=True, kw_only=True, tag="trust_wanted"):
    """Which roots every node is to trust from now on, and whose certificate it is to have; follows the welcome.

    Attributes:
        role: Which this node's certificate is to be for; None if the manager cannot say.
    """

    trust: TLSInfo
    role: Role | None = None


class Assignments(Record, frozen=True, kw_only=True, tag="assignments"):
    delta: Delta


class ReportStored(Record, frozen=True, kw_only=True, tag="report_stored"):
    """Everything up to that report number is committed; the agent may forget it."""

    number: int


class FileSent(Record, frozen=True, kw_only=True, tag="file_sent"):
    """The value of a secret or config, or its service's registry credentials, for a task of this node that uses it.

    Attributes:
        templating: Name of the template driver; empty for none. error: why there is no value; empty if there is.
    """

    wanted: FileWanted
    payload: bytes = b""
    templating: str = ""
    error: str = ""

    def __repr__(self) -> str:  # Never the value: what is printed ends up in logs.
        return f"FileSent(wanted={self.wanted!r}, error={self.error!r})"


class AttachmentAnswered(Record, frozen=True, kw_only=True, tag="attachment_answered"):
    """What became of it; the address itself comes with the assignments.

    Attributes:
        error: Why not; empty if so. refusal: name of the class of `model.errors` it is.
    """

    wanted: AttachmentWanted
    network_id: str = ""
    network_name: str = ""
    error: str = ""
    refusal: str = ""


Question = FileWanted | AttachmentWanted
Answer = FileSent | AttachmentAnswered


class Refused(Record, frozen=True, kw_only=True, tag="refused"):
    """The session ends.

    Attributes:
        removed: The node is no longer of this swarm and must not come back.
        managers: Where to go instead, at once and to the first first; empty where this manager does not know.
    """

    reason: str
    removed: bool = False
    managers: list[ManagerAddress] = []


# --- streams, either way ---------------------------------------------------------


class LogRequest(Record, frozen=True, kw_only=True, tag="logs"):
    """Docker's log options for one task. Attributes: tail: -1 for all; since: 0 for all."""

    task_id: str
    follow: bool = False
    stdout: bool = True
    stderr: bool = True
    since: Nanoseconds = 0
    tail: int = -1


class EngineRequest(Record, frozen=True, kw_only=True, tag="engine"):
    """A connection to the node's own container engine: what is sent and what comes back is HTTP, as it is."""


StreamRequest = LogRequest | EngineRequest


class RelayOpen(Record, frozen=True, kw_only=True, tag="relay"):
    """First message on a channel between managers: which node's session the stream is to be opened on."""

    node_id: str
    request: StreamRequest


class CarryOpen(Record, frozen=True, kw_only=True, tag="carry"):
    """First message on a channel between managers: whose session follows, from its hello to its end, as it is."""

    node_id: str


class StreamOpen(Record, frozen=True, kw_only=True, tag="open"):
    """The manager opens; numbers are its own."""

    stream: int
    request: StreamRequest


class StreamData(Record, frozen=True, kw_only=True, tag="data"):
    """Attributes: channel: 0 stdin, 1 stdout, 2 stderr; timestamp: of the log entry, else 0."""

    stream: int
    channel: int = 1
    timestamp: Nanoseconds = 0
    payload: bytes


class StreamCredit(Record, frozen=True, kw_only=True, tag="credit"):
    stream: int
    n_bytes: int


class StreamEof(Record, frozen=True, kw_only=True, tag="eof"):
    """The manager sends nothing more on this stream but still reads it, as after `shutdown(SHUT_WR)`."""

    stream: int


class StreamEnd(Record, frozen=True, kw_only=True, tag="end"):
    """Either side is done with both directions.

    Attributes:
        error: Empty for a proper end. is_unsupported: asking again, or later, will not help.
        is_lost: Nobody ended it, the way to the node broke off.
    """

    stream: int
    error: str = ""
    is_unsupported: bool = False
    is_lost: bool = False


SMALLEST_COST = 64
MAX_PAYLOAD = 131_072
"""Bytes; a longer log entry is sent in parts."""


def cost_of(part: StreamData) -> int:
    """What a part of a stream takes of its sender's credit; even an empty one costs its envelope.

    A sender may send while it has any credit left, so it may overdraw by one part.
    """
    return max(len(part.payload), SMALLEST_COST)


FromAgent = (
    Hello
    | CertificateHeld
    | Report
    | Heartbeat
    | Applied
    | FileWanted
    | AttachmentWanted
    | StreamData
    | StreamCredit
    | StreamEnd
)
FromManager = (
    Welcome
    | TrustWanted
    | Managers
    | Assignments
    | ReportStored
    | FileSent
    | AttachmentAnswered
    | Refused
    | StreamOpen
    | StreamData
    | StreamCredit
    | StreamEof
    | StreamEnd
)

ToRelay = RelayOpen | CarryOpen | StreamData | StreamEof
"""What the manager a user asked sends to the one that holds the session; the numbers of streams mean nothing there."""
FromRelay = StreamData | StreamEnd

encoder = msgspec.msgpack.Encoder()
from_agent = msgspec.msgpack.Decoder(FromAgent)
from_manager = msgspec.msgpack.Decoder(FromManager)
to_relay = msgspec.msgpack.Decoder(ToRelay)
from_relay = msgspec.msgpack.Decoder(FromRelay)
