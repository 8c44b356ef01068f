"""Compose files to a `Project`: read, filled in, extended, merged, checked as a whole.

Pure. Files come through an injected reader, variables as a value. Relative paths mean the directory of the first file,
and in files that `extends` names, their own.
Source: Compose specification, 03-compose-file.md, 13-merge.md, 15-profiles.md.
"""

import graphlib
import posixpath
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

from skep.stack import document, merge, resources
from skep.stack.compose import ComposeNetwork, ComposeService, Project
from skep.stack.dotenv import parse_env
from skep.stack.environment import Environment
from skep.stack.errors import ComposeError, UnreadableFile, joined
from skep.stack.interpolate import Interpolation
from skep.stack.nodes import Mapping, Node, Place, Scalar, Sequence
from skep.stack.reading import Reading, items, mapping, text, texts
from skep.stack.service import read_service
from skep.stack.storage import Storage

SECTIONS: Final = {"name", "version", "services", "networks", "volumes", "secrets", "configs"}
DEFAULT: Final = "default"
MAX_NODES: Final = 40_000
MAX_FILES: Final = 50


@dataclass(frozen=True, slots=True)
class Source:
    """What a project is read from.

    Attributes:
        files: Paths as the user gave them, in the order in which they are laid over each other.
        directory: Absolute; what relative paths in the files mean.
        read: A file's bytes by path; raises UnreadableFile.
        profiles: Which services with `profiles:` take part, `*` for all.
    """

    files: tuple[str, ...]
    directory: str
    read: Callable[[str], bytes]
    variables: Map[str, str]
    profiles: frozenset[str] = frozenset()


def load(source: Source) -> Project:
    """Read a project.

    Raises:
        ComposeError: With file and line, whatever is wrong.
    """
    return _Loader(replace(source, variables=_with_dotenv(source))).project()


def _with_dotenv(source: Source) -> dict[str, str]:
    """The caller's variables over those of `.env`, if there is one."""
    path = posixpath.join(source.directory, ".env")
    try:
        content = source.read(path)
    except UnreadableFile:
        return dict(source.variables)
    found = parse_env(content, ".env", source.variables)
    return {name: value for name, value in found.items() if value is not None} | dict(source.variables)


class _Loader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.interpolation = Interpolation(source.variables)
        self.seen = Reading()
        self.directories: dict[str, str] = {}
        self.trees: dict[str, Mapping] = {}
        self.wholes: dict[str, Mapping] = {}

    def project(self) -> Project:
        tree = self._merged()
        sections = self.seen.known(tree, "a Compose file", SECTIONS)
        services = self._services(tree, sections)
        contents = resources.Contents(self._content, self.source.variables)
        found = Project(
            name=text(sections["name"]) if "name" in sections else "",
            tree=tree,
            services=services,
            networks={k: resources.read_network(self.seen, k, n) for k, n in _entries(sections, "networks")},
            volumes={k: resources.read_volume(self.seen, k, n) for k, n in _entries(sections, "volumes")},
            secrets={
                k: resources.read_file(self.seen, k, n, "secret", contents) for k, n in _entries(sections, "secrets")
            },
            configs={
                k: resources.read_file(self.seen, k, n, "config", contents) for k, n in _entries(sections, "configs")
            },
        )
        found = _with_default_network(found)
        problems = [*self.seen.unknown, *_dangling(found)]
        if problems:
            raise joined(problems)
        return replace(found, notes=(*self._missing(), *self.seen.notes))

    def _missing(self) -> Iterator[str]:
        for name, place in self.interpolation.missing.items():
            yield f"{place}: the variable {name} is not set and reads as empty"

    # --- trees ---------------------------------------------------------------

    def _merged(self) -> Mapping:
        if not self.source.files:
            raise ComposeError(None, "there is no Compose file; name one with -c")
        resolved: list[Node] = []
        for path in self.source.files:
            resolved.append(self._whole(self._tree(path, self.source.directory, None), ()))
            _check_size(resolved[-1])
        resolved[0] = merge.without_resets(resolved[0])
        merged = mapping(merge.without_resets(reduce(merge.merge, resolved)), "a Compose file")
        _check_size(merged)
        return merged

    def _whole(self, tree: Mapping, chain: tuple[str, ...]) -> Mapping:
        """A file's tree with what it includes below it, and no `extends` left."""
        if tree.place.file in self.wholes:
            return self.wholes[tree.place.file]
        if tree.place.file in chain:
            raise ComposeError(tree.place, f"this file includes itself: {' -> '.join(chain)}")
        own = merge.Extension(self._extended).resolved(tree)
        include = own.entries.get("include")
        if include is None:
            self.wholes[tree.place.file] = own
            return own
        below: Node = Mapping({}, tree.place)
        for named in self._included(include):
            included = self._whole(self._extended(named.text, named), (*chain, tree.place.file))
            below = merge.merge(below, included)
            _check_size(below)
        rest = own.with_entries({key: value for key, value in own.entries.items() if key != "include"})
        self.wholes[tree.place.file] = mapping(merge.merge(below, rest), "a Compose file")
        return self.wholes[tree.place.file]

    def _included(self, include: Node) -> Iterator[Scalar]:
        for item in items(include):
            paths = self.seen.known(item, "`include`", {"path"}).get("path") if isinstance(item, Mapping) else item
            for path in items(paths) if paths else ():
                if not isinstance(path, Scalar):
                    raise ComposeError(path.place, "`include` takes paths of Compose files")
                yield path

    def _tree(self, path: str, directory: str, named: Scalar | None) -> Mapping:
        if path in self.trees:
            return self.trees[path]
        if len(self.trees) >= MAX_FILES:
            raise ComposeError(named.place if named else None, f"there are more than {MAX_FILES} files")
        try:
            content = self.source.read(path)
        except UnreadableFile as error:
            raise ComposeError(named.place if named else Place(path, 0), f"{path} cannot be read: {error}") from error
        self.directories[path] = directory
        filled = self.interpolation.tree(document.compose(content, path))
        self.trees[path] = mapping(filled, "a Compose file")
        return self.trees[path]

    def _extended(self, written: str, named: Scalar) -> Mapping:
        path = self._absolute(written, named)
        return self._tree(path, posixpath.dirname(path), named)

    # --- paths ---------------------------------------------------------------

    def _absolute(self, written: str, node: Node) -> str:
        if "\0" in written:
            raise ComposeError(node.place, "a path cannot hold a zero byte")
        if written == "~" or written.startswith("~/"):
            written = self.source.variables.get("HOME", "/root") + written[1:]
        directory = self.directories.get(node.place.file, self.source.directory)
        return posixpath.normpath(posixpath.join(directory, written))

    def _content(self, node: Scalar) -> bytes:
        try:
            return self.source.read(self._absolute(node.text, node))
        except UnreadableFile as error:
            raise ComposeError(node.place, f'"{node.text[:200]}" cannot be read: {error}') from error

    def _maybe_content(self, node: Scalar) -> bytes | None:
        try:
            return self.source.read(self._absolute(node.text, node))
        except UnreadableFile:
            return None

    # --- services --------------------------------------------------------------

    def _services(self, tree: Mapping, sections: Map[str, Node]) -> dict[str, ComposeService]:
        environment = Environment(self.source.variables, self._maybe_content)
        storage = Storage(self._absolute)
        if "services" not in sections:
            raise ComposeError(tree.place, "the file has no services")
        found: dict[str, ComposeService] = {}
        inactive: set[str] = set()
        for name, node in _entries(sections, "services"):
            if not self._is_active(node):
                inactive.add(name)
                continue
            found[name] = read_service(self.seen, name, node, environment, storage)
        return {name: _without(service, inactive) for name, service in found.items()}

    def _is_active(self, node: Node) -> bool:
        profiles = mapping(node, "a service").entries.get("profiles")
        wanted = set(texts(profiles)) if profiles else set()
        return not wanted or "*" in self.source.profiles or bool(wanted & self.source.profiles)


