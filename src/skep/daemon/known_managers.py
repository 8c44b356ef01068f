"""Where managers were last said to be, kept over restarts of the daemon.

Edge: one small file, apart from the membership: it is written whenever a manager comes or goes, whatever else is under
way, and losing it only means asking where the node has joined.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from skep.model.codec import MALFORMED
from skep.model.session import ManagerAddress

FILE: Final = "managers.json"

log = structlog.get_logger(__name__)


def load(swarm_dir: Path) -> list[ManagerAddress]:
    """Those that were saved last; none where the file is gone or damaged."""
    try:
        return msgspec.json.decode((swarm_dir / FILE).read_bytes(), type=list[ManagerAddress])
    except (OSError, *MALFORMED):
        return []


def save(swarm_dir: Path, managers: Sequence[ManagerAddress]) -> None:
    """Keep them, so that a reader finds the old ones or these; a disk that refuses is logged."""
    fresh = swarm_dir / f"{FILE}.new"
    try:
        fresh.write_bytes(msgspec.json.encode(list(managers)))
        fresh.rename(swarm_dir / FILE)
    except OSError as error:
        log.warning("where the managers are cannot be kept", reason=str(error))
