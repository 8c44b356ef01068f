"""The part of Go's text/template that people use with `--format`.

Pure. Fields (`{{.Spec.Name}}`), `json`, `lower`, `upper`, `title`, `join`, `len`, `println`, pipes, `range`, `if`,
`else`, `end`, `index`. Source: text/template and docker/cli's templates package.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\||\S+')
Value = object


class TemplateError(ValueError):
    """The template cannot be read or does not fit; the text says where."""


class Fields(dict[str, object]):
    """One line of a listing: every field it can have is there, so that a misspelt one is noticed."""


@dataclass(slots=True)
class Block:
    """A piece of a template: text, an expression, or a range/if with its parts."""

    kind: str
    content: str = ""
    body: "list[Block]" = field(default_factory=list)
    otherwise: "list[Block]" = field(default_factory=list)


def parse(template: str) -> list[Block]:
    """Read a template.

    Raises:
        TemplateError: An `end` too many or too few.
    """
    root = Block("root")
    stack: list[tuple[Block, list[Block]]] = [(root, root.body)]
    position = 0
    text = template.replace("\\t", "\t").replace("\\n", "\n")
    for match in ACTION.finditer(text):
        if match.start() > position:
            stack[-1][1].append(Block("text", text[position : match.start()]))
        position = match.end()
        _take_action(match[1], stack)
    if position < len(text):
        stack[-1][1].append(Block("text", text[position:]))
    if len(stack) != 1:
        raise TemplateError(f'template: "{stack[-1][0].kind}" without its {{{{end}}}}')
    return root.body


def _take_action(action: str, stack: list[tuple[Block, list[Block]]]) -> None:
    keyword, _, rest = action.partition(" ")
    if keyword in ("range", "if"):
        block = Block(keyword, rest)
        stack[-1][1].append(block)
        stack.append((block, block.body))
    elif keyword == "else":
        block, _ = stack.pop()
        stack.append((block, block.otherwise))
    elif keyword == "end":
        if len(stack) == 1:
            raise TemplateError("template: unexpected {{end}}")
        stack.pop()
    else:
        stack[-1][1].append(Block("expression", action))


def render(template: str, value: Value) -> str:
    """Fill a template in for one value.

    Args:
        value: JSON-like: dictionaries by Go's field names, lists, strings, numbers.
    Raises:
        TemplateError: It cannot be read, or names a field there is not.
    """
    return _render(parse(template), value)


def _render(blocks: Sequence[Block], value: Value) -> str:
    return "".join(_render_block(block, value) for block in blocks)


def _render_block(block: Block, value: Value) -> str:
    match block.kind:
        case "text":
            return block.content
        case "expression":
            return _print(evaluate(block.content, value))
        case "if":
            return _render(block.body if evaluate(block.content, value) else block.otherwise, value)
        case _:
            found = evaluate(block.content, value)
            items = list(found.values()) if isinstance(found, Mapping) else found
            if not items:
                return _render(block.otherwise, value)
            if not isinstance(items, Sequence) or isinstance(items, str):
                raise TemplateError(f"template: range can't iterate over {items}")
            return "".join(_render(block.body, item) for item in items)


def evaluate(expression: str, value: Value) -> Value:
    """Work out one pipeline."""
    result: list[Value] = []
    for command in _split_pipe(WORD.findall(expression)):
        result = [_call(command, result, value)]
    return result[0] if result else ""


def _split_pipe(words: Sequence[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


def _call(command: Sequence[str], piped: list[Value], value: Value) -> Value:
    head, *rest = command
    if head in FUNCTIONS:
        return FUNCTIONS[head](*[_operand(word, value) for word in rest], *piped)
    if rest or piped:
        raise TemplateError(f'template: function "{head}" not defined')
    return _operand(head, value)


def _operand(word: str, value: Value) -> Value:
    if word.startswith('"'):
        return json.loads(word)
    if word.lstrip("-").isdecimal():
        return int(word)
    if not word.startswith("."):
        raise TemplateError(f'template: "{word}" is neither a field nor a function')
    found = value
    for name in filter(None, word[1:].split(".")):
        if not isinstance(found, Mapping):
            raise TemplateError(f"template: can't evaluate field {name}")
        if name not in found:
            if isinstance(found, Fields):
                raise TemplateError(f"template: can't evaluate field {name}; there are {', '.join(sorted(found))}")
            return ""
        found = found[name]
    return found


def _print(value: Value) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_print(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_print(item) for item in value) + "]"
    return str(value)


def _index(collection: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(collection, Mapping):
            collection = collection.get(key, "")
        elif isinstance(collection, Sequence) and isinstance(key, int) and 0 <= key < len(collection):
            collection = collection[key]
        else:
            raise TemplateError(f"template: index out of range: {_print(key)}")
    return collection


def _join(items: Value, separator: Value = "") -> str:
    if not isinstance(items, Sequence):
        raise TemplateError("template: join wants a list")
    return str(separator).join(_print(item) for item in items)


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "lower": lambda value: _print(value).lower(),
    "upper": lambda value: _print(value).upper(),
    "title": lambda value: _print(value).title(),
    "len": len,
    "join": _join,
    "index": _index,
    "println": lambda *values: " ".join(_print(value) for value in values) + "\n",
    "truncate": lambda value, length: _print(value)[:length],
}
