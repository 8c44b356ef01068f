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
from skep.api import wire
from skep.api.wire import Document
from skep.core.mesh import naming
from skep.model.base import Wire
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


class EndpointAddresses(Wire, frozen=True, kw_only=True):
    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] = []


class EndpointSettings(Wire, frozen=True, kw_only=True):
    aliases: list[str] = []
    ipam_config: EndpointAddresses = EndpointAddresses()


class ConnectBody(Wire, frozen=True, kw_only=True):
    """Source: POST /networks/{id}/connect and /disconnect."""

    container: str = ""
    endpoint_config: EndpointSettings = EndpointSettings()


class _Named(Wire, frozen=True, kw_only=True):
    name: str = ""


class _Mount(Wire, frozen=True, kw_only=True):
    target: str = ""


class _Host(Wire, frozen=True, kw_only=True):
    extra_hosts: list[str] = []
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    restart_policy: _Named = _Named()
    port_bindings: dict[str, Any] = {}
    publish_all_ports: bool = False
    binds: list[str] = []
    mounts: list[_Mount] = []


class _Create(Wire, frozen=True, kw_only=True):
    hostname: str = ""
    host_config: _Host = _Host()


def asked_networks(body: Any) -> dict[str, Any]:
    """The networks a container is to be on, by reference, with their settings; without the engine's own modes."""
    if not isinstance(body, dict):
        return {}
    host, config = body.get("HostConfig"), body.get("NetworkingConfig")
    mode = str(host.get("NetworkMode") or "") if isinstance(host, dict) else ""
    endpoints = config.get("EndpointsConfig") if isinstance(config, dict) else None
    found = {mode: None, **(endpoints if isinstance(endpoints, dict) else {})}
    return {
        reference: settings
        for reference, settings in found.items()
        if reference not in ENGINE_MODES and ":" not in reference
    }


def endpoint_of(network_id: str, network: str, settings: Any, number: int) -> ContainerEndpoint:
    """One of `asked_networks`, its network found.

    Raises:
        InvalidSpec: It asks for what an overlay does not have, or is no EndpointSettings.
    """
    return endpoint(network_id, network, wire.fit(settings or {}, EndpointSettings), number)


def endpoint(network_id: str, network: str, settings: EndpointSettings, number: int = 0) -> ContainerEndpoint:
    """What an EndpointConfig asks for.

    Raises:
        InvalidSpec: It asks for what an overlay does not have.
    """
    addresses = settings.ipam_config
    if addresses.ipv6_address or addresses.link_local_ips:
        raise InvalidSpec("overlay networks are IPv4 only; leave --ip6 and --link-local-ip away")
    return ContainerEndpoint(
        network=network,
        network_id=network_id,
        aliases=settings.aliases,
        address=addresses.ipv4_address,
        number=number,
    )


def new_container(sandbox_id: str, name: str, body: Mapping[str, Any]) -> AttachedContainer:
    """What is kept of a container that podman is to make, still without its networks.

    Raises:
        InvalidSpec: It is to have what it cannot have there, or cannot be read.
    """
    asked = wire.fit(body, _Create)
    host = asked.host_config
    if host.port_bindings or host.publish_all_ports:
        raise InvalidSpec(
            "a plain container on an overlay network publishes no ports: leave -p away, or run it as a service with -p"
        )
    hosts = [entry.partition(":") for entry in host.extra_hosts]
    return AttachedContainer(
        sandbox_id=sandbox_id,
        name=name.removeprefix("/"),
        hostname=asked.hostname,
        hosts=[f"{address} {name}" for name, _, address in hosts if address[:1].isdigit() or ":" in address],
        nameservers=host.dns,
        search=host.dns_search,
        options=host.dns_options,
        is_lasting=host.restart_policy.name in LASTING,
    )


def for_engine(body: Mapping[str, Any], namespace: Path, files: Path) -> Document:
    """The body of a create as podman is asked: in the prepared namespace, reading the prepared files."""
    asked = wire.fit(body, _Create).host_config
    host = dict(body.get("HostConfig") or {})
    taken = {bind.split(":")[1] for bind in asked.binds if ":" in bind} | {mount.target for mount in asked.mounts}
    host["NetworkMode"] = f"ns:{namespace}"
    host["Binds"] = [
        *asked.binds,
        *(f"{files / name}:{target}" for target, name in BOUND.items() if target not in taken),
    ]
    for key in ("Dns", "DnsSearch", "DnsOptions", "ExtraHosts"):
        host.pop(key, None)  # They are in those files.
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
