"""What can be refused about a container before any node sees it.

Pure. Source: swarmkit/manager/controlapi/service.go (validateContainerSpec and its helpers), also for the sentences;
distribution/reference for image names.
"""

import posixpath
import re
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from skep.core import templates
from skep.lib.durations import MILLISECOND
from skep.model.errors import InvalidSpec, Unsupported
from skep.model.secret import VERSION_OF, Config, Secret
from skep.model.service import ConfigReference, ContainerSpec, FileTarget, Healthcheck, Mount, SecretReference, TaskSpec
from skep.model.task import Task
from skep.store.state import View

_DOMAIN = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::\d+)?"
_PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
IMAGE: Final = re.compile(
    rf"(?:(?:{_DOMAIN}|\[[a-fA-F0-9:]+\](?::\d+)?)/)?{_PATH}(?:/{_PATH})*"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
BARE_DIGEST: Final = re.compile(r"[a-f0-9]{64}")
MOUNT_TYPES: Final = ("bind", "volume", "tmpfs")
MAX_HOSTNAME: Final = 63
CAPABILITY: Final = re.compile(r"(?:CAP_)?[A-Z_]+|ALL")


def check_container(view: View, spec: ContainerSpec) -> None:
    """Check a container's image, mounts, health check, files and templates.

    Raises:
        InvalidSpec, Unsupported.
    """
    check_image(spec.image)
    _check_mounts(spec.mounts or [])
    _check_environment(spec.env or [])
    if spec.healthcheck:
        _check_health(spec.healthcheck)
    if (spec.stop_grace_period or 0) < 0:
        raise InvalidSpec("ContainerSpec: stop grace period cannot be negative")
    _check_files("secret", spec.secrets or [], view.secrets.get)
    _check_files("config", spec.configs or [], view.configs.get)
    for name in (*(spec.capability_add or []), *(spec.capability_drop or [])):
        if not CAPABILITY.fullmatch(name):
            raise InvalidSpec(f'invalid CapabilityAdd or CapabilityDrop: unknown capability: "{name}"')
    _check_templates(spec)


def check_image(image: str) -> None:
    """Check an image reference.

    Raises:
        InvalidSpec.
    """
    if not image:
        raise InvalidSpec("ContainerSpec: image reference must be provided")
    if not IMAGE.fullmatch(image) or BARE_DIGEST.fullmatch(image):
        raise InvalidSpec(f'ContainerSpec: "{image}" is not a valid repository/tag')


def _check_environment(env: Iterable[str]) -> None:
    for entry in env:
        if not entry.partition("=")[0]:
            raise InvalidSpec(f"invalid environment variable: {entry}")


def _check_mounts(mounts: Iterable[Mount]) -> None:
    targets: set[str] = set()
    for mount in mounts:
        if mount.type not in MOUNT_TYPES:
            raise Unsupported(f"mounts of type {mount.type} are not possible; use bind, volume or tmpfs")
        if not mount.target:
            raise InvalidSpec(f'invalid mount config for type "{mount.type}": field Target must not be empty')
        if not posixpath.isabs(mount.target) and "{{" not in mount.target:
            raise InvalidSpec(f"invalid mount target, must be an absolute path: {mount.target}")
        target = posixpath.normpath(mount.target)
        if target == "/":
            raise InvalidSpec("invalid specification: destination can't be '/'")
        if target in targets:
            raise InvalidSpec(f"ContainerSpec: duplicate mount point: {mount.target}")
        targets.add(target)
        _check_source(mount)


def _check_source(mount: Mount) -> None:
    if mount.type == "bind":
        if not mount.source:
            raise InvalidSpec('invalid mount config for type "bind": field Source must not be empty')
        if not posixpath.isabs(mount.source) and "{{" not in mount.source:
            raise InvalidSpec(f"invalid bind mount source, must be an absolute path: {mount.source}")
    elif mount.type == "volume" and posixpath.isabs(mount.source):
        raise InvalidSpec(f"invalid volume mount source, must not be an absolute path: {mount.source}")
    elif mount.type == "tmpfs" and mount.source:
        raise InvalidSpec("invalid tmpfs source, source must be empty")
    foreign = {
        "BindOptions": mount.bind_options if mount.type != "bind" else None,
        "VolumeOptions": mount.volume_options if mount.type != "volume" else None,
        "TmpfsOptions": mount.tmpfs_options if mount.type != "tmpfs" else None,
    }
    for field, value in foreign.items():
        if value is not None:
            raise InvalidSpec(f'invalid mount config for type "{mount.type}": field {field} must not be specified')
    if mount.tmpfs_options and mount.tmpfs_options.size_bytes < 0:
        raise InvalidSpec('invalid mount config for type "tmpfs": size cannot be negative')


def _check_health(health: Healthcheck) -> None:
    lengths = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, length in lengths.items():
        if length and length < MILLISECOND:
            raise InvalidSpec(f"ContainerSpec: {name} in HealthConfig cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidSpec("ContainerSpec: Retries in HealthConfig cannot be negative")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL", ""):
        raise InvalidSpec(f"ContainerSpec: unknown type of health check '{health.test[0]}'; use NONE, CMD or CMD-SHELL")


def _check_files(
    kind: str,
    references: Iterable[SecretReference] | Iterable[ConfigReference],
    find: Callable[[str], Secret | Config | None],
) -> None:
    """Each reference names an object that exists, and no two appear at the same place."""
    used: dict[Hashable, str] = {}
    for reference in references:
        if isinstance(reference, SecretReference):
            id, name = reference.secret_id, reference.secret_name
        else:
            id, name = reference.config_id, reference.config_name
        if not id or not name:
            raise InvalidSpec(f"malformed {kind} reference")
        found = find(id)
        if found is None or name not in (found.spec.name, found.spec.labels.get(VERSION_OF)):
            raise InvalidSpec(f"{kind} not found: {name}")
        target = _target(kind, reference.file)
        if target is None:
            continue
        if target in used:
            raise InvalidSpec(f"{kind} references '{used[target]}' and '{name}' have a conflicting target: '{target}'")
        used[target] = name


def _target(kind: str, file: FileTarget | None) -> str | None:
    """Where a file appears, relative to its kind's own directory; None for a config that is no file."""
    if file is None:
        if kind == "secret":
            raise InvalidSpec("malformed file secret reference, no file target provided")
        return None
    if not file.name:
        raise InvalidSpec(f"malformed file {kind} reference, no file target name provided")
    target = posixpath.normpath(file.name)
    if target.startswith("..") or (kind == "secret" and target == "."):
        raise InvalidSpec(f"malformed file {kind} reference, target {file.name} leads out of its directory")
    return target


def _check_templates(spec: ContainerSpec) -> None:
    """Fill the templates in for a made-up task: what fails now would fail on every node."""
    task = Task(id="task", service_id="service", service_name="service", slot=1, spec=TaskSpec(container_spec=spec))
    expanded = templates.expand_container(spec, task, templates.NodeNames("node", "node"))
    if "{{" not in spec.hostname and len(expanded.hostname) > MAX_HOSTNAME:
        raise InvalidSpec(f"ContainerSpec: hostname {spec.hostname} is longer than {MAX_HOSTNAME} characters")
