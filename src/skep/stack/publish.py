"""A service's `ports:`, short and long.

Pure. Source: Compose specification, 05-services.md (ports).
"""

from typing import Final

from skep.model.service import PortConfig, Protocol, PublishMode
from skep.stack import notation, reading
from skep.stack.errors import ComposeError
from skep.stack.nodes import Node, Scalar
from skep.stack.reading import Reading

LONG: Final = {"target", "published", "protocol", "mode", "host_ip", "name", "app_protocol"}


def read_service_ports(seen: Reading, node: Node) -> list[PortConfig]:
    """Read the list.

    Raises:
        ComposeError: Also for more ports than a service may publish, and for one given twice.
    """
    found: list[PortConfig] = []
    for item in reading.items(node):
        found += _short(seen, item) if isinstance(item, Scalar) else [_long(seen, item)]
        if len(found) > notation.MAX_PORTS:
            raise ComposeError(item.place, f"a service may publish {notation.MAX_PORTS} ports")
    return list(dict.fromkeys(found))


def _short(seen: Reading, node: Node) -> list[PortConfig]:
    ports, address = reading.number(node, notation.read_ports)
    _note_address(seen, node, address)
    return ports


def _long(seen: Reading, node: Node) -> PortConfig:
    entries = seen.known(node, "a port", LONG)
    if "target" not in entries:
        raise ComposeError(node.place, "a port has a target")
    target = reading.number(entries["target"], notation.read_published)
    published = reading.number(entries["published"], notation.read_published) if "published" in entries else range(1)
    if len(target) != 1 or target[0] == 0 or len(published) != 1:
        raise ComposeError(node.place, "a port in long form is a single one; write ranges in the short form")
    if "host_ip" in entries:
        _note_address(seen, entries["host_ip"], reading.text(entries["host_ip"]))
    mode = reading.choice(entries["mode"], list(PublishMode)) if "mode" in entries else "ingress"
    return PortConfig(
        name=reading.text(entries["name"]) if "name" in entries else "",
        protocol=Protocol(reading.choice(entries["protocol"], list(Protocol)) if "protocol" in entries else "tcp"),
        target_port=target[0],
        published_port=published[0],
        publish_mode=PublishMode(mode),
    )


def _note_address(seen: Reading, node: Node, address: str) -> None:
    if address and address not in ("0.0.0.0", "::"):  # noqa: S104 -- what a user wrote, compared and not bound
        seen.note(node, f"ignored: the address {address[:60]}; a swarm publishes ports on every address of a node")
