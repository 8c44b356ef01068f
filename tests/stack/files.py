"""Compose projects from texts, without a disk."""

from collections.abc import Mapping

from skep.stack.compose import ComposeService, Project
from skep.stack.errors import UnreadableFile
from skep.stack.project import Source, load


def source_of(
    files: Mapping[str, str | bytes], *names: str, profiles: tuple[str, ...] = (), **variables: str
) -> Source:
    """A source whose files are given; those named are laid over each other, `/p/compose.yaml` if none is."""
    contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}

    def read(path: str) -> bytes:
        if path not in contents:
            raise UnreadableFile("no such file")
        return contents[path]

    return Source(names or ("/p/compose.yaml",), "/p", read, variables, frozenset(profiles))


def project_of(text: str, **variables: str) -> Project:
    return load(source_of({"/p/compose.yaml": text}, **variables))


def service_of(body: str, rest: str = "", **variables: str) -> ComposeService:
    """A service `s` of the image `i` with more keys, one a line."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return project_of(f"services:\n  s:\n    image: i\n{lines}\n{rest}", **variables).services["s"]
