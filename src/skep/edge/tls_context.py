"""TLS contexts made of credentials: trust in one root, no resumption, keys that touch no disk.

Edge: OpenSSL, and an anonymous file in memory, because OpenSSL takes keys from a path only.
"""

import os
import ssl
from collections.abc import Callable

from skep.model.identity import Credentials


def _load_pair(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Load certificate and key, which OpenSSL takes from a path only, without their touching a disk."""
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(credentials.certificate.encode() + b"\n" + credentials.key.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def server_context(credentials: Credentials, *, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A server's context: a client may show a certificate; if it does, the cluster's root must have signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = oldest
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # For TLS 1.2; those of 1.3 are all sound.
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=credentials.root)
    context.num_tickets = 0  # A resumed session would outlive its certificate.
    _load_pair(context, credentials)
    return context


def client_context(root_pem: str, credentials: Credentials | None = None) -> ssl.SSLContext:
    """A client's context: trusts one root, checks the name it is given, TLS 1.3."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=root_pem)
    if credentials is not None:
        _load_pair(context, credentials)
    return context


def blind_context() -> ssl.SSLContext:
    """Trusts anyone: only to fetch a root certificate that is then compared with a digest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class LiveContext:
    """The context for the credentials in force; made anew when they have changed, for new connections only."""

    def __init__(
        self, credentials: Callable[[], Credentials], make: Callable[[Credentials], ssl.SSLContext] = server_context
    ) -> None:
        self._credentials = credentials
        self._make = make
        self._made: tuple[Credentials, ssl.SSLContext] | None = None

    def __call__(self) -> ssl.SSLContext:
        wanted = self._credentials()
        if self._made is None or self._made[0] is not wanted:
            self._made = (wanted, self._make(wanted))
        return self._made[1]
