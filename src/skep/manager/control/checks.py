"""Checks that several kinds of object share: names, labels, versions.

Pure. Source: swarmkit/manager/controlapi/common.go, also for the sentences.
"""

import re
from typing import Final

from skep.model.base import Object
from skep.model.errors import InvalidSpec, OutOfDate
from skep.store.changes import Batch

DNS_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*")
FILE_NAME: Final = re.compile(r"[a-zA-Z0-9]+(?:[a-zA-Z0-9\-_.]*[a-zA-Z0-9])?")
MAX_NAME: Final = 63
MAX_FILE_NAME: Final = 64
OUT_OF_SEQUENCE: Final = "rpc error: code = Unknown desc = update out of sequence"


def check_name(name: str) -> None:
    """A service's or network's name is a label of its DNS name.

    Raises:
        InvalidSpec.
    """
    if not name:
        raise InvalidSpec("meta: name must be provided")
    if len(name) > MAX_NAME:
        raise InvalidSpec("name must be 63 characters or fewer")
    if not DNS_NAME.fullmatch(name):
        raise InvalidSpec("name must be valid as a DNS name component")


def check_file_name(name: str) -> None:
    """A secret's or config's name.

    Raises:
        InvalidSpec.
    """
    if not name:
        raise InvalidSpec("name must be provided")
    if len(name) > MAX_FILE_NAME or not FILE_NAME.fullmatch(name):
        raise InvalidSpec(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be "
            "[a-zA-Z0-9]"
        )


class SpecRevisions:
    """When each object's spec was last written.

    An update names the version it was based on. The leader writes on the same objects (endpoints, status), which no
    user can foresee and which changes nothing they read; so a version is current if no spec was written since. Swarm
    refuses every other version, and a script that creates and at once updates fails now and then.
    """

    def __init__(self, revision: int) -> None:
        """Begin at `revision`: what was written before is not known apart."""
        self._since = revision
        self._written: dict[tuple[str, str], int] = {}

    def observe(self, batch: Batch) -> None:
        """Take in a batch; an observer of the replica."""
        for event in batch.events:
            key = (event.kind, event.id)
            if event.kind == "task":
                continue  # No user writes those.
            if event.new is None:
                self._written.pop(key, None)
            elif event.old is None or getattr(event.old, "spec", None) != getattr(event.new, "spec", None):
                self._written[key] = event.new.version

    def check(self, kind: str, value: Object, version: int) -> None:
        """Make sure that who read a version knows the spec as it is.

        Raises:
            OutOfDate.
        """
        floor = self._written.get((kind, value.id), min(self._since, value.version))
        if not floor <= version <= value.version:
            raise OutOfDate(OUT_OF_SEQUENCE)
