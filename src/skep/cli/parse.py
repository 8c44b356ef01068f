"""Docker's short notations for ports, mounts and networks, as API objects.

Pure. Source: docker/cli, opts package.
"""

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
TRUE = {"1", "true", "t", "yes", ""}


class BadNotation(ValueError):
    """The text cannot be read; the message says what would be."""


def parse_ports(text: str) -> list[Json]:
    """Read `8080:80/tcp`, `8000-8002:80-82`, `80` or `published=8080,target=80,protocol=udp,mode=host`.

    Raises:
        BadNotation
    """
    if "=" in text:
        return [_long_port(text)]
    body, _, protocol = text.partition("/")
    published, separator, target = body.rpartition(":")
    targets = _port_range(target if separator else body, text)
    publisheds = _port_range(published, text) if published else [0] * len(targets)
    if len(publisheds) != len(targets):
        raise BadNotation(f'invalid port "{text}": the two ranges differ in length')
    return [
        {"Protocol": protocol or "tcp", "TargetPort": inner, "PublishedPort": outer, "PublishMode": "ingress"}
        for inner, outer in zip(targets, publisheds, strict=True)
    ]


def _port_range(text: str, whole: str) -> list[int]:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise BadNotation(f'invalid port "{whole}"; write it like 8080:80 or published=8080,target=80')
    ports = list(range(int(first), int(last or first) + 1))
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise BadNotation(f'invalid port "{whole}": ports are between 1 and 65535')
    return ports


def _long_port(text: str) -> Json:
    port: Json = {"Protocol": "tcp", "PublishMode": "ingress", "PublishedPort": 0}
    names = {"target": "TargetPort", "published": "PublishedPort", "protocol": "Protocol", "mode": "PublishMode"}
    for key, value in fields(text):
        if key not in names:
            raise BadNotation(f'invalid field "{key}" in port "{text}"; there are {", ".join(names)}')
        port[names[key]] = _port_range(value, text)[0] if key in ("target", "published") else value.lower()
    if "TargetPort" not in port:
        raise BadNotation(f'port "{text}" has no target; write published=8080,target=80')
    return port


def parse_mount(text: str) -> Json:
    """Read `type=bind,source=/a,target=/b,readonly` and its kin.

    Raises:
        BadNotation
    """
    mount: Json = {"Type": "volume"}
    for key, value in fields(text):
        _take_mount_field(mount, key, value, text)
    if not mount.get("Target"):
        raise BadNotation(f'mount "{text}" has no target; add target=/path/in/the/container')
    return mount


def _take_mount_field(mount: Json, key: str, value: str, text: str) -> None:
    match key:
        case "type":
            mount["Type"] = value.lower()
        case "source" | "src":
            mount["Source"] = value
        case "target" | "dst" | "destination":
            mount["Target"] = value
        case "readonly" | "ro":
            mount["ReadOnly"] = value.lower() in TRUE
        case "bind-propagation":
            mount.setdefault("BindOptions", {})["Propagation"] = value
        case "volume-nocopy":
            mount.setdefault("VolumeOptions", {})["NoCopy"] = value.lower() in TRUE
        case "volume-driver":
            mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})["Name"] = value
        case "volume-label":
            name, _, content = value.partition("=")
            mount.setdefault("VolumeOptions", {}).setdefault("Labels", {})[name] = content
        case "volume-opt":
            name, _, content = value.partition("=")
            driver = mount.setdefault("VolumeOptions", {}).setdefault("DriverConfig", {})
            driver.setdefault("Options", {})[name] = content
        case "tmpfs-size":
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = _number(key, value, 10)
        case "tmpfs-mode":
            mount.setdefault("TmpfsOptions", {})["Mode"] = _number(key, value, 8)
        case _:
            raise BadNotation(f'unknown field "{key}" in mount "{text}"')


def _number(field: str, text: str, base: int) -> int:
    """A number, with `k`, `m` or `g` after it where it is a decimal one."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1) if base == 10 else 1
    try:
        return int(text[:-1] if factor > 1 else text, base) * factor
    except ValueError as error:
        raise BadNotation(f'invalid {field} "{text}"; write it like {"64m" if base == 10 else "1777"}') from error


def parse_network(text: str) -> Json:
    """Read `NAME` or `name=NAME,alias=WEB,driver-opt=k=v`.

    Raises:
        BadNotation
    """
    if "=" not in text:
        return {"Target": text}
    attachment: Json = {"Aliases": [], "DriverOpts": {}}
    for key, value in fields(text):
        match key:
            case "name":
                attachment["Target"] = value
            case "alias":
                attachment["Aliases"].append(value)
            case "driver-opt":
                name, _, content = value.partition("=")
                attachment["DriverOpts"][name] = content
            case _:
                raise BadNotation(f'unknown field "{key}" in network "{text}"')
    return attachment


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """`key=value` or `key`, as a dictionary."""
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def fields(text: str) -> list[tuple[str, str]]:
    """The fields of a comma-separated notation; a value with a comma may be quoted as in CSV."""
    import csv  # Imported late: completion needs none of it.

    row = next(csv.reader([text]), [])
    split = [field.partition("=") for field in row]
    return [(key.strip().lower(), value.strip()) for key, _, value in split]
