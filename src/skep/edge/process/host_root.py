"""Show a container the host's own file system, read-only, with room for its mounts.

Edge: reads the host's folders and makes empty ones, files and links as mount points. Nothing is mounted here: the OCI
runtime does that inside the container's own mount namespace. A mount whose target the host lacks needs a place to be
put; the read-only folder around it is then taken apart into its entries, so that the place can be made beside them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from skep.edge import oci_values
from skep.edge.oci_values import Json

FRESH = frozenset({"/dev", "/proc", "/run", "/sys", "/tmp"})  # noqa: S108  the container gets its own of each
SKIPPED = frozenset({"/lost+found"})
READ_ONLY = ("rbind", "rprivate", "ro")


def expose_host(rootfs: Path, targets: Sequence[str]) -> list[Json]:
    """Make the mount points of a container's root.

    Args:
        rootfs: An empty folder. targets: where further mounts will go, absolute.
    Returns:
        Bind mounts in OCI's form, parents before children.
    """
    places = (Path(target).resolve() for target in targets)
    missing = [str(place) for place in places if not place.exists()]
    return list(_expose(rootfs, "/", missing))


def _expose(rootfs: Path, folder: str, missing: Sequence[str]) -> Iterator[Json]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        place = rootfs / entry.path.lstrip("/")
        if entry.path in SKIPPED:
            continue
        if entry.is_symlink():
            place.symlink_to(Path(entry.path).readlink())
        elif entry.is_dir():
            place.mkdir()
            if entry.path in FRESH:
                continue
            if any(path.startswith(f"{entry.path}/") for path in missing):
                yield from _expose(rootfs, entry.path, missing)
            else:
                yield oci_values.mount("bind", entry.path, entry.path, READ_ONLY)
        elif entry.is_file():
            place.touch()
            yield oci_values.mount("bind", entry.path, entry.path, READ_ONLY)
