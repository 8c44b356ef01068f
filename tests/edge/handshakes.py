"""TLS handshakes between two holders of credentials, in memory."""

import ssl

from skep.edge import tls_context
from skep.model.identity import MANAGER_NAME, Credentials


def shake_hands(server: Credentials, client: Credentials, *, is_client_known: bool = True) -> None:
    """Let a client connect to a manager; each must believe the other.

    Raises:
        ssl.SSLError: One of them does not.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    known = client if is_client_known else None
    ends = (
        tls_context.server_context(server).wrap_bio(to_server, to_client, server_side=True),
        tls_context.client_context(client.root, known).wrap_bio(to_client, to_server, server_hostname=MANAGER_NAME),
    )
    undone = set(ends)
    for _ in range(10):
        for end in ends:
            try:
                if end in undone:
                    end.do_handshake()
                    undone.discard(end)
            except ssl.SSLWantReadError:
                pass
        if not undone:
            break
    assert not undone
    ends[0].write(b"x")  # With TLS 1.3 only the first bytes show the client whether its certificate was taken.
    assert ends[1].read(1) == b"x"
    assert (ends[0].getpeercert(binary_form=True) is not None) == is_client_known
