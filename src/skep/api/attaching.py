"""Between Docker's words for a container's networks and what the node remembers of one on the swarm's networks.

Pure but for reading the resolv.conf an engine gave a container. Podman makes such a container with a namespace that is
prepared for it and with two files bound over its own; neither is shown to users.
Source: Docker API 1.51, POST /containers/create, GET /containers/{id}/json, POST /networks/{id}/connect.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from skep.agent.attached import HOSTS, RESOLV_CONF, AttachedContainer, ContainerEndpoint
from skep.agent.attachments import Attachments
from skep.api.wire import Document
from skep.core.mesh import naming
from skep.model.errors import Forbidden, InvalidSpec

ENGINE_MODES: Final = ("", "default", "bridge", "host", "none", "private")
LASTING: Final = ("always", "unless-stopped", "on-failure")
BOUND: Final = {"/etc/hosts": HOSTS, "/etc/resolv.conf": RESOLV_CONF}
ONE_NETWORK: Final = {
    "host": "container cannot be disconnected from host network or connected to host network",
    "none": "container cannot be connected to multiple networks with one of the networks in private (none) mode",
}
SHARED: Final = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)


# --- what is asked ------------------------------------------------------------------------


def asked_networks(body: Any) -> dict[str, Mapping[str, Any]]:
    """The networks a container is to be on, by reference, with their settings; without the engine's own modes."""
    if not isinstance(body, dict):
        return {}
    host, config = body.get("HostConfig"), body.get("NetworkingConfig")
    mode = str(host.get("NetworkMode") or "") if isinstance(host, dict) else ""
    endpoints = config.get("EndpointsConfig") if isinstance(config, dict) else None
    found = {mode: {}, **(endpoints if isinstance(endpoints, dict) else {})}
    return {
        reference: settings if isinstance(settings, dict) else {}
        for reference, settings in found.items()
        if reference not in ENGINE_MODES and ":" not in reference
    }


def endpoint(network_id: str, network: str, settings: Mapping[str, Any], number: int = 0) -> ContainerEndpoint:
    """What an EndpointConfig asks for.

    Raises:
        InvalidSpec: It asks for what an overlay does not have.
    """
    addresses = settings.get("IPAMConfig") or {}
    if addresses.get("IPv6Address") or addresses.get("LinkLocalIPs"):
        raise InvalidSpec("overlay networks are IPv4 only; leave --ip6 and --link-local-ip away")
    return ContainerEndpoint(
        network=network,
        network_id=network_id,
        aliases=[str(alias) for alias in settings.get("Aliases") or ()],
        address=str(addresses.get("IPv4Address") or ""),
        number=number,
    )


def new_container(sandbox_id: str, name: str, body: Mapping[str, Any]) -> AttachedContainer:
    """What is kept of a container that podman is to make, still without its networks.

    Raises:
        InvalidSpec: It is to have what it cannot have there.
    """
    host = body.get("HostConfig") or {}
    if host.get("PortBindings") or host.get("PublishAllPorts"):
        raise InvalidSpec(
            "a plain container on an overlay network publishes no ports: leave -p away, or run it as a service with -p"
        )
    hosts = [str(entry).partition(":") for entry in host.get("ExtraHosts") or ()]
    return AttachedContainer(
        sandbox_id=sandbox_id,
        name=name.removeprefix("/"),
        hostname=str(body.get("Hostname") or ""),
        hosts=[f"{address} {name}" for name, _, address in hosts if address[:1].isdigit() or ":" in address],
        nameservers=[str(each) for each in host.get("Dns") or ()],
        search=[str(each) for each in host.get("DnsSearch") or ()],
        options=[str(each) for each in host.get("DnsOptions") or ()],
        is_lasting=str((host.get("RestartPolicy") or {}).get("Name") or "") in LASTING,
    )


def for_engine(body: Mapping[str, Any], namespace: Path, files: Path) -> Document:
    """The body of a create as podman is asked: in the prepared namespace, reading the prepared files."""
    host = dict(body.get("HostConfig") or {})
    binds = [str(each) for each in host.get("Binds") or ()]
    taken = {each.split(":")[1] for each in binds if ":" in each}
    taken |= {str(each.get("Target")) for each in host.get("Mounts") or ()}
    host["NetworkMode"] = f"ns:{namespace}"
    host["Binds"] = [*binds, *(f"{files / name}:{target}" for target, name in BOUND.items() if target not in taken)]
    for key in ("Dns", "DnsSearch", "DnsOptions", "ExtraHosts"):
        host.pop(key, None)  # They are in those files, and in the namespace.
    return {**body, "HostConfig": host, "NetworkingConfig": {}}


