"""Check that what is to be mounted exists, before an engine is asked.

Edge: looks at the file system. Docker refuses a bind mount whose source is missing instead of making a folder.
"""

from collections.abc import Sequence
from pathlib import Path

from skep.model.service import Mount
from skep.ports.runtime import ContainerRejected


def check_bind_sources(mounts: Sequence[Mount]) -> None:
    """Refuse bind mounts without a source, making those that ask for it.

    Raises:
        ContainerRejected: In Docker's words.
    """
    for mount in mounts:
        if mount.type != "bind":
            continue
        source = Path(mount.source)
        if not source.is_absolute():
            raise ContainerRejected(
                'invalid mount config for type "bind": '
                f"invalid mount path: '{mount.source}' mount path must be absolute"
            )
        if source.exists():
            continue
        if mount.bind_options is None or not mount.bind_options.create_mountpoint:
            raise ContainerRejected(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            )
        source.mkdir(parents=True)
