"""Plain programs of the host as a node's containers."""

from skep.edge.process.runtime import ProcessRuntime

__all__ = ["ProcessRuntime"]
