"""What a service has several of, from the command line: `--env` of create, `--env-add` and `--env-rm` of update.

Pure. One row of `LISTS` is one option in its three forms. Source: docker/cli, command/service/{opts,update}.go.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from skep.cli import notations, parse
from skep.cli.complete import live

Json = dict[str, Any]
Options = Mapping[str, Any]
Lookup = Callable[[str, str], str]
"""Answers the id of an object by its kind (`secret`, `config`, `network`) and name."""

TASK, CONTAINER = ("TaskTemplate",), ("TaskTemplate", "ContainerSpec")


def _whole(entry: Any) -> str:
    return str(entry)


def _named(field: str) -> Callable[[Any], str]:
    return lambda entry: str(entry[field])


def _env_name(entry: str) -> str:
    return entry.partition("=")[0]


def _host_key(entry: str) -> str:
    """A host as users write it, `name:address`; the API has `address name`."""
    address, _, name = entry.partition(" ")
    return f"{name}:{address}"


def _is_same(entry: Any, key: str, text: str) -> bool:
    return key == text


def _is_same_host(entry: Any, key: str, text: str) -> bool:
    return key == text or key.partition(":")[0] == text


def _is_same_port(entry: Any, key: str, text: str) -> bool:
    return any(
        (port["TargetPort"], port["Protocol"]) == (entry["TargetPort"], entry["Protocol"])
        and port["PublishedPort"] in (0, entry["PublishedPort"])
        for port in parse.parse_ports(text)
    )


@dataclass(frozen=True, slots=True)
class ListOption:
    """One option.

    Attributes:
        read: The entries that one text stands for.
        key: What tells entries apart; adding one with the key of another replaces that.
        is_removed: Whether an entry, with its key, is what a `-rm` text names.
        kind: What completes it, and names of which are looked up.
        short: Letter of create's option.
    """

    name: str
    path: tuple[str, ...]
    help: str
    read: Callable[[str], list[Any]] = lambda text: [text]
    key: Callable[[Any], str] = _whole
    is_removed: Callable[[Any, str, str], bool] = _is_same
    kind: str = ""
    short: str = ""

    @property
    def variable(self) -> str:
        return self.name.replace("-", "_")


def _one(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [read(text)]


LISTS = (
    ListOption("env", (*CONTAINER, "Env"), "NAME=value.", key=_env_name, short="-e"),
    ListOption("mount", (*CONTAINER, "Mounts"), "type=bind,source=/a,target=/b,readonly", _one(parse.parse_mount),
               _named("Target")),
    ListOption("network", (*TASK, "Networks"), "NAME or name=NAME,alias=ALIAS.", _one(parse.parse_network),
               _named("Target"), kind="network"),
    ListOption("publish", ("EndpointSpec", "Ports"), "8080:80 or published=8080,target=80,mode=host.",
               lambda text: list(parse.parse_ports(text)), is_removed=_is_same_port, short="-p"),
    ListOption("constraint", (*TASK, "Placement", "Constraints"), "node.role==worker"),
    ListOption("placement-pref", (*TASK, "Placement", "Preferences"), "spread=node.labels.zone",
               _one(notations.preference), notations.preference_text),
    ListOption("secret", (*CONTAINER, "Secrets"), "NAME or source=NAME,target=PATH,uid=0,gid=0,mode=0400.",
               _one(notations.secret), _named("SecretName"), kind="secret"),
    ListOption("config", (*CONTAINER, "Configs"), "NAME or source=NAME,target=PATH,uid=0,gid=0,mode=0444.",
               _one(notations.config), _named("ConfigName"), kind="config"),
    ListOption("group", (*CONTAINER, "Groups"), "Further group of the container's user."),
    ListOption("host", (*CONTAINER, "Hosts"), "name:address for the container's hosts file.", _one(notations.host),
               _host_key, _is_same_host),
    ListOption("dns", (*CONTAINER, "DNSConfig", "Nameservers"), "Address of a name server."),
    ListOption("dns-option", (*CONTAINER, "DNSConfig", "Options"), "Option of the resolver, such as ndots:1."),
    ListOption("dns-search", (*CONTAINER, "DNSConfig", "Search"), "Domain in which names are looked up."),
    ListOption("ulimit", (*CONTAINER, "Ulimits"), "NAME=SOFT[:HARD].", _one(notations.ulimit), _named("Name")),
    ListOption("generic-resource", (*TASK, "Resources", "Reservations", "GenericResources"),
               "KIND=AMOUNT or KIND=NAME.", notations.generic_resources, notations.resource_kind),
)  # fmt: skip
MAPS = {
    "label": (("Labels",), "Service label, key=value.", "-l"),
    "container-label": ((*CONTAINER, "Labels"), "Container label, key=value.", ""),
    "sysctl": ((*CONTAINER, "Sysctls"), "Kernel parameter, name=value.", ""),
}


def create_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `service create` its forms."""
    for name, (_, text, short) in MAPS.items():
        command = click.option(*filter(None, (short, f"--{name}")), multiple=True, help=text)(command)
    for each in reversed(LISTS):
        completion = live(each.kind) if each.kind else None
        words = filter(None, (each.short, f"--{each.name}"))
        command = click.option(*words, multiple=True, help=each.help, shell_complete=completion)(command)
    return command


