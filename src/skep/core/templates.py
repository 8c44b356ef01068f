"""Fill in `{{.Node.Hostname}}`, `{{.Task.Slot}}` and their like in a container's hostname, environment and mounts.

Pure. The part of Go's text/template that Docker documents for services: fields, `index` on labels, and pipes into
`lower`, `upper`, `title` and `json`. Anything else is refused with a sentence, never passed through half filled in.
Source: swarmkit/template/context.go and expand.go.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from skep.model.base import Labels
from skep.model.errors import InvalidSpec
from skep.model.service import ContainerSpec, DriverConfig, Mount, VolumeOptions
from skep.model.task import Task

ACTION = re.compile(r"(?:\s*\{\{-(?=\s))|\{\{|(?:(?<=\s)-\}\}\s*)|\}\}")
FIELD = re.compile(r"(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
INDEX = re.compile(r'index\s+((?:\.[A-Za-z_][A-Za-z0-9_]*)+)\s+"((?:[^"\\]|\\.)*)"')

CALL = re.compile(r'([a-z]+)\s+"((?:[^"\\]|\\.)*)"')

Value = str | Mapping[str, "Value"]
Function = Callable[[str], str]
NO_FUNCTIONS: Mapping[str, Function] = {}


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


PIPES: Mapping[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper, "title": str.title, "json": _json}


@dataclass(frozen=True, slots=True)
class NodeNames:
    """What templates may say of the node a task runs on."""

    node_id: str
    hostname: str
    os: str = "linux"
    architecture: str = ""


def fields(task: Task, node: NodeNames) -> Mapping[str, Value]:
    """Everything a template may name. The slot of a global service's task is its node's id."""
    return {
        "Service": {"ID": task.service_id, "Name": task.service_name, "Labels": dict(task.service_labels)},
        "Node": {
            "ID": node.node_id,
            "Hostname": node.hostname,
            "Platform": {"OS": node.os, "Architecture": node.architecture},
        },
        "Task": {"ID": task.id, "Name": task.name, "Slot": str(task.slot) if task.slot else task.node_id},
    }


def expand(
    text: str, values: Mapping[str, Value], functions: Mapping[str, Function] = NO_FUNCTIONS, *, label: str = ""
) -> str:
    """Fill in one text.

    Args:
        functions: Further actions of one text each, such as `{{secret "target"}}`.
        label: What to call the template where something is wrong; empty quotes it whole.
    Raises:
        InvalidSpec: An action is unknown, unclosed or names nothing.
    """
    if "{{" not in text:
        return text
    context = _Context(values, functions, label or text)
    parts: list[str] = []
    position = 0
    while (opening := ACTION.search(text, position)) is not None:
        if "}}" in opening.group():  # A closing brace pair outside an action is plain text.
            parts.append(text[position : opening.end()])
            position = opening.end()
            continue
        closing = ACTION.search(text, opening.end())
        if closing is None or "}}" not in closing.group():
            raise InvalidSpec(f'template "{context.text}" has an unclosed action: end it with "}}}}"')
        parts.append(text[position : opening.start()])
        parts.append(_evaluate(text[opening.end() : closing.start()].strip(), context))
        position = closing.end()
    parts.append(text[position:])
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Context:
    """What an action may name. Attributes: text: the template or its name, for messages."""

    values: Mapping[str, Value]
    functions: Mapping[str, Function]
    text: str


def _evaluate(action: str, context: _Context) -> str:
    values, text = context.values, context.text
    if action.startswith("/*") and action.endswith("*/"):
        return ""
    source, *pipes = (part.strip() for part in action.split("|"))
    if FIELD.fullmatch(source):
        value = _look_up(source, values, text)
    elif index := INDEX.fullmatch(source):
        labels = _look_up(index[1], values, text)
        if isinstance(labels, str):
            raise InvalidSpec(f'template "{text}" cannot index {index[1]}: it is a text, not labels')
        value = labels.get(re.sub(r"\\(.)", r"\1", index[2]), "")
    elif (call := CALL.fullmatch(source)) and call[1] in context.functions:
        value = context.functions[call[1]](re.sub(r"\\(.)", r"\1", call[2]))
    else:
        raise InvalidSpec(f'template "{text}" has an unknown action "{action}": use a field like {{{{.Task.Slot}}}}')
    if not isinstance(value, str):
        raise InvalidSpec(f'template "{text}" names "{source}", which is not a text: name one of its parts')
    for pipe in pipes:
        if pipe not in PIPES:
            raise InvalidSpec(f'template "{text}" has an unknown function "{pipe}": use one of {", ".join(PIPES)}')
        value = PIPES[pipe](value)
    return value


def _look_up(path: str, values: Mapping[str, Value], text: str) -> Value:
    value: Value = values
    steps = path.split(".")[1:]
    for depth, step in enumerate(steps):
        if isinstance(value, str) or step not in value:
            if steps[:2] == ["Service", "Labels"] and depth == 2 and len(steps) == 3:
                return ""  # As Go: a key a map lacks is its zero value.
            raise InvalidSpec(f'template "{text}" names "{path}", which does not exist')
        value = value[step]
    return value


def expand_container(spec: ContainerSpec, task: Task, node: NodeNames) -> ContainerSpec:
    """Fill in a container's hostname, environment and mounts.

    Raises:
        InvalidSpec: naming the part that cannot be filled in.
    """
    values = fields(task, node)
    return msgspec.structs.replace(
        spec,
        hostname=_named("hostname", spec.hostname, values),
        env=[_named("env", entry, values) for entry in spec.env] if spec.env else spec.env,
        mounts=[_expand_mount(mount, values) for mount in spec.mounts] if spec.mounts else spec.mounts,
    )


def _named(part: str, text: str, values: Mapping[str, Value]) -> str:
    try:
        return expand(text, values)
    except InvalidSpec as error:
        raise InvalidSpec(f"expanding {part} failed: {error}") from error


def _expand_mount(mount: Mount, values: Mapping[str, Value]) -> Mount:
    options = mount.volume_options
    return msgspec.structs.replace(
        mount,
        source=_named("mount source", mount.source, values),
        target=_named("mount target", mount.target, values),
        volume_options=_expand_volume(options, values) if options else None,
    )


def _expand_volume(options: VolumeOptions, values: Mapping[str, Value]) -> VolumeOptions:
    driver = options.driver_config
    if driver is not None:
        driver = DriverConfig(name=driver.name, options=_expand_labels(driver.options, values))
    return msgspec.structs.replace(
        options,
        labels=_expand_labels(options.labels, values),
        driver_config=driver,
    )


def _expand_labels(labels: Labels | None, values: Mapping[str, Value]) -> Labels | None:
    return {key: _named("mount", text, values) for key, text in labels.items()} if labels is not None else None
