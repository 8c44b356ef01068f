"""Podman as a node's container engine."""

from skep.edge.podman.runtime import PodmanRuntime

__all__ = ["PodmanRuntime"]
