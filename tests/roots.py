"""Roots that users bring along, as other programs make them."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from skep.manager.ca import SigningKey


def a_root(
    key: SigningKey | None = None,
    *,
    years: int = 3,
    starts_in: int = -1,
    is_ca: bool = True,
    below: int | None = None,
    may_sign: bool | None = None,
) -> tuple[str, str]:
    """A root as `openssl req -x509` makes one, and its key, both PEM."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    begin = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=starts_in)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example Corp Root")])
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=years * 365 + 2))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=below), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(b"its own way"), critical=False)
    )
    if may_sign is not None:
        usage = x509.KeyUsage(True, False, False, False, False, may_sign, False, False, False)
        builder = builder.add_extension(usage, critical=True)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    raw = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate, raw.decode()
