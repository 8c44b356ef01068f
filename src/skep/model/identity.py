"""Who a node is: what its certificate says, what it holds to prove it, and the token that lets it in.

Pure. Nothing else says who a node is: no field of a message, no address.
Source: swarmkit/ca/certificates.go (names in the subject), swarmkit/ca/config.go (token).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

from skep.lib.ids import base36
from skep.model.base import Nanoseconds, Record
from skep.model.errors import InvalidSpec
from skep.model.node import Availability, Role

UNITS: Final[dict[Role, str]] = {Role.WORKER: "swarm-worker", Role.MANAGER: "swarm-manager"}
"""Organizational unit of a certificate, by role; also a DNS name in it, so that a client can ask for a manager."""
ROLES: Final[dict[str, Role]] = {unit: role for role, unit in UNITS.items()}
MANAGER_NAME: Final = UNITS[Role.MANAGER]
OPERATOR_UNIT: Final = "swarm-operator"
"""Organizational unit of a person's or a program's certificate: it may use the API and is no node."""

DIGEST_LENGTH: Final = 50
SECRET_BYTES: Final = 16
SECRET_LENGTH: Final = 25
TOKEN: Final = re.compile(r"SWMTKN-1-([0-9a-z]{50})-([0-9a-z]{25})")
REFUSED: Final = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster"
"""The one answer to every wrong token. Source: swarmkit/ca/server.go."""


class Identity(Record, frozen=True, kw_only=True):
    """What a verified certificate says of its holder.

    Attributes:
        serial: Of the certificate, as text.
        expires_at: When it ends.
    """

    node_id: str
    role: Role
    cluster_id: str
    serial: str = ""
    expires_at: Nanoseconds = 0


class Operator(Record, frozen=True, kw_only=True):
    """What a verified certificate says of someone who is no node. Attributes: as of `Identity`."""

    name: str
    cluster_id: str
    serial: str = ""
    expires_at: Nanoseconds = 0


class Credentials(Record, frozen=True, kw_only=True):
    """What a node holds to prove its identity, all as PEM.

    Attributes:
        certificate: Its own, and behind it, while roots change, the one that leads from it to the root before.
        root: The only authorities it trusts: one root, or two while one follows the other.
    """

    certificate: str
    key: str
    root: str

    def __repr__(self) -> str:
        return "Credentials(…)"  # A key must not reach a log by way of a traceback.


class JoinRequest(Record, frozen=True, kw_only=True):
    """What a newcomer sends.

    Attributes:
        csr: PEM; only its public key and proof of possession are used.
        has_etcd: It has what several managers keep the state in.
    """

    token: str
    csr: str
    availability: Availability = Availability.ACTIVE
    has_etcd: bool = False


class Proof(Record, frozen=True, kw_only=True):
    """That a node holds the key of a certificate with which it can no longer connect.

    Attributes:
        certificate: PEM, with whatever stands between it and a root.
        signature: With its key, over `proof_text` of the request it goes with.
    """

    certificate: str
    signature: bytes


def proof_text(csr: str) -> bytes:
    """What a `Proof` signs: it is good for one request for a certificate and for nothing else."""
    return b"skep renewal\0" + csr.encode()


class RenewRequest(Record, frozen=True, kw_only=True):
    """Attributes: proof: instead of a connection with the certificate; None with one."""

    csr: str
    proof: Proof | None = None


class Newcomer(Record, frozen=True, kw_only=True):
    """A node that is let in.

    Attributes:
        address: Where it asked from.
        token: The one it showed, whose uses are counted; empty if it needed none. has_etcd: as of `JoinRequest`.
    """

    identity: Identity
    availability: Availability = Availability.ACTIVE
    address: str = ""
    token: str = ""
    has_etcd: bool = False

    def __repr__(self) -> str:
        return f"Newcomer({self.identity!r})"  # Never the token.


class Issued(Record, frozen=True, kw_only=True):
    """A certificate and the roots to trust from now on, both PEM; see `Credentials`."""

    certificate: str
    root: str


class Refusal(Record, frozen=True, kw_only=True):
    """Why the control port said no. Attributes: removed: the node is no longer of this swarm."""

    reason: str
    removed: bool = False


class JoinToken(Record, frozen=True, kw_only=True):
    """A join token taken apart. Attributes: digest, secret: base 36, as written."""

    digest: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Read a token.

        Raises:
            InvalidSpec: It is not one, in Docker's words.
        """
        match = TOKEN.fullmatch(text.strip())
        if match is None:
            raise InvalidSpec("invalid join token")
        return cls(digest=match[1], secret=match[2])

    def __str__(self) -> str:
        return f"SWMTKN-1-{self.digest}-{self.secret}"

    def __repr__(self) -> str:
        return "JoinToken(…)"

    @property
    def root_sha256(self) -> str:
        """The digest of the root certificate, in hexadecimal."""
        return f"{int(self.digest, 36):064x}"

    def check_root(self, root_pem: str) -> None:
        """Make sure that a root certificate is the one the token was made for.

        Raises:
            InvalidSpec: It is another; whoever sent it must not be sent the secret.
        """
        if not hmac.compare_digest(root_digest(root_pem), self.digest):
            raise InvalidSpec(f"remote CA does not match fingerprint. Expected: {self.root_sha256}")


def root_digest(root_pem: str) -> str:
    """The digest of a root certificate as a token carries it: SHA-256 of its PEM, 50 characters of base 36."""
    return base36(int.from_bytes(hashlib.sha256(root_pem.encode()).digest(), "big"), DIGEST_LENGTH)


def new_token(root_pem: str, random_bytes: Callable[[int], bytes]) -> JoinToken:
    """Make a token with a fresh secret of 128 bits."""
    secret = base36(int.from_bytes(random_bytes(SECRET_BYTES), "big"), SECRET_LENGTH)
    return JoinToken(digest=root_digest(root_pem), secret=secret)


UNLOCK_KEY_PREFIX: Final = "SWMKEY-1-"
UNLOCK_KEY_BYTES: Final = 32


def new_unlock_key(random_bytes: Callable[[int], bytes]) -> str:
    """Make what unlocks a manager, spelled as Docker does."""
    return UNLOCK_KEY_PREFIX + base64.b64encode(random_bytes(UNLOCK_KEY_BYTES)).decode().rstrip("=")


def is_same_token(given: str, kept: str) -> bool:
    """Compare two tokens in a time that does not depend on where they differ; nothing equals the empty token."""
    presented = given.strip().encode(errors="surrogatepass")
    return hmac.compare_digest(presented, kept.encode()) and bool(kept)
