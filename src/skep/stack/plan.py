"""What a deployment would do: created, changed field by field, removed.

Pure. Both sides are held as Docker's JSON after a pass through the model, so that a default that was sent and one that
was left out are equal, and lists whose order means nothing are sorted.
"""

from collections.abc import Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from skep.model.service import ServiceSpec
from skep.stack.compose import ComposeFile, Project
from skep.stack.convert import Ids, file_body, full_name, network_body, service_spec
from skep.stack.labels import IMAGE, NAMESPACE

Json = dict[str, Any]
KINDS: Final = ("network", "secret", "config", "service")
UNORDERED: Final = {"Env", "Networks", "Aliases", "Ports", "Mounts", "Secrets", "Configs"}


@dataclass(frozen=True, slots=True)
class Current:
    """What the swarm has, as the API answers. Attributes: each by full name; `services` only this stack's."""

    services: Map[str, Json] = field(default_factory=dict)
    networks: Map[str, Json] = field(default_factory=dict)
    secrets: Map[str, Json] = field(default_factory=dict)
    configs: Map[str, Json] = field(default_factory=dict)

    def of_stack(self, kind: str, stack: str) -> dict[str, Json]:
        """The objects of a kind that carry the stack's label."""
        found = {"network": self.networks, "secret": self.secrets, "config": self.configs, "service": self.services}
        return {name: object for name, object in found[kind].items() if _labels(object).get(NAMESPACE) == stack}

    def ids(self) -> Ids:
        return Ids(
            networks={name: n["Id"] for name, n in self.networks.items()},
            secrets={name: s["ID"] for name, s in self.secrets.items()},
            configs={name: c["ID"] for name, c in self.configs.items()},
        )


def _labels(object: Json) -> Map[str, str]:
    return (object.get("Spec") or object).get("Labels") or {}


@dataclass(frozen=True, slots=True)
class Difference:
    """Attributes: field: such as `TaskTemplate.ContainerSpec.Env[COLOUR]`; before, after: None for not there."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        verb: create, update, remove, or keep.
        key: A service's name in the file; empty for what is not in it.
        body: What is sent for create; for an update of a service, its spec.
        current: What there is now; empty for create.
    """

    verb: str
    kind: str
    name: str
    key: str = ""
    body: Json = field(default_factory=dict)
    current: Json = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class StackPlan:
    """Attributes: problems: sentences about what stands in the way; nothing is done while there is one."""

    stack: str
    steps: tuple[Step, ...]
    problems: tuple[str, ...] = ()

    def of(self, kind: str, *verbs: str) -> list[Step]:
        return [step for step in self.steps if step.kind == kind and (not verbs or step.verb in verbs)]

    @property
    def changes(self) -> list[Step]:
        return [step for step in self.steps if step.verb != "keep"]


def plan(stack: str, project: Project, current: Current, *, is_pruning: bool = False) -> StackPlan:
    """Compare a project with what there is."""
    problems: list[str] = []
    steps = [*_networks(stack, project, current, problems)]
    steps += _files(stack, project.secrets, "secret", current.secrets, problems)
    steps += _files(stack, project.configs, "config", current.configs, problems)
    steps += _services(stack, project, current)
    if is_pruning:
        wanted = {step.name for step in steps}
        steps += [
            Step("remove", "service", name, current=service)
            for name, service in sorted(current.of_stack("service", stack).items())
            if name not in wanted
        ]
    return StackPlan(stack, tuple(steps), tuple(problems))


def removal(stack: str, current: Current) -> StackPlan:
    """Everything of a stack, in the order in which it can go."""
    steps = [
        Step("remove", kind, name, current=object)
        for kind in ("service", "secret", "config", "network")
        for name, object in sorted(current.of_stack(kind, stack).items())
    ]
    return StackPlan(stack, tuple(steps))


def _networks(stack: str, project: Project, current: Current, problems: list[str]) -> Iterator[Step]:
    used = {use.network for service in project.services.values() for use in service.networks}
    if any(not service.networks for service in project.services.values()):
        used.add("default")
    for key, network in project.networks.items():
        name = full_name(stack, network)
        found = current.networks.get(name)
        if network.is_external:
            if found is None:
                problems.append(f'the external network "{name}" ({network.place}) is not there; create it first')
            elif found.get("Scope") != "swarm":
                problems.append(
                    f'the external network "{name}" ({network.place}) is of one node; services need an overlay'
                )
        elif found is None and key in used:
            yield Step("create", "network", name, key, network_body(stack, network))
        elif found is not None:
            yield Step("keep", "network", name, key, current=found)


