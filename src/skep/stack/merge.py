"""Several Compose files into one, and `extends`.

Pure. Mappings merge key by key, lists are joined; a command replaces a command; what has an identity, such as a
volume's target, replaces its equal. `!reset` takes a key away and `!override` replaces instead of merging.
Source: Compose specification, 13-merge.md and 05-services.md (extends).
"""

from collections.abc import Callable
from typing import Final

from skep.stack import notation
from skep.stack.errors import ComposeError
from skep.stack.nodes import OVERRIDE, RESET, Mapping, Node, Place, Scalar, Sequence, null, text

REPLACED: Final = {"command", "entrypoint", "test"}
PAIRS: Final = {"environment", "labels", "sysctls", "annotations", "driver_opts", "options"}
NAMES: Final = {"networks", "depends_on"}
IDENTITIES: Final = {"volumes": "target", "secrets": "target", "configs": "target", "env_file": "path"}
MAX_EXTENDS: Final = 20


def merge(base: Node, over: Node, key: str = "") -> Node:
    """Lay one tree over another.

    Args:
        key: The key under which both stand; decides how lists are joined.
    """
    if over.tag == OVERRIDE or (isinstance(base, Scalar) and base.is_null):
        return over
    if isinstance(over, Scalar) and over.is_null and not isinstance(base, Scalar):
        return base
    base, over = as_mapping(base, key), as_mapping(over, key)
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return _merged_mappings(base, over)
    if key in REPLACED or not (isinstance(base, Sequence) and isinstance(over, Sequence)):
        return over
    return Sequence(_joined(base, over, key), over.place)


def _merged_mappings(base: Mapping, over: Mapping) -> Mapping:
    entries = dict(base.entries)
    for name, value in over.entries.items():
        if value.tag == RESET:
            entries.pop(name, None)
        else:
            entries[name] = merge(entries[name], value, name) if name in entries else value
    return base.with_entries(entries, dict(over.keys))


def _joined(base: Sequence, over: Sequence, key: str) -> tuple[Node, ...]:
    identity = _identity(key)
    items: dict[object, Node] = {}
    for item in (*base.items, *over.items):
        items[identity(item)] = item
    return tuple(items.values())


def _identity(key: str) -> Callable[[Node], object]:
    """What makes two items of a list the same: its key field, else the whole text."""
    field = IDENTITIES.get(key)

    def of(item: Node) -> object:
        if isinstance(item, Scalar):
            return notation.volume_target(item.text) if key == "volumes" else item.text
        if isinstance(item, Mapping) and field:
            named = item.entries.get(field) or item.entries.get("source")
            if isinstance(named, Scalar):
                return named.text
        return id(item)

    return of


def as_mapping(node: Node, key: str) -> Node:
    """`[A=1, B]` as `{A: 1, B: null}` and `[front]` as `{front: null}`, where the key allows both forms."""
    if not isinstance(node, Sequence) or key not in PAIRS | NAMES:
        return node
    entries: dict[str, Node] = {}
    keys: dict[str, Place] = {}
    for item in node.items:
        if not isinstance(item, Scalar):
            raise ComposeError(item.place, f"an item of `{key}` has to be text")
        name, separator, value = item.text.partition("=") if key in PAIRS else (item.text, "", "")
        entries[name] = text(value, item.place) if separator else null(item.place)
        keys[name] = item.place
    return Mapping(entries, node.place, node.tag, keys)


def without_resets(node: Node) -> Node:
    """Drop what is marked `!reset` in a file that nothing was laid over."""
    match node:
        case Mapping():
            kept = {key: without_resets(value) for key, value in node.entries.items() if value.tag != RESET}
            return node.with_entries(kept)
        case Sequence():
            return Sequence(tuple(without_resets(item) for item in node.items), node.place, node.tag)
        case Scalar():
            return node


class Extension:
    """Resolves `extends` among the services of a file and of the files it names."""

    def __init__(self, load: Callable[[str, Scalar], Mapping]) -> None:
        """Args: load: the tree of another file, by its name as written and the place that names it."""
        self._load = load

    def resolved(self, tree: Mapping) -> Mapping:
        """A file's tree in which no service extends another any more.

        Raises:
            ComposeError: A service extends itself, or one that is not there.
        """
        services = tree.entries.get("services")
        if not isinstance(services, Mapping):
            return tree
        done = {name: self._service(tree, name, services.key_place(name), ()) for name in services.entries}
        return tree.with_entries({**tree.entries, "services": services.with_entries(done)})

    def _service(self, tree: Mapping, name: str, place: Place, chain: tuple[tuple[str, str], ...]) -> Node:
        services = tree.entries.get("services")
        found = services.entries.get(name) if isinstance(services, Mapping) else None
        if found is None:
            raise ComposeError(place, f'there is no service "{name}" to extend in {tree.place.file}')
        if not isinstance(found, Mapping) or "extends" not in found.entries:
            return found
        here = (tree.place.file, name)
        if here in chain or len(chain) >= MAX_EXTENDS:
            raise ComposeError(place, f'the service "{name}" extends itself: {" -> ".join(n for _, n in chain)}')
        base = self._base(tree, found.entries["extends"], (*chain, here))
        own = found.with_entries({key: value for key, value in found.entries.items() if key != "extends"})
        return merge(base, own)

    def _base(self, tree: Mapping, extends: Node, chain: tuple[tuple[str, str], ...]) -> Node:
        if isinstance(extends, Scalar):
            return self._service(tree, extends.text, extends.place, chain)
        entries = extends.entries if isinstance(extends, Mapping) else {}
        service, file = entries.get("service"), entries.get("file")
        if not isinstance(service, Scalar) or set(entries) - {"service", "file"}:
            raise ComposeError(extends.place, "`extends` takes a service's name, or `service:` and `file:`")
        if isinstance(file, Scalar):
            tree = self._load(file.text, file)
        return self._service(tree, service.text, service.place, chain)
