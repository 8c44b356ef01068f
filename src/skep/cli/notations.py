"""Docker's short notations for what a service's container is given, as API objects.

Pure. Source: docker/cli, the opts package and command/service/opts.go.
"""

from typing import Any

from skep.cli.parse import BadNotation, fields

Json = dict[str, Any]
DEFAULT_MODE = 0o444


def secret(text: str) -> Json:
    """`NAME` or `source=NAME,target=PATH,uid=0,gid=0,mode=0400`; its id is to be looked up.

    Raises:
        BadNotation
    """
    name, file = _file(text, "secret")
    return {"SecretID": "", "SecretName": name, "File": file}


def config(text: str) -> Json:
    """As `secret`, of a config."""
    name, file = _file(text, "config")
    return {"ConfigID": "", "ConfigName": name, "File": file}


def _file(text: str, kind: str) -> tuple[str, Json]:
    if "=" not in text and "," not in text:
        return text, {"Name": text, "UID": "0", "GID": "0", "Mode": DEFAULT_MODE}
    found = dict(fields(text))
    name = found.pop("source", "") or found.pop("src", "")
    if not name:
        raise BadNotation(f'{kind} "{text}" has no source; write source=NAME,target=PATH')
    target = found.pop("target", "") or name
    mode = found.pop("mode", "") or oct(DEFAULT_MODE)[2:]
    file = {"Name": target, "UID": found.pop("uid", "0"), "GID": found.pop("gid", "0"), "Mode": _octal(mode, text)}
    if found:
        raise BadNotation(
            f'unknown field "{next(iter(found))}" in {kind} "{text}"; there are source, target, uid, gid, mode'
        )
    return name, file


def _octal(text: str, whole: str) -> int:
    try:
        return int(text, 8)
    except ValueError as error:
        raise BadNotation(f'invalid mode in "{whole}": write it in octal, like 0440') from error


def host(text: str) -> str:
    """`name:address` or `name=address`, as the `address name` of a hosts file."""
    import ipaddress  # Imported late, as only this needs it.

    separator = "=" if "=" in text else ":"
    name, _, address = text.partition(separator)
    try:
        ipaddress.ip_address(address.strip("[]"))
    except ValueError as error:
        raise BadNotation(f'invalid host "{text}": write it like db:10.0.0.5') from error
    return f"{address.strip('[]')} {name}"


def ulimit(text: str) -> Json:
    """`nofile=1024:2048` or `nofile=1024`."""
    name, _, amounts = text.partition("=")
    soft, _, hard = amounts.partition(":")
    try:
        low, high = int(soft), int(hard or soft)
    except ValueError as error:
        raise BadNotation(f'invalid ulimit "{text}": write it like nofile=1024:2048') from error
    if high != -1 and low > high:
        raise BadNotation(f'invalid ulimit "{text}": the soft limit is above the hard one')
    return {"Name": name, "Soft": low, "Hard": high}


def preference(text: str) -> Json:
    """`spread=node.labels.zone`."""
    strategy, _, descriptor = text.partition("=")
    if strategy != "spread" or not descriptor:
        raise BadNotation(f'unsupported placement preference "{text}"; write spread=node.labels.zone')
    return {"Spread": {"SpreadDescriptor": descriptor}}


def preference_text(entry: Json) -> str:
    """A preference as users write it."""
    return f"spread={(entry.get('Spread') or {}).get('SpreadDescriptor', '')}"


def generic_resources(text: str) -> list[Json]:
    """`SSD=2,GPU=UUID1`: amounts and names."""
    found: list[Json] = []
    for part in text.split(","):
        kind, separator, value = part.partition("=")
        if value.isdecimal():
            found.append({"DiscreteResourceSpec": {"Kind": kind, "Value": int(value)}})
        elif separator and value:
            found.append({"NamedResourceSpec": {"Kind": kind, "Value": value}})
        else:
            raise BadNotation(f'invalid generic resource "{part}": write it like GPU=2')
    return found


def resource_kind(entry: Json) -> str:
    """What tells resources apart."""
    spec = entry.get("DiscreteResourceSpec") or entry.get("NamedResourceSpec") or {}
    return str(spec.get("Kind", ""))


def capability(text: str) -> str:
    """`net_admin` and `CAP_NET_ADMIN` are one."""
    name = text.strip().upper()
    return name if name in ("ALL", "RESET") or name.startswith("CAP_") else f"CAP_{name}"
