"""API versions: what is spoken here, and which one a path asks for.

Pure. Source: moby's daemon/server/middleware/version.go; 1.51 is what Docker 28.5 speaks.
"""

import re

from skep.model.errors import InvalidSpec

Version = tuple[int, int]

CURRENT: Version = (1, 51)
OLDEST: Version = (1, 24)
_PREFIX = re.compile(r"/v(\d{1,4})\.(\d{1,4})(?=/)")


def spell(version: Version) -> str:
    """Write `(1, 51)` as `1.51`."""
    return f"{version[0]}.{version[1]}"


def split_path(path: str) -> tuple[Version, str]:
    """Part a request's path into the version it asks for and the rest.

    Args:
        path: Such as `/v1.41/info` or `/info`; a path without a version asks for the current one.
    Raises:
        InvalidSpec: The version is not spoken here, in Docker's words.
    """
    match = _PREFIX.match(path)
    if match is None:
        return CURRENT, path
    asked = (int(match[1]), int(match[2]))
    if asked < OLDEST:
        raise InvalidSpec(
            f"client version {spell(asked)} is too old. Minimum supported API version is {spell(OLDEST)}, "
            "please upgrade your client to a newer version"
        )
    if asked > CURRENT:
        raise InvalidSpec(
            f"client version {spell(asked)} is too new. Maximum supported API version is {spell(CURRENT)}"
        )
    return asked, path[match.end() :]
