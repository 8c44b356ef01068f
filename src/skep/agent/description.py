"""What a node says of itself when it meets a manager.

Edge: asks the engine for its facts.
"""

from dataclasses import dataclass, field

import skep
from skep.model.base import Labels
from skep.model.node import EngineDescription, NodeDescription, PluginDescription
from skep.model.service import Platform, Resources
from skep.ports.runtime import EngineFacts, Runtime, RuntimeFailure

PLUGINS = (
    ("Log", "json-file"),
    ("Network", "bridge"),
    ("Network", "host"),
    ("Network", "null"),
    ("Network", "overlay"),
    ("Volume", "local"),
)
ENGINE_CAPABILITY = "engine"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the daemon knows of its machine.

    Attributes:
        underlay: The address other nodes reach it at.
        architecture, os: As `uname` spells them: x86_64, linux.
        boot_id: Differs after every boot.
        capabilities: Names of kernel features, such as `encryption`.
        engine_labels: The engine's labels, for constraints on `engine.labels.*`.
    """

    node_id: str
    hostname: str
    underlay: str
    boot_id: str
    architecture: str = "x86_64"
    os: str = "linux"
    resources: Resources = field(default_factory=Resources)
    capabilities: tuple[str, ...] = ()
    engine_labels: Labels | None = None


class Descriptions:
    """Describes the node as of now; while the engine is away, with what it said last."""

    def __init__(self, node: NodeFacts, runtime: Runtime) -> None:
        self._node = node
        self._runtime = runtime
        self._last: EngineFacts | None = None

    async def describe(self) -> tuple[NodeDescription, list[str]]:
        """Returns: the description, and the capabilities; `engine` is among them while the engine answers."""
        is_reachable = True
        try:
            self._last = await self._runtime.facts()
        except RuntimeFailure:
            is_reachable = False
        node, engine = self._node, self._last
        resources = node.resources
        if engine is not None:
            resources = Resources(
                nano_cpus=engine.cpu_nano,
                memory_bytes=engine.memory_bytes,
                generic_resources=node.resources.generic_resources,
            )
        description = NodeDescription(
            hostname=node.hostname,
            platform=Platform(architecture=node.architecture, os=node.os),
            resources=resources,
            engine=EngineDescription(
                engine_version=_version(engine),
                labels=node.engine_labels,
                plugins=[PluginDescription(type=kind, name=name) for kind, name in PLUGINS],
            ),
        )
        capabilities = [*node.capabilities]
        if is_reachable and engine is not None:
            capabilities += [ENGINE_CAPABILITY, f"{ENGINE_CAPABILITY}:{engine.name}"]
        return description, capabilities


def _version(engine: EngineFacts | None) -> str:
    """Skep's own version, with the engine below as build metadata in semantic versioning's sense."""
    if engine is None:
        return skep.__version__
    release = f".{engine.version}" if engine.version != skep.__version__ else ""
    return f"{skep.__version__}+{engine.name}{release}"
