"""Objects laid out to be read: what `inspect --pretty` prints.

Pure but for click. Docker's headings, in Docker's order. Source: docker/cli, formatter.go of command/node, service,
secret and config.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from skep.cli.render import inspect, plain
from skep.lib.durations import format_duration

Json = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
GIB = 1 << 30


def pretty_option(command: F) -> F:
    return click.option("--pretty", "is_pretty", is_flag=True, help="Laid out to be read.")(command)


def show(found: Sequence[Json], lines: Callable[[Json], Iterator[str]], template: str, *, is_pretty: bool) -> str:
    """Lay objects out, an empty line between them; or show them as `render.inspect` does.

    Raises:
        click.UsageError: A template was given as well.
    """
    if not is_pretty:
        return inspect(found, template)
    if template:
        raise click.UsageError("--format is incompatible with human friendly format; leave out --format or --pretty")
    return "\n\n".join("\n".join(_safe(line) for line in lines(each)) for each in found)


def _safe(line: str) -> str:
    """`plain`, with the tabs that align."""
    return "\t".join(plain(part) for part in line.split("\t"))


def _pairs(pairs: Mapping[str, str] | None, heading: str, indent: str = "") -> Iterator[str]:
    if pairs:
        yield f"{indent}{heading}:"
        yield from (f"{indent} {key}={value}" if value else f"{indent} {key}" for key, value in sorted(pairs.items()))


def _field(name: str, value: object, indent: str = " ") -> Iterator[str]:
    if value not in (None, "", 0, False, [], {}):
        yield f"{indent}{name + ':':<16}{value}"


def file_lines(found: Json) -> Iterator[str]:
    """A secret or a config; a config's content follows."""
    spec = found["Spec"]
    yield f"{'ID:':<19}{found['ID']}"
    yield f"{'Name:':<19}{spec['Name']}"
    yield from _pairs(spec.get("Labels"), "Labels")
    if not spec.get("Labels"):
        yield "Labels:"
    if (driver := (spec.get("Driver") or {}).get("Name")) is not None:
        yield f"{'Driver:':<19}{driver}"
    yield f"{'Created at:':<19}{found['CreatedAt']}"
    yield f"{'Updated at:':<19}{found['UpdatedAt']}"


# --- nodes ---------------------------------------------------------------------------


def node_lines(node: Json) -> Iterator[str]:
    """A node."""
    spec, status, description = node["Spec"], node["Status"], node["Description"]
    yield f"{'ID:':<24}{node['ID']}"
    if spec.get("Name"):
        yield f"{'Name:':<24}{spec['Name']}"
    yield from _pairs(spec.get("Labels"), "Labels")
    yield f"{'Hostname:':<24}{description['Hostname']}"
    yield f"{'Joined at:':<24}{node.get('CreatedAt', '')}"
    yield "Status:"
    yield f" {'State:':<22} {status['State'].capitalize()}"
    if status.get("Message"):
        yield f" {'Message:':<22} {status['Message']}"
    yield f" {'Availability:':<22} {spec['Availability'].capitalize()}"
    if status.get("Addr"):
        yield f" {'Address:':<22} {status['Addr']}"
    yield from _manager_lines(node.get("ManagerStatus"))
    yield from _machine_lines(description)


def _manager_lines(manager: Json | None) -> Iterator[str]:
    if manager:
        yield "Manager Status:"
        yield f" {'Address:':<22} {manager.get('Addr', '')}"
        yield f" {'Raft Status:':<22} {manager.get('Reachability', '').capitalize()}"
        yield f" {'Leader:':<22} {'Yes' if manager.get('Leader') else 'No'}"


def _machine_lines(description: Json) -> Iterator[str]:
    platform, resources = description.get("Platform") or {}, description.get("Resources") or {}
    yield "Platform:"
    yield f" {'Operating System:':<22} {platform.get('OS', '')}"
    yield f" {'Architecture:':<22} {platform.get('Architecture', '')}"
    yield "Resources:"
    yield f" {'CPUs:':<22} {resources.get('NanoCPUs', 0) / 1e9:g}"
    yield f" {'Memory:':<22} {resources.get('MemoryBytes', 0) / GIB:.4g}GiB"
    engine = description.get("Engine") or {}
    yield f"{'Engine Version:':<24}{engine.get('EngineVersion', '')}"
    yield from _pairs(engine.get("Labels"), "Engine Labels")
    tls = description.get("TLSInfo") or {}
    if tls.get("TrustRoot"):
        yield "TLS Info:"
        yield " TrustRoot:"
        yield from tls["TrustRoot"].splitlines()
        yield f" Issuer Subject:\t{tls.get('CertIssuerSubject', '')}"
        yield f" Issuer Public Key:\t{tls.get('CertIssuerPublicKey', '')}"


# --- services ------------------------------------------------------------------------