def _files(
    stack: str, files: Map[str, ComposeFile], kind: str, current: Map[str, Json], problems: list[str]
) -> Iterator[Step]:
    for key, file in files.items():
        name = full_name(stack, file)
        found = current.get(name)
        if file.is_external:
            if found is None:
                problems.append(f'the external {kind} "{name}" ({file.place}) is not there; create it first')
            continue
        body = file_body(stack, file)
        if found is None:
            yield Step("create", kind, name, key, body)
            continue
        if kind == "config" and found["Spec"].get("Data", "") != body["Data"]:
            problems.append(
                f'the content of config "{name}" ({file.place}) has changed, and a config never changes; give it a new '
                "`name:`"
            )
        differences = tuple(_compared("Labels", found["Spec"].get("Labels") or {}, body["Labels"]))
        yield Step("update" if differences else "keep", kind, name, key, body, found, differences)


def _services(stack: str, project: Project, current: Current) -> Iterator[Step]:
    ids = current.ids()
    for key, service in project.services.items():
        wanted = service_spec(stack, project, service, ids)
        found = current.services.get(wanted.name)
        if found is None:
            yield Step("create", "service", wanted.name, key, to_json(wanted))
            continue
        body = carried_over(to_json(wanted), found["Spec"])
        differences = tuple(compare(found["Spec"], body))
        yield Step("update" if differences else "keep", "service", wanted.name, key, body, found, differences)


def to_json(spec: ServiceSpec) -> Json:
    return dict(msgspec.to_builtins(spec))


def carried_over(body: Json, old: Json) -> Json:
    """A new spec with what the swarm added to the old: a forced update's count, the digest an image was pinned to."""
    task, old_task = body["TaskTemplate"], old.get("TaskTemplate") or {}
    task["ForceUpdate"] = old_task.get("ForceUpdate") or 0
    old_image = (old_task.get("ContainerSpec") or {}).get("Image", "")
    if (old.get("Labels") or {}).get(IMAGE) == body["Labels"][IMAGE] and "@" in old_image:
        task["ContainerSpec"]["Image"] = old_image
    return body


def compare(old: Json, new: Json) -> Iterator[Difference]:
    """Differences of two services' specs, field by field, in the order of the fields."""
    yield from _compared("", _normal(_as_model(old)), _normal(_as_model(new)))


def _as_model(spec: Json) -> Json:
    return to_json(msgspec.convert(_without_nulls(spec), ServiceSpec, strict=False))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _normal(value: Any, name: str = "") -> Any:
    """Empty parts left out, lists without order as mappings by what names their items."""
    if isinstance(value, dict):
        inner = {key: _normal(item, key) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item not in (None, "", [], {})}
    if not isinstance(value, list):
        return value
    if name not in UNORDERED:
        return [_normal(item) for item in value]
    return {_name_of(item, name): _normal(item) for item in value}


def _name_of(item: Any, name: str) -> str:
    match name:
        case "Env":
            return str(item).partition("=")[0]
        case "Networks" | "Mounts":
            return str(item["Target"])
        case "Ports":
            published = item.get("PublishedPort", 0)
            return f"{published}:{item['TargetPort']}/{item['Protocol']}"
        case "Secrets" | "Configs":
            return str((item.get("File") or {}).get("Name") or item)
        case _:
            return str(item)


def _compared(path: str, old: Any, new: Any, *, is_item: bool = False) -> Iterator[Difference]:
    """Go down to the fields that differ; an item of a list that came or went is told whole."""
    old_inner, new_inner = ({} if value is None and not is_item else value for value in (old, new))
    if not (isinstance(old_inner, dict) and isinstance(new_inner, dict)) or old == new:
        if old != new:
            yield Difference(path, old, new)
        return
    are_items = path.rpartition(".")[2] in UNORDERED
    for key in [*old_inner, *(key for key in new_inner if key not in old_inner)]:
        inner = f"{path}.{key}" if path else key
        yield from _compared(inner, old_inner.get(key), new_inner.get(key), is_item=are_items)
