"""A node's assignment set, the deltas of it, and when a task is drained."""

from skep.core.dispatch.dispatcher import Dispatcher
from skep.core.dispatch.drains import DRAIN_LIMIT

__all__ = ["DRAIN_LIMIT", "Dispatcher"]
