"""What a set of Compose files says, once read: the nouns of a project.

Pure. Parts that Docker's API has the same shape for are held in the model's own structures; what has to be looked up
first, such as the ids of networks and secrets, is held by its key in the file.
"""

import enum
from collections.abc import Mapping as Map
from dataclasses import dataclass, field

from skep.model.network import IPAM
from skep.model.service import (
    ContainerSpec,
    DriverConfig,
    EndpointSpec,
    FileTarget,
    LogDriver,
    Mount,
    Placement,
    ResourceRequirements,
    RestartPolicy,
    ServiceMode,
    UpdateConfig,
)
from skep.stack.nodes import Mapping, Place


class Condition(enum.StrEnum):
    """What a service waits for in one it depends on."""

    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


@dataclass(frozen=True, slots=True)
class Dependency:
    service: str
    place: Place
    condition: Condition = Condition.STARTED
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """A service's attachment. Attributes: network: key in the file."""

    network: str
    place: Place
    aliases: tuple[str, ...] = ()
    driver_opts: Map[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileUse:
    """A secret or config in a service. Attributes: source: key in the file."""

    source: str
    place: Place
    target: FileTarget


@dataclass(frozen=True, slots=True)
class MountUse:
    """Attributes: mount: as Docker has it, but for a volume's source, which is the key in the file."""

    mount: Mount
    place: Place


@dataclass(frozen=True, slots=True)
class Deploy:
    """A service's `deploy:` section, completed from the keys that say the same outside of it."""

    labels: Map[str, str] = field(default_factory=dict)
    mode: ServiceMode = field(default_factory=ServiceMode)
    resources: ResourceRequirements | None = None
    restart: RestartPolicy | None = None
    update: UpdateConfig | None = None
    rollback: UpdateConfig | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class ComposeService:
    """Attributes: networks: empty for the project's default network."""

    name: str
    place: Place
    container: ContainerSpec
    deploy: Deploy
    endpoint: EndpointSpec
    networks: tuple[NetworkUse, ...] = ()
    mounts: tuple[MountUse, ...] = ()
    secrets: tuple[FileUse, ...] = ()
    configs: tuple[FileUse, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    log_driver: LogDriver | None = None


@dataclass(frozen=True, slots=True)
class ComposeNetwork:
    """Attributes: name: the whole name where the file gives one, else empty."""

    key: str
    place: Place
    name: str = ""
    is_external: bool = False
    driver: str = "overlay"
    driver_opts: Map[str, str] = field(default_factory=dict)
    ipam: IPAM = field(default_factory=IPAM)
    labels: Map[str, str] = field(default_factory=dict)
    is_attachable: bool = False
    is_internal: bool = False
    enable_ipv6: bool = False


@dataclass(frozen=True, slots=True)
class ComposeVolume:
    key: str
    place: Place
    name: str = ""
    is_external: bool = False
    driver: DriverConfig | None = None
    labels: Map[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComposeFile:
    """A secret or config. Attributes: content: None for an external one."""

    key: str
    place: Place
    name: str = ""
    is_external: bool = False
    content: bytes | None = None
    labels: Map[str, str] = field(default_factory=dict)
    templating: str = ""


@dataclass(frozen=True, slots=True)
class Project:
    """Everything of one stack's files.

    Attributes:
        name: As the files give it; may be empty.
        tree: The files merged and filled in, for showing.
        notes: Lines for the user: what was ignored, which variables were not set.
    """

    name: str
    tree: Mapping
    services: Map[str, ComposeService]
    networks: Map[str, ComposeNetwork]
    volumes: Map[str, ComposeVolume]
    secrets: Map[str, ComposeFile]
    configs: Map[str, ComposeFile]
    notes: tuple[str, ...] = ()
