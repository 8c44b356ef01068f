"""A service's environment: `env_file:` below `environment:`.

Pure. Source: Compose specification, 05-services.md (environment, env_file).
"""

from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import dataclass

from skep.stack import reading
from skep.stack.dotenv import parse_env
from skep.stack.errors import ComposeError
from skep.stack.nodes import Mapping, Node, Scalar
from skep.stack.reading import Reading


@dataclass(frozen=True, slots=True)
class Environment:
    """Attributes: read: a file's bytes by its path as written in that node, None if it is missing."""

    variables: Map[str, str]
    read: Callable[[Scalar], bytes | None]

    def of(self, seen: Reading, given: Node | None, files: Node | None) -> list[str] | None:
        """`NAME=value` sorted by name; None if there is nothing. A name alone takes the caller's value, if any."""
        found: dict[str, str] = {}
        for file in reading.items(files) if files else ():
            found |= self._file(seen, file)
        for name, value in reading.pairs(given, "environment") if given else ():
            if not name or "=" in name:
                raise ComposeError(value.place, f'"{name[:60]}" is no name of a variable')
            if not value.is_null:
                found[name] = value.text
            elif name in self.variables:
                found[name] = self.variables[name]
        return [f"{name}={found[name]}" for name in sorted(found)] or None

    def _file(self, seen: Reading, node: Node) -> dict[str, str]:
        is_required, path, is_raw = True, node, False
        if isinstance(node, Mapping):
            entries = seen.known(node, "an `env_file`", {"path", "required", "format"})
            if "path" not in entries:
                raise ComposeError(node.place, "an `env_file` has a path")
            path = entries["path"]
            is_required = reading.boolean(entries["required"]) if "required" in entries else True
            is_raw = "format" in entries and reading.choice(entries["format"], ("raw",)) == "raw"
        if not isinstance(path, Scalar):
            raise ComposeError(path.place, "a path is needed here")
        content = self.read(path)
        if content is None:
            if is_required:
                raise ComposeError(path.place, f'the file "{path.text[:200]}" is not there')
            return {}
        if is_raw:
            return _raw(content)
        found = parse_env(content, path.text, self.variables)
        chosen = {name: self.variables.get(name) if value is None else value for name, value in found.items()}
        return {name: value for name, value in chosen.items() if value is not None}


def _raw(content: bytes) -> dict[str, str]:
    lines = content.decode(errors="surrogateescape").splitlines()
    pairs = (line.partition("=") for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return {name.strip(): value for name, separator, value in pairs if separator and name.strip()}
