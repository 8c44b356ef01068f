"""One YAML 1.2 document into a tree of nodes with places.

Pure: text in, tree out. PyYAML scans and parses; composing is ours, because its composer recurses without bound, lets
the second of two equal keys win in silence and reads YAML 1.1 (`yes` is true, `22:22` is 1342). Here duplicate keys are
errors, and a document has bounds on its size, its depth and what its aliases expand to, so that no file takes long.
Source: YAML 1.2.2, 10.3.2 (core schema); yaml.org/type/merge for `<<`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml

from skep.stack.errors import ComposeError
from skep.stack.nodes import OVERRIDE, RESET, Kind, Mapping, Node, Place, Scalar, Sequence

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 40
CORE: Final = (
    (re.compile(r"|~|null|Null|NULL"), Kind.NULL),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), Kind.BOOLEAN),
    (re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), Kind.INTEGER),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), Kind.FLOAT),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), Kind.FLOAT),
)
STANDARD: Final = "tag:yaml.org,2002:"
MERGE: Final = "<<"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's where the wheel has it: about ten times faster.


def compose(source: str | bytes, file: str) -> Mapping:
    """Read a document whose root is a mapping; an empty one gives an empty mapping.

    Raises:
        ComposeError: It is no YAML, too large, or its root is something else.
    """
    content = _decoded(source, file)
    root = _Composer(file).run(content)
    if root is None or (isinstance(root, Scalar) and root.is_null):
        return Mapping({}, Place(file, 1))
    if not isinstance(root, Mapping):
        raise ComposeError(root.place, "the file does not hold keys and values; begin with `services:`")
    return root


def _decoded(source: str | bytes, file: str) -> str:
    try:
        raw = source.encode() if isinstance(source, str) else source
        content = raw.decode("utf-8-sig")
    except UnicodeError as error:
        raise ComposeError(Place(file, 1), "the file is not UTF-8 text") from error
    if len(raw) > MAX_BYTES:
        raise ComposeError(Place(file, 1), f"the file is larger than {MAX_BYTES} bytes")
    return content


def resolve(content: str) -> Kind:
    """What a plain scalar is in YAML 1.2's core schema."""
    return next((kind for pattern, kind in CORE if pattern.fullmatch(content)), Kind.TEXT)


@dataclass(slots=True)
class _Anchored:
    node: Node
    n_nodes: int
    depth: int


@dataclass(slots=True)
class _Open:
    """A sequence or mapping whose end has not come. Attributes: key: in a mapping, the key whose value is next."""

    place: Place
    anchor: str | None
    tag: str
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Place] = field(default_factory=dict)
    merged: list[Mapping] = field(default_factory=list)
    key: Scalar | None = None
    n_nodes: int = 1
    depth: int = 1


class _Composer:
    """Builds the tree from the parser's events, one after the other."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.anchors: dict[str, _Anchored | None] = {}
        self.open: list[_Open] = []
        self.root: Node | None = None
        self.n_nodes = 0

    def run(self, content: str) -> Node | None:
        for event in self._events(content):
            match event:
                case yaml.DocumentStartEvent():
                    if self.root is not None:
                        raise ComposeError(self._place(event), "a second document begins here; write one per file")
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._begin(event)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._end()
        return self.root

    def _events(self, content: str) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(content, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            raise ComposeError(Place(self.file, line), f"this is no YAML: {error.problem or error.context}") from error
        except (yaml.YAMLError, ValueError) as error:
            line = content.count("\n", 0, getattr(error, "position", 0)) + 1
            reason = getattr(error, "reason", "it cannot be read")
            raise ComposeError(Place(self.file, line), f"this is no YAML: {reason}") from error

    def _place(self, event: yaml.Event) -> Place:
        return Place(self.file, event.start_mark.line + 1 if event.start_mark else 1)

    def _count(self, n_nodes: int, depth: int, place: Place) -> None:
        self.n_nodes += n_nodes
        if self.n_nodes > MAX_NODES:
            raise ComposeError(place, f"the file holds more than {MAX_NODES} values once its aliases are expanded")
        if len(self.open) + depth > MAX_DEPTH:
            raise ComposeError(place, f"the file is nested more than {MAX_DEPTH} levels deep")

    def _alias(self, event: yaml.AliasEvent) -> None:
        place = self._place(event)
        if event.anchor not in self.anchors:
            raise ComposeError(place, f"there is no anchor &{event.anchor} before this alias")
        found = self.anchors[event.anchor]
        if found is None:
            raise ComposeError(place, f"*{event.anchor} stands inside of &{event.anchor} itself")
        self._count(found.n_nodes, found.depth, place)
        self._add(found.node, found.n_nodes, found.depth, None)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        place = self._place(event)
        self._count(1, 1, place)
        tag = self._tag(event)
        is_plain = event.implicit[0] or (tag == RESET and event.style is None)
        kind = resolve(event.value) if is_plain or tag in ("int", "float", "bool", "null") else Kind.TEXT
        self._add(Scalar(event.value, kind, place, tag if tag in (RESET, OVERRIDE) else ""), 1, 1, event.anchor)

    def _tag(self, event: yaml.NodeEvent) -> str:
        tag = getattr(event, "tag", None) or ""
        if tag in ("", "!", RESET, OVERRIDE):
            return tag
        known = ("str", "int", "float", "bool", "null", "seq", "map")
        if not tag.startswith(STANDARD) or tag.removeprefix(STANDARD) not in known:
            raise ComposeError(self._place(event), f'the tag "{tag}" means nothing in a Compose file')
        return tag.removeprefix(STANDARD)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        place = self._place(event)
        self._count(1, 1, place)
        if event.anchor:
            self.anchors[event.anchor] = None
        tag = self._tag(event)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self.open.append(_Open(place, event.anchor, tag if tag in (RESET, OVERRIDE) else "", is_mapping))

    def _end(self) -> None:
        ended = self.open.pop()
        node: Node
        if ended.is_mapping:
            entries, keys = dict(ended.entries), dict(ended.keys)
            for merged in ended.merged:
                for key, value in merged.entries.items():
                    if key not in entries:
                        entries[key], keys[key] = value, merged.key_place(key)
            node = Mapping(entries, ended.place, ended.tag, keys)
        else:
            node = Sequence(tuple(ended.items), ended.place, ended.tag)
        self._add(node, ended.n_nodes, ended.depth, ended.anchor)

    def _add(self, node: Node, n_nodes: int, depth: int, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = _Anchored(node, n_nodes, depth)
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        parent.n_nodes += n_nodes
        parent.depth = max(parent.depth, depth + 1)
        if not parent.is_mapping:
            parent.items.append(node)
        elif parent.key is None:
            self._take_key(parent, node)
        else:
            self._take_value(parent, parent.key, node)
            parent.key = None

    def _take_key(self, parent: _Open, node: Node) -> None:
        if not isinstance(node, Scalar):
            raise ComposeError(node.place, "a key has to be plain text")
        if node.text in parent.keys and node.text != MERGE:
            first = parent.keys[node.text]
            raise ComposeError(node.place, f'"{node.text}" is given twice, first in line {first.line}')
        parent.key = node

    def _take_value(self, parent: _Open, key: Scalar, node: Node) -> None:
        if key.text != MERGE:
            parent.entries[key.text], parent.keys[key.text] = node, key.place
            return
        for merged in node.items if isinstance(node, Sequence) else (node,):
            if not isinstance(merged, Mapping):
                raise ComposeError(key.place, "`<<` takes a mapping or a list of mappings")
            parent.merged.append(merged)
