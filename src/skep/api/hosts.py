"""Which machine a request says it is for.

Pure. A web page cannot set the header itself: it is the name its owner made resolve to our address. Addresses are let
through, because no name was resolved to get there.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from skep.model.identity import UNITS

COMMON: Final = frozenset({"localhost", *UNITS.values()})


def is_own(header: str, names: Sequence[str]) -> bool:
    """Whether a `Host` header is an address or one of this node's names.

    Args:
        header: With or without a port. names: compared without regard to case; empty ones are passed over.
    Source: RFC 9110 section 7.2, RFC 3986 section 3.2.2.
    """
    host = _without_port(header).lower()
    if not host:
        return False
    return host in COMMON or host in {name.lower() for name in names} or _is_address(host)


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    host, colon, port = header.rpartition(":")
    return host if colon and port.isdecimal() and ":" not in host else header


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
