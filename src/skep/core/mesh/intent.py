"""Everything one node must program, as a value."""

from skep.model.base import Record


class NodeIntent(Record, frozen=True, kw_only=True):
    version: int = 0
