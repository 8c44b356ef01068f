"""Spell Python attribute names the way Go's exported fields are spelled.

Pure: text in, text out. Docker's JSON is Go structs; one function keeps our attribute names (`nano_cpus`)
and theirs (`NanoCPUs`) in step, so that no table of names has to be kept by hand.
"""

INITIALISMS = {
    "ca": "CA",
    "cas": "CAs",
    "cpu": "CPU",
    "cpus": "CPUs",
    "dns": "DNS",
    "gid": "GID",
    "id": "ID",
    "ids": "IDs",
    "ip": "IP",
    "ipam": "IPAM",
    "ips": "IPs",
    "ipv4": "IPv4",
    "ipv6": "IPv6",
    "os": "OS",
    "pid": "PID",
    "selinux": "SELinux",
    "tls": "TLS",
    "tty": "TTY",
    "uid": "UID",
    "url": "URL",
}


def go_name(attribute: str) -> str:
    """Turn `cert_issuer_subject` into `CertIssuerSubject`, `nano_cpus` into `NanoCPUs`.

    Source: the exported fields of Docker's `api/types/swarm`.
    """
    return "".join(INITIALISMS.get(word, word.capitalize()) for word in attribute.split("_"))
