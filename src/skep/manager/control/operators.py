"""Certificates for those who use the API from elsewhere: people and programs, not nodes.

Edge: the certificate authority. Nothing is stored: the certificate says all there is, until it expires.
"""

import re
from collections.abc import Callable
from typing import Final

import structlog

from skep.lib.durations import DAY, HOUR
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec
from skep.model.identity import Issued

log = structlog.get_logger(__name__)

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
SHORTEST: Final = HOUR
LONGEST: Final = 3 * 365 * DAY
DEFAULT: Final = 90 * DAY

Certify = Callable[[str, str, Nanoseconds], Issued]
"""Certifies the key of a request (PEM) for a name and a length of time."""


def issue_operator(certify: Certify, name: str, csr: str, lifetime: Nanoseconds = 0) -> Issued:
    """Issue an operator's certificate.

    Args:
        lifetime: 0 for 90 days.
    Raises:
        InvalidSpec: The name, the lifetime or the request is not possible.
    """
    if not NAME.fullmatch(name):
        raise InvalidSpec(
            f'"{name}" cannot name an operator: up to 63 letters, digits and _ . @ -, beginning with a letter or digit'
        )
    if lifetime and not SHORTEST <= lifetime <= LONGEST:
        raise InvalidSpec("an operator's certificate lives between one hour and three years; choose another expiry")
    issued = certify(csr, name, lifetime or DEFAULT)
    log.info("an operator's certificate was issued", operator=name)
    return issued