def _entries(sections: Map[str, Node], section: str) -> Iterator[tuple[str, Node]]:
    if section in sections:
        yield from mapping(sections[section], f"`{section}`").entries.items()


def _check_size(root: Node) -> None:
    """Refuse a tree that has grown too large: services that extend each other share what they were written with."""
    waiting, n_nodes = [root], 0
    while waiting:
        node = waiting.pop()
        n_nodes += 1
        if n_nodes > MAX_NODES:
            raise ComposeError(node.place, f"the files hold more than {MAX_NODES} values once they are merged")
        match node:
            case Mapping():
                waiting.extend(node.entries.values())
            case Sequence():
                waiting.extend(node.items)


def _without(service: ComposeService, inactive: set[str]) -> ComposeService:
    """A service that does not wait for optional ones whose profile is not active."""
    kept = tuple(d for d in service.depends_on if d.is_required or d.service not in inactive)
    return replace(service, depends_on=kept)


def _with_default_network(project: Project) -> Project:
    uses_default = any(
        not service.networks or DEFAULT in {use.network for use in service.networks}
        for service in project.services.values()
    )
    if DEFAULT in project.networks or not uses_default:
        return project
    return replace(project, networks={**project.networks, DEFAULT: ComposeNetwork(DEFAULT, project.tree.place)})


def _dangling(project: Project) -> Iterator[ComposeError]:
    """Everything that refers to what is not there."""
    for service in project.services.values():
        for network in service.networks:
            if network.network not in project.networks:
                yield ComposeError(network.place, f'there is no network "{network.network}" in `networks`')
        for kind, uses, known in (
            ("secret", service.secrets, project.secrets),
            ("config", service.configs, project.configs),
        ):
            for use in uses:
                if use.source not in known:
                    yield ComposeError(use.place, f'there is no {kind} "{use.source}" in `{kind}s`')
        for mount in service.mounts:
            source = mount.mount.source
            if mount.mount.type == "volume" and source and source not in project.volumes:
                yield ComposeError(mount.place, f'there is no volume "{source}" in `volumes`')
    yield from _unordered(project)


def _unordered(project: Project) -> Iterator[ComposeError]:
    for service in project.services.values():
        for dependency in service.depends_on:
            if dependency.service not in project.services:
                sentence = f'{service.name} depends on "{dependency.service}", which is not among the services'
                yield ComposeError(dependency.place, sentence)
    try:
        start_order(project.services)
    except ComposeError as error:
        yield error


def start_order(services: Map[str, ComposeService]) -> list[list[str]]:
    """Services in waves: each depends only on those of waves before it. Names are sorted within a wave.

    Raises:
        ComposeError: Services depend on each other in a circle.
    """
    order = graphlib.TopologicalSorter(
        {name: {d.service for d in service.depends_on if d.service in services} for name, service in services.items()}
    )
    try:
        order.prepare()
    except graphlib.CycleError as error:
        circle: list[str] = error.args[1]
        first = services[circle[0]]
        raise ComposeError(first.place, f"these services wait for each other: {', '.join(circle)}") from error
    waves: list[list[str]] = []
    while order.is_active():
        waves.append(sorted(order.get_ready()))
        order.done(*waves[-1])
    return waves
