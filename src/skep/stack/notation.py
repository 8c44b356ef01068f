"""The short notations of Compose: sizes, CPUs, ports, volumes, ulimits.

Pure. Functions raise `ValueError` with a sentence; who reads a file adds the place.
Source: Compose specification, 05-services.md and 11-extension.md (byte and duration values).
"""

import re
from dataclasses import dataclass
from typing import Final

from skep.model.service import PortConfig, Protocol, PublishMode

BYTES: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kmgtp]?)i?b?", re.IGNORECASE)
UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
NUMBER: Final = re.compile(r"\d{1,12}(?:\.\d{1,9})?|\.\d{1,9}")
PORT: Final = re.compile(r"\d{1,5}(?:-\d{1,5})?")
MAX_PORT: Final = 65535
MAX_PORTS: Final = 1000
PROPAGATIONS: Final = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
IGNORED_MODES: Final = ("z", "Z", "cached", "delegated", "consistent", "rw")


def read_bytes(written: str) -> int:
    """`512m`, `1.5gb`, `1024`: bytes, in powers of 1024 as Docker counts.

    Raises:
        ValueError
    """
    match = BYTES.fullmatch(written.strip())
    if match is None:
        raise ValueError(f'"{written[:40]}" is no size; write one like 512m or 2gb')
    whole, _, fraction = match[1].partition(".")
    unit = 1 << UNITS[match[2].lower()]
    scale: int = 10 ** len(fraction)
    return int(whole) * unit + int(fraction or 0) * unit // scale


def read_cpus(written: str) -> int:
    """`0.5`: billionths of a CPU.

    Raises:
        ValueError
    """
    if not NUMBER.fullmatch(written.strip()):
        raise ValueError(f'"{written[:40]}" is no number of CPUs; write one like 0.5')
    whole, _, fraction = written.strip().partition(".")
    return int(whole or 0) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _range(written: str, whole: str) -> range:
    if not PORT.fullmatch(written):
        raise ValueError(f'"{whole[:60]}" is no port; write one like "8080:80", "80" or "53:53/udp"')
    first, _, last = written.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not ports or ports[0] < 1 or ports[-1] > MAX_PORT:
        raise ValueError(f'"{whole[:60]}" is no port: they are between 1 and {MAX_PORT}, the lower one first')
    if len(ports) > MAX_PORTS:
        raise ValueError(f'"{whole[:60]}" are {len(ports)} ports; a service may publish {MAX_PORTS}')
    return ports


def read_ports(written: str, mode: PublishMode = PublishMode.INGRESS) -> tuple[list[PortConfig], str]:
    """`8080:80`, `80`, `9000-9002:80-82/udp`, `127.0.0.1:80:80`.

    Returns:
        Ports, and the host address that was asked for, which a swarm cannot give.
    Raises:
        ValueError
    """
    body, _, protocol = written.strip().partition("/")
    if protocol not in ("", *Protocol):
        raise ValueError(f'"{written[:60]}" has no protocol that is known; there are tcp, udp and sctp')
    left, _, target = body.rpartition(":")
    address, _, published = left.rpartition(":")
    targets = _range(target, written)
    publisheds = _range(published, written) if published else None
    if publisheds is not None and len(publisheds) != len(targets):
        raise ValueError(f'"{written[:60]}" are two port ranges of different length')
    ports = [
        PortConfig(
            protocol=Protocol(protocol or "tcp"),
            target_port=inner,
            published_port=publisheds[index] if publisheds else 0,
            publish_mode=mode,
        )
        for index, inner in enumerate(targets)
    ]
    return ports, address.strip("[]")


def read_published(written: str) -> range:
    """The `published` of a long port: a port, or a range to choose from.

    Raises:
        ValueError
    """
    return range(0, 1) if written == "0" else _range(written, written)


@dataclass(frozen=True, slots=True)
class ShortVolume:
    """Attributes: source: empty for an anonymous volume."""

    source: str
    target: str
    is_read_only: bool = False
    is_nocopy: bool = False
    propagation: str = ""

    @property
    def is_bind(self) -> bool:
        return self.source.startswith(("/", ".", "~"))


def read_volume(written: str) -> ShortVolume:
    """`/target`, `name:/target`, `./here:/target:ro`.

    Raises:
        ValueError
    """
    parts = written.split(":")
    if len(parts) > 3 or not all(parts):
        raise ValueError(f'"{written[:80]}" is no volume; write one like name:/path or ./here:/path:ro')
    if len(parts) == 1:
        return ShortVolume("", parts[0])
    modes = parts[2].split(",") if len(parts) == 3 else []
    known = ("ro", "nocopy", *PROPAGATIONS, *IGNORED_MODES)
    if strange := [mode for mode in modes if mode not in known]:
        raise ValueError(f'"{strange[0][:40]}" is no mode of a volume; there are {", ".join(known)}')
    propagation = next((mode for mode in modes if mode in PROPAGATIONS), "")
    return ShortVolume(parts[0], parts[1], "ro" in modes, "nocopy" in modes, propagation)


def volume_target(written: str) -> str:
    """Where a short volume is mounted, also when it is wrong."""
    parts = written.split(":")
    return parts[1] if len(parts) > 1 else parts[0]