def without(body: Mapping[str, Any], references: Iterable[str], mode: str) -> Document:
    """The body of a create without some networks. Args: mode: the network it begins with instead."""
    gone = set(references)
    config = body.get("NetworkingConfig") or {}
    endpoints = {key: value for key, value in (config.get("EndpointsConfig") or {}).items() if key not in gone}
    host = {**(body.get("HostConfig") or {}), "NetworkMode": mode}
    return {**body, "HostConfig": host, "NetworkingConfig": {**config, "EndpointsConfig": endpoints}}


def borrowing(sandbox_id: str, document: Mapping[str, Any]) -> AttachedContainer:
    """A container that is on networks of its engine and is to join one of the swarm's.

    Args:
        document: As the engine describes it.
    Raises:
        Forbidden: In Docker's words: its kind of namespace allows no more networks.
    """
    host, config = document.get("HostConfig") or {}, document.get("Config") or {}
    mode = str(host.get("NetworkMode") or "")
    if mode in ONE_NETWORK:
        raise Forbidden(ONE_NETWORK[mode])
    if mode.startswith(("container:", "ns:")):
        raise Forbidden(SHARED)
    path = str(document.get("ResolvConfPath") or "")
    nameservers, search = read_resolv_conf(path)
    own = str(document.get("Id") or "")
    hostname = str(config.get("Hostname") or "")
    return AttachedContainer(
        sandbox_id=sandbox_id,
        container_id=own,
        name=str(document.get("Name") or "").removeprefix("/"),
        hostname="" if own.startswith(hostname) else hostname,
        nameservers=nameservers,
        search=search,
        is_lasting=str((host.get("RestartPolicy") or {}).get("Name") or "") in LASTING,
        first_number=max(len((document.get("NetworkSettings") or {}).get("Networks") or {}), 1),
        resolv_conf=path,
    )


def read_resolv_conf(path: str) -> tuple[list[str], list[str]]:
    """Name servers and search domains; none where there is no such file."""
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return [], []
    servers = [words[1] for words in lines if words[:1] == ["nameserver"] and words[1:]]
    domains = [domain for words in lines if words[:1] == ["search"] for domain in words[1:]]
    return [server for server in servers if server != naming.DNS_ADDRESS], domains


# --- what is shown ------------------------------------------------------------------------


def merged(document: Mapping[str, Any], container: AttachedContainer, attachments: Attachments) -> Document:
    """A container's description with its networks of the swarm, and without what is behind them."""
    settings = dict(document.get("NetworkSettings") or {})
    networks = dict(settings.get("Networks") or {})
    for each in container.endpoints:
        networks[each.network] = _shown(each, container, attachments)
    settings["Networks"] = networks
    host = dict(document.get("HostConfig") or {})
    shown: Document = {**document, "NetworkSettings": settings, "HostConfig": host}
    if not container.is_borrowed:
        # Docker fills these from its default bridge only.
        settings |= {"IPAddress": "", "IPPrefixLen": 0, "MacAddress": "", "Gateway": ""}
        host["NetworkMode"] = container.endpoints[0].network if container.endpoints else "none"
        host["Binds"] = [each for each in host.get("Binds") or () if not _is_ours(str(each), container)] or None
        host["Dns"], host["DnsSearch"] = container.nameservers, container.search
        host["DnsOptions"] = container.options
        host["ExtraHosts"] = [":".join(reversed(line.split(" ", 1))) for line in container.hosts] or None
        mounts: Sequence[Mapping[str, Any]] = document.get("Mounts") or ()
        shown["Mounts"] = [
            each for each in mounts if not _is_ours(f"{each.get('Source')}:{each.get('Destination')}", container)
        ]
    return shown


def _is_ours(bind: str, container: AttachedContainer) -> bool:
    source, _, rest = bind.partition(":")
    return rest.split(":")[0] in BOUND and f"/{container.sandbox_id}/" in source


def _shown(value: ContainerEndpoint, container: AttachedContainer, attachments: Attachments) -> Document:
    address, _, prefix = attachments.address_of(value).partition("/")
    return {
        "IPAMConfig": {"IPv4Address": value.address} if value.address else {},
        "Links": None,
        "Aliases": value.aliases or None,
        "MacAddress": naming.address_mac(address) if address else "",
        "DriverOpts": None,
        "GwPriority": 0,
        "NetworkID": value.network_id,
        "EndpointID": value.task_id,
        "Gateway": attachments.gateway_of(value) if address else "",
        "IPAddress": address,
        "IPPrefixLen": int(prefix or 0),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": list(container.names(value)),
    }
