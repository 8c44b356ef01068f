"""What a daemon is told on its command line, checked before anything starts.

Pure but for looking at the machine's own files.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skep.lib.durations import HOUR
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec

ENGINES = ("podman", "docker", "process")
DEFAULT_SOCKET = Path("/run/skep/docker.sock")
DEFAULT_DATA_DIR = Path("/var/lib/skep")
DEFAULT_RUN_DIR = Path("/run/skep")
CONTROL_PORT = 2377
API_PORT = 2376
ETCD_PORT = 2379
MAX_DATA_PATH_PORT, MIN_DATA_PATH_PORT = 49151, 1024


@dataclass(frozen=True, slots=True)
class ExternalEtcd:
    """An etcd that is not the managers' own, as an operator names it.

    Attributes:
        endpoints: `https://HOST:PORT`, tried in this order.
        root, certificate, key: Files in PEM: whom to trust, and what this manager shows. May be renewed at any time.
    """

    endpoints: tuple[str, ...]
    root: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Attributes: socket_group: group that may use the socket; empty leaves it to root.

    api_listen: `tcp://address:port` for the API with mutual TLS; empty for none.
    insecure_registries: see `edge.registries.Registries`.
    min_certificate_life: the shortest that users may give nodes' certificates.
    external_etcd: where this manager is to keep the state; None for a file, and etcd of the managers' own.
    """

    data_dir: Path = DEFAULT_DATA_DIR
    run_dir: Path = DEFAULT_RUN_DIR
    socket: Path = DEFAULT_SOCKET
    socket_group: str = ""
    engine: str = "podman"
    cgroup_parent: str = ""
    image_stores: tuple[Path, ...] = field(default=())
    log_level: str = "info"
    api_listen: str = ""
    insecure_registries: tuple[str, ...] = ()
    min_certificate_life: Nanoseconds = HOUR
    external_etcd: ExternalEtcd | None = None

    @property
    def swarm_dir(self) -> Path:
        """Everything this node knows as a member of a swarm; gone once it leaves."""
        return self.data_dir / "swarm"


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Read `host`, `host:port`, `[v6]:port` or `interface[:port]`.

    Raises:
        InvalidSpec: The port is no port.
    """
    host, port = text, str(default_port)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.lstrip(":") or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidSpec(f'"{text}" has no valid port; write an address like 192.168.1.10:{default_port}')
    return host, int(port)


def api_address(text: str) -> tuple[str, int]:
    """Read `tcp://address[:port]`.

    Raises:
        InvalidSpec: It is none; there is no way to listen without TLS.
    """
    scheme, separator, rest = text.partition("://")
    if scheme != "tcp" or not separator:
        raise InvalidSpec(f'"{text}" is no address to listen on; write tcp://0.0.0.0:{API_PORT}')
    host, port = split_address(rest.rstrip("/"), API_PORT)
    if not is_address(host):
        raise InvalidSpec(
            f'"{text}" must name an IP address of this machine, or 0.0.0.0; write tcp://0.0.0.0:{API_PORT}'
        )
    return host, port


def external_etcd(
    endpoints: Sequence[str], root: Path | None, certificate: Path | None, key: Path | None
) -> ExternalEtcd | None:
    """Read where an etcd is that is not the managers' own; None if none is named.

    Raises:
        InvalidSpec: Something is missing, or an endpoint is none. etcd holds what commands every node: only with TLS.
    """
    if not endpoints:
        if root or certificate or key:
            raise InvalidSpec(
                "certificates for an external etcd need its endpoints beside them: --etcd https://HOST:2379"
            )
        return None
    if root is None or certificate is None or key is None:
        raise InvalidSpec("an external etcd needs mutual TLS: give --etcd-ca, --etcd-cert and --etcd-key, files in PEM")
    found = tuple(_endpoint(text.strip()) for each in endpoints for text in each.split(","))
    return ExternalEtcd(found, root.absolute(), certificate.absolute(), key.absolute())


def _endpoint(text: str) -> str:
    """Raises: InvalidSpec."""
    scheme, _, rest = text.partition("://")
    host, port = split_address(rest.rstrip("/"), ETCD_PORT)
    if scheme != "https" or not host:
        raise InvalidSpec(f'"{text}" is no endpoint of an external etcd; write https://HOST:{ETCD_PORT}')
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def check_registry(text: str) -> None:
    """Check a registry that may be insecure: `host`, `host:port` or a network.

    Raises:
        InvalidSpec: It is none.
    """
    try:
        if "://" in text:
            raise ValueError("it has a scheme")
        if "/" in text:
            ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidSpec(
            f'"{text}" is no registry ({error}); write a host like registry.example:5000, or a network like 10.0.0.0/8'
        ) from error


def is_address(text: str) -> bool:
    """Whether text is an IP address rather than a name or an interface."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
