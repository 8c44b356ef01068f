"""Docker Engine as a node's container engine."""

from skep.edge.docker.runtime import DockerRuntime

__all__ = ["DockerRuntime"]
