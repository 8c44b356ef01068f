"""The secrets and configs of a task: fetched from a manager, filled in, put into memory, named as mounts.

Edge: asyncio; the node's memory files and the session. Values pass through here and stay nowhere else: not in the
assignment set, not in the task's record, not in a log.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skep.agent.host import Host
from skep.agent.waiting import unless
from skep.core import templates
from skep.model.errors import InvalidSpec
from skep.model.service import ConfigReference, ContainerSpec, FileTarget, SecretReference
from skep.model.session import FileKind, FileWanted
from skep.model.task import Task
from skep.ports.files import FilesFailure, PrivateFile
from skep.ports.runtime import FileMount

SECRETS_DIR = "/run/secrets"
GOLANG = "golang"
PERMISSIONS = 0o777


@dataclass(frozen=True, slots=True)
class _Reference:
    """One secret or config as its service names it. Attributes: target: as the user wrote it."""

    kind: FileKind
    id: str
    name: str
    target: FileTarget

    @property
    def path(self) -> str:
        """Where it appears in the container."""
        if self.target.name.startswith("/"):
            return self.target.name
        return f"{SECRETS_DIR}/{self.target.name}" if self.kind is FileKind.SECRET else f"/{self.target.name}"


def references(spec: ContainerSpec) -> Sequence[_Reference]:
    """What of a container's secrets and configs becomes a file."""
    pairs: list[_Reference] = []
    for reference in [*(spec.secrets or ()), *(spec.configs or ())]:
        if reference.file is not None:
            pairs.append(_Reference(*_identity(reference), target=reference.file))
    return pairs


def _identity(reference: SecretReference | ConfigReference) -> tuple[FileKind, str, str]:
    if isinstance(reference, SecretReference):
        return FileKind.SECRET, reference.secret_id, reference.secret_name
    return FileKind.CONFIG, reference.config_id, reference.config_name


async def supply(host: Host, task: Task, spec: ContainerSpec, stop_wanted: asyncio.Event) -> Sequence[FileMount]:
    """Have a task's secrets and configs in memory; returns what to mount.

    Args:
        spec: With its own templates filled in.
    Raises:
        Interrupted: A stop is wanted. InvalidSpec: One of them is refused, or its template cannot be filled in.
        FilesFailure: This node cannot keep them.
    """
    wanted = references(spec)
    if not wanted:
        return ()
    if host.files is None:
        raise FilesFailure("this node has no memory file system for secrets and configs; remove them from the service")
    contents: dict[_Reference, bytes] = {}
    templated: list[_Reference] = []
    for reference in wanted:
        question = FileWanted(task_id=task.id, kind=reference.kind, file_id=reference.id)
        sent = await unless(stop_wanted, host.wants.fetch(question))
        contents[reference] = sent.payload
        if sent.templating == GOLANG:
            templated.append(reference)
    filled = {each: _fill_in(each, contents, templates.fields(task, host.node), spec) for each in templated}
    files = [_private_file(each, str(number), (contents | filled)[each]) for number, each in enumerate(wanted)]
    paths = await asyncio.to_thread(host.files.place, task.id, files)
    return [FileMount(source=path, target=each.path) for path, each in zip(paths, wanted, strict=True)]


def _fill_in(
    reference: _Reference,
    contents: Mapping[_Reference, bytes],
    values: Mapping[str, templates.Value],
    spec: ContainerSpec,
) -> bytes:
    """A template's text, with the task's own secrets, configs and environment at hand, as in SwarmKit."""
    what = f"{reference.kind} {reference.name}"
    try:
        text = contents[reference].decode()
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"expanding {what} failed: a template must be UTF-8 text") from error

    def look_up(kind: FileKind, target: str) -> str:
        for other, content in contents.items():
            if other.kind is kind and other.target.name == target:
                return content.decode(errors="replace")
        raise InvalidSpec(f"{kind} target {target} not found")

    environment = dict(entry.partition("=")[::2] for entry in spec.env or ())
    functions: Mapping[str, templates.Function] = {
        "secret": lambda target: look_up(FileKind.SECRET, target),
        "config": lambda target: look_up(FileKind.CONFIG, target),
        "env": lambda name: environment.get(name, ""),
    }
    try:
        return templates.expand(text, values, functions, label=what).encode()
    except InvalidSpec as error:
        if reference.kind is FileKind.SECRET:  # The reason quotes the action at fault, which is part of the secret.
            raise InvalidSpec(f"expanding {what} failed: an action in its template cannot be carried out") from None
        raise InvalidSpec(f"expanding {what} failed: {error}") from error


def _private_file(reference: _Reference, name: str, content: bytes) -> PrivateFile:
    target = reference.target
    try:
        uid, gid = int(target.uid or "0"), int(target.gid or "0")
    except ValueError as error:
        raise InvalidSpec(f"{reference.kind} {reference.name}: uid and gid must be numbers") from error
    return PrivateFile(name=name, content=content, uid=uid, gid=gid, mode=target.mode & PERMISSIONS)