def update_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `service update` its forms."""
    for name, (_, text, _) in MAPS.items():
        command = click.option(f"--{name}-rm", multiple=True, help="By its key.")(command)
        command = click.option(f"--{name}-add", multiple=True, help=text)(command)
    for each in reversed(LISTS):
        completion = live(each.kind) if each.kind else None
        command = click.option(f"--{each.name}-rm", multiple=True, help="Take one away.", shell_complete=completion)(
            command
        )
        command = click.option(f"--{each.name}-add", multiple=True, help=each.help, shell_complete=completion)(command)
    return command


def apply(spec: Json, options: Options, lookup: Lookup) -> None:
    """Write what was given into a spec, new or old.

    Raises:
        parse.BadNotation: An option cannot be read.
    """
    for each in LISTS:
        added = options.get(each.variable) or options.get(f"{each.variable}_add") or ()
        removed = options.get(f"{each.variable}_rm") or ()
        if added or removed:
            _apply_list(spec, each, added, removed, lookup)
    for name, (path, _, _) in MAPS.items():
        variable = name.replace("-", "_")
        added = options.get(variable) or options.get(f"{variable}_add") or ()
        removed = options.get(f"{variable}_rm") or ()
        if added or removed:
            labels = {**(reach(spec, path) or {}), **parse.pairs(added)}
            place(spec, path, {key: value for key, value in labels.items() if key not in removed})


def _apply_list(
    spec: Json, option: ListOption, added: tuple[str, ...], removed: tuple[str, ...], lookup: Lookup
) -> None:
    entries = [entry for text in added for entry in option.read(text)]
    gone = list(removed)
    if option.kind:
        _fill_ids(option, entries, lookup)
    if option.kind == "network":
        gone += [lookup("network", text) for text in removed]
    keys = {option.key(entry) for entry in entries}
    kept = [
        entry
        for entry in reach(spec, option.path) or ()
        if option.key(entry) not in keys and not any(option.is_removed(entry, option.key(entry), text) for text in gone)
    ]
    place(spec, option.path, kept + entries)


def _fill_ids(option: ListOption, entries: list[Json], lookup: Lookup) -> None:
    if option.kind == "network":
        for entry in entries:
            entry["Target"] = lookup("network", entry["Target"])
        return
    word = option.kind.capitalize()
    for entry in entries:
        entry[f"{word}ID"] = lookup(option.kind, entry[f"{word}Name"])


def apply_capabilities(spec: Json, added: tuple[str, ...], dropped: tuple[str, ...]) -> None:
    """Add and drop capabilities; naming one on one side takes it from the other."""
    if not (added or dropped):
        return
    gained, lost = ([notations.capability(text) for text in texts] for texts in (added, dropped))
    for name, more, fewer in (("CapabilityAdd", gained, lost), ("CapabilityDrop", lost, gained)):
        path = (*CONTAINER, name)
        kept = [each for each in reach(spec, path) or () if each not in fewer and each not in more]
        place(spec, path, kept + more)


def place(spec: Json, path: tuple[str, ...], value: object) -> None:
    """Set a value deep in a spec, making what is missing on the way."""
    for name in path[:-1]:
        if not isinstance(spec.get(name), dict):
            spec[name] = {}
        spec = spec[name]
    spec[path[-1]] = value


def reach(spec: Json, path: tuple[str, ...]) -> Any:
    """The value deep in a spec; None where there is none."""
    found: Any = spec
    for name in path:
        found = (found or {}).get(name)
    return found
