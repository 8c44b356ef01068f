"""The top-level sections `networks`, `volumes`, `secrets` and `configs`.

Pure. Source: Compose specification, 06-networks.md to 09-secrets.md.
"""

from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import dataclass
from typing import Final

from skep.model.network import IPAM, IPAMConfig
from skep.model.service import DriverConfig
from skep.stack import reading
from skep.stack.compose import ComposeFile, ComposeNetwork, ComposeVolume
from skep.stack.errors import ComposeError
from skep.stack.nodes import Mapping, Node, Place, Scalar
from skep.stack.reading import Reading

NETWORK: Final = {
    "name", "external", "driver", "driver_opts", "ipam", "labels", "attachable", "internal", "enable_ipv4",
    "enable_ipv6",
}  # fmt: skip
VOLUME: Final = {"name", "external", "driver", "driver_opts", "labels"}
FILE: Final = {"name", "external", "file", "environment", "content", "labels", "template_driver", "driver"}


@dataclass(frozen=True, slots=True)
class Contents:
    """Where a secret or config gets its bytes. Attributes: read: a file by its path as written in that node."""

    read: Callable[[Scalar], bytes]
    variables: Map[str, str]


def _external(entries: Map[str, Node], what: str) -> tuple[bool, str]:
    """`external: true`, or the older `external: {name: …}`, and the name."""
    name = reading.text(entries["name"]) if "name" in entries else ""
    external = entries.get("external")
    if external is None:
        return False, name
    if isinstance(external, Mapping):
        old = external.entries.get("name")
        return True, reading.text(old) if old else name
    is_external = reading.boolean(external)
    if is_external and (extra := set(entries) - {"name", "external"}):
        raise ComposeError(external.place, f"an external {what} has only a name, not {', '.join(sorted(extra))}")
    return is_external, name


def read_network(seen: Reading, key: str, node: Node) -> ComposeNetwork:
    entries = seen.known(node, "a network", NETWORK)
    is_external, name = _external(entries, "network")

    def flag(name: str) -> bool:
        return name in entries and reading.boolean(entries[name])

    return ComposeNetwork(
        key=key,
        place=node.place,
        name=name,
        is_external=is_external,
        driver=reading.text(entries["driver"]) if "driver" in entries else "overlay",
        driver_opts=reading.labels(entries["driver_opts"], "driver_opts") if "driver_opts" in entries else {},
        ipam=_ipam(seen, entries["ipam"]) if "ipam" in entries else IPAM(),
        labels=reading.labels(entries["labels"]) if "labels" in entries else {},
        is_attachable=flag("attachable"),
        is_internal=flag("internal"),
        enable_ipv6=flag("enable_ipv6"),
    )


def _ipam(seen: Reading, node: Node) -> IPAM:
    entries = seen.known(node, "`ipam`", {"driver", "config", "options"})
    pools: list[IPAMConfig] = []
    for item in reading.items(entries["config"]) if "config" in entries else ():
        pool = seen.known(item, "`ipam.config`", {"subnet", "ip_range", "gateway", "aux_addresses"})
        values = {name: reading.text(pool[name]) for name in ("subnet", "ip_range", "gateway") if name in pool}
        auxiliary = reading.labels(pool["aux_addresses"]) if "aux_addresses" in pool else None
        pools.append(IPAMConfig(**values, auxiliary_addresses=auxiliary))
    return IPAM(
        driver=reading.text(entries["driver"]) if "driver" in entries else "default",
        options=reading.labels(entries["options"], "options") if "options" in entries else None,
        config=pools or None,
    )


def read_volume(seen: Reading, key: str, node: Node) -> ComposeVolume:
    entries = seen.known(node, "a volume", VOLUME)
    is_external, name = _external(entries, "volume")
    driver = None
    if "driver" in entries or "driver_opts" in entries:
        driver = DriverConfig(
            name=reading.text(entries["driver"]) if "driver" in entries else "local",
            options=reading.labels(entries["driver_opts"], "driver_opts") if "driver_opts" in entries else None,
        )
    labels = reading.labels(entries["labels"]) if "labels" in entries else {}
    return ComposeVolume(key, node.place, name, is_external, driver, labels)


def read_file(seen: Reading, key: str, node: Node, kind: str, contents: Contents) -> ComposeFile:
    """Read a secret or config with its content."""
    entries = seen.known(node, f"a {kind}", FILE)
    is_external, name = _external(entries, kind)
    if "driver" in entries:
        raise ComposeError(entries["driver"].place, f"{kind} drivers are not possible; give `file:` or `content:`")
    return ComposeFile(
        key=key,
        place=node.place,
        name=name,
        is_external=is_external,
        content=None if is_external else _content(entries, kind, key, node.place, contents),
        labels=reading.labels(entries["labels"]) if "labels" in entries else {},
        templating=reading.text(entries["template_driver"]) if "template_driver" in entries else "",
    )


def _content(entries: Map[str, Node], kind: str, key: str, place: Place, contents: Contents) -> bytes:
    given = [name for name in ("file", "environment", "content") if name in entries]
    if len(given) != 1:
        raise ComposeError(place, f'the {kind} "{key}" needs one of file, environment, content or external')
    node = entries[given[0]]
    written = reading.text(node)
    match given[0]:
        case "file" if isinstance(node, Scalar):
            return contents.read(node)
        case "environment":
            if written not in contents.variables:
                raise ComposeError(node.place, f'the {kind} "{key}" is to be read from {written}, which is not set')
            return contents.variables[written].encode(errors="surrogateescape")
        case _:
            return written.encode()
