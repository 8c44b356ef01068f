"""Which of this machine's addresses the swarm is told.

Edge: asks the kernel for its addresses.
"""

import ipaddress

from skep.daemon.config import CONTROL_PORT, is_address, split_address
from skep.edge import addresses
from skep.model.errors import InvalidSpec


def reachable(text: str, default_port: int) -> tuple[str, int]:
    """The address others reach this node at.

    Args:
        text: As the user wrote it: host, host:port or an interface; empty to find out.
    Raises:
        InvalidSpec: There is none, or there are several to choose from.
    """
    host, port = split_address(text, default_port) if text else ("", default_port)
    known = addresses.list_addresses()
    if host and is_address(host):
        return host, port
    if host:
        on_device = [found.address for found in known if found.device == host]
        if not on_device:
            raise InvalidSpec(f'"{host}" is neither an address nor an interface with one; advertise another')
        if len(on_device) > 1:  # As in Docker: a fail-over's address, which comes and goes, must not be it by luck.
            listed = ", ".join(on_device)
            raise InvalidSpec(f"interface {host} has more than one IPv4 address ({listed}); name the one to use")
        return on_device[0], port
    if not known:
        raise InvalidSpec("this machine has no address others could reach; name one with --advertise-addr")
    if len(known) > 1:
        named = ", ".join(f"{found.address} on {found.device}" for found in known)
        raise InvalidSpec(
            f"could not choose an IP address to advertise since this system has multiple addresses ({named}) - "
            f"specify one with --advertise-addr"
        )
    return known[0].address, port


def underlay(data_path_addr: str, advertised: str) -> str:
    """The address for VXLAN: the one that is advertised unless another is asked for.

    Raises:
        InvalidSpec: It is not this machine's, so no packet could be sent from it.
    """
    host = reachable(data_path_addr, CONTROL_PORT)[0] if data_path_addr else advertised
    known = [found.address for found in addresses.list_addresses()]
    if host not in known and not ipaddress.ip_address(host).is_loopback:
        raise InvalidSpec(
            f"{host} is not an address of this machine ({', '.join(known) or 'it has none'}), so overlay networks "
            "cannot use it; advertise one that is, or name one with --data-path-addr"
        )
    return host


def listening(text: str) -> str:
    """host:port to listen on.

    Raises:
        InvalidSpec: It is no address.
    """
    host, port = split_address(text or f"0.0.0.0:{CONTROL_PORT}", CONTROL_PORT)
    if not is_address(host):
        raise InvalidSpec(f'"{text}" is no address to listen on; write one like 0.0.0.0:{CONTROL_PORT}')
    return f"{host}:{port}"