def service_lines(service: Json) -> Iterator[str]:
    """A service. Networks are named where the spec names them; see `name_networks`."""
    spec = service["Spec"]
    yield f"ID:\t\t{service['ID']}"
    yield f"Name:\t\t{spec['Name']}"
    yield from _pairs(spec.get("Labels"), "Labels")
    yield from _mode_lines(spec["Mode"])
    yield from _update_status_lines(service.get("UpdateStatus"))
    yield from _placement_lines(spec["TaskTemplate"].get("Placement") or {})
    for heading, name in (("UpdateConfig", "UpdateConfig"), ("RollbackConfig", "RollbackConfig")):
        yield from _policy_lines(heading, spec.get(name))
    yield from _container_lines(spec["TaskTemplate"].get("ContainerSpec") or {})
    yield from _resource_lines(spec["TaskTemplate"].get("Resources") or {})
    networks = [network["Target"] for network in spec["TaskTemplate"].get("Networks") or ()]
    if networks:
        yield f"Networks: {' '.join(networks)}"
    endpoint = spec.get("EndpointSpec") or {}
    yield f"Endpoint Mode:\t{endpoint.get('Mode') or 'vip'}"
    ports = (service.get("Endpoint") or {}).get("Ports") or ()
    if ports:
        yield "Ports:"
    for port in ports:
        yield f" PublishedPort = {port.get('PublishedPort', 0)}"
        yield f"  Protocol = {port['Protocol']}"
        yield f"  TargetPort = {port['TargetPort']}"
        yield f"  PublishMode = {port.get('PublishMode', 'ingress')}"


def _mode_lines(mode: Json) -> Iterator[str]:
    names = {
        "Replicated": "Replicated",
        "Global": "Global",
        "ReplicatedJob": "Replicated Job",
        "GlobalJob": "Global Job",
    }
    kind = next(iter(mode))
    yield f"Service Mode:\t{names.get(kind, kind)}"
    if kind == "Replicated":
        yield f" Replicas:\t{mode[kind].get('Replicas', 0)}"
    elif kind == "ReplicatedJob":
        yield f" Max Concurrent:\t{mode[kind].get('MaxConcurrent', 0)}"
        yield f" Total Completions:\t{mode[kind].get('TotalCompletions', 0)}"


def _update_status_lines(status: Json | None) -> Iterator[str]:
    if status and status.get("State"):
        yield "UpdateStatus:"
        for name, key in (
            ("State", "State"),
            ("Started", "StartedAt"),
            ("Completed", "CompletedAt"),
            ("Message", "Message"),
        ):
            if status.get(key):
                yield f" {name}:\t{status[key]}"


def _placement_lines(placement: Json) -> Iterator[str]:
    preferences = [
        each["Spread"]["SpreadDescriptor"] for each in placement.get("Preferences") or () if "Spread" in each
    ]
    if not (preferences or placement.get("Constraints") or placement.get("MaxReplicas")):
        return
    yield "Placement:"
    if placement.get("Constraints"):
        yield f" Constraints:\t[{' '.join(placement['Constraints'])}]"
    if preferences:
        yield f" Preferences:\t[{' '.join(preferences)}]"
    if placement.get("MaxReplicas"):
        yield f" Max Replicas Per Node:\t{placement['MaxReplicas']}"


def _policy_lines(heading: str, policy: Json | None) -> Iterator[str]:
    if policy is None:
        return
    yield f"{heading}:"
    yield f" Parallelism:\t{policy.get('Parallelism', 0)}"
    if policy.get("Delay"):
        yield f" Delay:\t\t{format_duration(policy['Delay'])}"
    yield f" On failure:\t{policy.get('FailureAction') or 'pause'}"
    if policy.get("Monitor"):
        yield f" Monitoring Period: {format_duration(policy['Monitor'])}"
    yield f" Max failure ratio: {policy.get('MaxFailureRatio', 0)}"
    yield f" {heading.removesuffix('Config')} order:      {policy.get('Order') or 'stop-first'}"


def _container_lines(container: Json) -> Iterator[str]:
    yield "ContainerSpec:"
    yield from _field("Image", container.get("Image"))
    yield from _field("Command", " ".join(container.get("Command") or ()))
    yield from _field("Args", " ".join(container.get("Args") or ()))
    yield from _field("Env", " ".join(container.get("Env") or ()))
    yield from _field("Dir", container.get("Dir"))
    yield from _field("User", container.get("User"))
    yield from _field("Init", str(container["Init"]).lower() if container.get("Init") is not None else "")
    if container.get("Mounts"):
        yield "Mounts:"
    for mount in container.get("Mounts") or ():
        yield f" Target:\t{mount.get('Target', '')}"
        yield from (
            f"  {name}:\t{mount[key]}" for name, key in (("Source", "Source"), ("Type", "Type")) if mount.get(key)
        )
        yield f"  ReadOnly:\t{str(bool(mount.get('ReadOnly'))).lower()}"
    for kind in ("Secret", "Config"):
        references = container.get(f"{kind}s") or ()
        if references:
            yield f"{kind}s:"
        for reference in references:
            yield f" Target:\t{(reference.get('File') or {}).get('Name', '')}"
            yield f"  Source:\t{reference.get(f'{kind}Name', '')}"


def _resource_lines(resources: Json) -> Iterator[str]:
    if not any(resources.values()):
        return
    yield "Resources:"
    for name in ("Reservations", "Limits"):
        amounts = resources.get(name) or {}
        if amounts:
            yield f" {name}:"
        if amounts.get("NanoCPUs"):
            yield f"  CPU:\t\t{amounts['NanoCPUs'] / 1e9:g}"
        if amounts.get("MemoryBytes"):
            yield f"  Memory:\t{amounts['MemoryBytes'] / GIB:.4g}GiB"
        if amounts.get("Pids"):
            yield f"  Pids:\t\t{amounts['Pids']}"


def name_networks(service: Json, names: Mapping[str, str]) -> Json:
    """The service with its networks by name. Args: names: By id."""
    task = service["Spec"]["TaskTemplate"]
    networks = [{**each, "Target": names.get(each["Target"], each["Target"])} for each in task.get("Networks") or ()]
    return {**service, "Spec": {**service["Spec"], "TaskTemplate": {**task, "Networks": networks}}}
