"""The list of revoked certificates, as etcd reads it for each connection of a peer.

Pure but for its key: etcd takes such a list as it is and never looks at who signed it, so a key made for it will do.
"""

import datetime
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "skep")])
SINCE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
UNTIL: Final = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


def revocation_list(serials: Iterable[str]) -> str:
    """A list of certificates by their serial numbers, as PEM."""
    builder = x509.CertificateRevocationListBuilder(NAME, SINCE, UNTIL)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder(int(serial), SINCE).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()
