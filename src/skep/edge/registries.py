"""Where registries are: by which host and port, whether they must speak TLS, and whether they answer at all.

Edge: connects to registries, reads the containers' registries.conf(5). One that did not answer is not tried again for a
while, so that a machine without a network loses its patience once and not with every task.
"""

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skep.model.registry import HUB

HUB_HOST: Final = "registry-1.docker.io"
REACH_LIMIT_S: Final = 3.0
SILENT_FOR_S: Final = 10.0
REGISTRIES_CONF: Final = Path("/etc/containers/registries.conf")


class Registries:
    """What this node knows of registries.

    Args:
        insecure: `host:port`, `host` or networks such as 10.0.0.0/8 whose registries may do without a certificate that
            this machine trusts, or without TLS. Those on loopback always may, as in Docker.
    """

    def __init__(self, insecure: Sequence[str] = ()) -> None:
        self.insecure = tuple(insecure)
        self._names = frozenset(insecure)
        self._networks = [ipaddress.ip_network(text, strict=False) for text in insecure if "/" in text]
        self._silent: dict[str, tuple[float, str]] = {}

    def is_insecure(self, registry: str) -> bool:
        """Whether to talk to it without knowing for sure who answers."""
        host, _ = split_port(registry)
        if registry in self._names or host in self._names or is_loopback(registry):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    async def silence(self, registry: str) -> str:
        """Why a registry cannot be asked, after a look at whether it takes connections; empty if it can."""
        if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or _is_redirected(registry):
            return ""
        since, reason = self._silent.get(registry, (0.0, ""))
        if reason and time.monotonic() < since + SILENT_FOR_S:
            return reason
        reason = await self._knock(registry)
        self._silent.pop(registry, None)
        if reason:
            self._silent[registry] = (time.monotonic(), reason)
        return reason

    async def _knock(self, registry: str) -> str:
        host, port = split_port(HUB_HOST if registry == HUB else registry)
        reason = ""
        for number in [port] if port else [443, 80] if self.is_insecure(registry) else [443]:
            try:
                async with asyncio.timeout(REACH_LIMIT_S):
                    _, writer = await asyncio.open_connection(host, number)
            except TimeoutError:
                reason = f"{host} does not answer on port {number}"
            except socket.gaierror:
                reason = f"the name {host} cannot be resolved"
            except OSError as error:
                reason = f"{host} cannot be reached on port {number}: {os.strerror(error.errno or 0)}"
            else:
                writer.close()
                return ""
        return reason


def split_port(registry: str) -> tuple[str, int]:
    """A registry's host and port; 0 where none is given. IPv6 addresses lose their brackets."""
    host, separator, port = registry.rpartition(":")
    if not separator or not port.isdecimal() or (registry.startswith("[") and not host.endswith("]")):
        host, port = registry, "0"
    return host.strip("[]"), int(port)


def is_loopback(registry: str) -> bool:
    """Whether it runs on this very machine."""
    host, _ = split_port(registry)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_redirected(registry: str) -> bool:
    """Whether the administrator sends this registry's pulls elsewhere, such as to a mirror."""
    try:
        text = REGISTRIES_CONF.read_text()
    except OSError:
        return False
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(f'"{registry}' in line and line.strip().startswith(("prefix", "location")) for line in lines)
