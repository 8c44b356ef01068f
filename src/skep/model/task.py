"""Tasks: one run of a service on one node.

Pure. A task runs once; a restart is a new task in the same slot. Source: swarmkit/api/objects.proto.
"""

from skep.model.base import Labels, Nanoseconds, Object, Record
from skep.model.lifecycle import TaskState
from skep.model.network import Attachment
from skep.model.service import Endpoint, GenericResource, PortConfig, TaskSpec


class ContainerStatus(Record, frozen=True, kw_only=True):
    """Attributes: exit_code: None while it has not ended."""

    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None


class TaskStatus(Record, frozen=True, kw_only=True):
    """What was observed last.

    Attributes:
        timestamp: When `state` was reached, by the observer's clock.
        message: What is going on, in a few words; err: why not, as one sentence. Both shown to users.
        ports: Host-mode ports in force.
        is_accepting: It may take traffic: healthy and, where it publishes TCP ports, accepting on them.
    """

    timestamp: Nanoseconds = 0
    state: TaskState = TaskState.NEW
    message: str = ""
    err: str = ""
    container: ContainerStatus | None = None
    ports: list[PortConfig] = []
    is_accepting: bool = False


class RestartRecord(Record, frozen=True, kw_only=True):
    """What the slot's earlier tasks went through; kept on each task so that a new leader knows it.

    Attributes:
        attempts: Restarts in this slot of this spec version.
        moments: When the latest of them happened, oldest first; kept only for a policy with a window.
        streak: Failures in a row, each soon after its start; the delay doubles with each.
        refused: Why this task gets no successor; empty while it may get one.
    """

    attempts: int = 0
    moments: list[Nanoseconds] = []
    streak: int = 0
    refused: str = ""


class Task(Object, frozen=True, kw_only=True):
    """A task as stored.

    Attributes:
        slot: 1..N for replicated services; 0 for global ones, where the node is the slot.
        desired_state: What the swarm wants; never goes back.
        not_before: It may not be raised to RUNNING before this moment (restart delay); 0 for at once.
        spec_version: The service's `spec_version` it was made from.
        endpoint: The service's endpoint at that time.
        ordinal: Which run of its slot it is, counting up.
        started_at, ended_at: When the manager saw it RUNNING and ended; 0 if it did not.
        rollout: The spec version of the rolling update that made it; 0 if none did.
        move: Why it is to be moved elsewhere, such as a rebalance; empty to stay.
        yielding: It makes way once its successor is prepared: until then it serves, but counts for no spread.
        has_registry_auth: Its node is to ask for its service's registry credentials before it pulls the image.
        home: The node its slot's local volumes are on: it goes nowhere else; empty for any (`skep.volume=sticky`).
        look_at: When the orchestrator looks at it again even if nothing changes; 0 for never.
    """

    spec: TaskSpec
    service_id: str = ""
    service_name: str = ""
    service_labels: Labels = {}
    slot: int = 0
    node_id: str = ""
    desired_state: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    not_before: Nanoseconds = 0
    spec_version: int = 0
    endpoint: Endpoint | None = None
    attachments: list[Attachment] = []
    generic_resources: list[GenericResource] = []
    job_iteration: int | None = None
    ordinal: int = 0
    started_at: Nanoseconds = 0
    ended_at: Nanoseconds = 0
    restart: RestartRecord = RestartRecord()
    rollout: int = 0
    move: str = ""
    look_at: Nanoseconds = 0
    home: str = ""
    yielding: bool = False
    has_registry_auth: bool = False

    @property
    def is_attachment(self) -> bool:
        """Whether it runs nothing: it holds the address of a plain container of its node on a network."""
        return self.spec.network_attachment_spec is not None

    @property
    def name(self) -> str:
        """`web.3.<id>`, or with the node's id in place of the slot: Docker's name of task and container."""
        if self.is_attachment:
            return f"attachment.{self.id}"
        return f"{self.service_name}.{self.slot or self.node_id}.{self.id}"
