"""The part of Go's text/template that people use with `--format`.

Pure. Fields, variables, parentheses and pipes; `if`, `else if`, `else`, `range` (also with `$key, $value :=`), `with`,
`end`, comments, `{{- trimming -}}`; what can be called is in `template_functions`. Source: text/template and
docker/cli's templates package.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from skep.cli.template_functions import FUNCTIONS, TemplateError, call, is_true, printed

__all__ = ["Fields", "TemplateError", "render"]

ACTION: Final = re.compile(r"(\s+(?=\{\{- ))?\{\{(?:- )?\s*(.*?)\s*(?: -\}\}\s*|\}\})", re.DOTALL)
TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|[|(]|\)(?:\.[\w.]+)?|[^\s|()]+')
ASSIGNED: Final = re.compile(r"(?:(\$\w+)\s*,\s*)?(\$\w+)\s*:?=\s*(.*)", re.DOTALL)
OPENING: Final = ("range", "if", "with")
Value = object


class Fields(dict[str, object]):
    """One line of a listing: every field it can have is there, so that a misspelt one is noticed."""


@dataclass(slots=True)
class Block:
    """A piece of a template: text, an expression, or a range, with or if with its parts.

    Attributes:
        is_chained: An `else if`, which ends where the `if` it belongs to does.
    """

    kind: str
    content: str = ""
    body: "list[Block]" = field(default_factory=list)
    otherwise: "list[Block]" = field(default_factory=list)
    is_chained: bool = False


@dataclass(slots=True)
class Scope:
    """What names mean. Attributes: dot: the value of `.`; variables: by name with its `$`; `$` alone is the whole."""

    dot: Value
    variables: dict[str, Value]

    def inside(self, dot: Value, variables: Mapping[str, Value]) -> "Scope":
        return Scope(dot, {**self.variables, **variables})


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
        _take_action(match[2], stack)
    if position < len(text):
        stack[-1][1].append(Block("text", text[position:]))
    if len(stack) != 1:
        raise TemplateError(f'template: "{stack[-1][0].kind}" without its {{{{end}}}}')
    return root.body


def _take_action(action: str, stack: list[tuple[Block, list[Block]]]) -> None:
    keyword, _, rest = action.partition(" ")
    if keyword in OPENING:
        _open(Block(keyword, rest), stack)
    elif keyword == "else":
        if len(stack) == 1:
            raise TemplateError("template: unexpected {{else}}")
        block, _ = stack.pop()
        stack.append((block, block.otherwise))
        if rest.strip():
            kind, _, condition = rest.strip().partition(" ")
            _open(Block(kind, condition, is_chained=True), stack)
    elif keyword == "end":
        if len(stack) == 1:
            raise TemplateError("template: unexpected {{end}}")
        while stack.pop()[0].is_chained:
            pass
    elif not action.startswith("/*"):
        stack[-1][1].append(Block("expression", action))


def _open(block: Block, stack: list[tuple[Block, list[Block]]]) -> None:
    stack[-1][1].append(block)
    stack.append((block, block.body))


def render(template: str, value: Value) -> str:
    """Fill a template in for one value.

    Args:
        value: JSON-like: dictionaries by Go's field names, lists, strings, numbers.
    Raises:
        TemplateError: It cannot be read, or names a field there is not.
    """
    return _render(parse(template), Scope(value, {"$": value}))


def _render(blocks: Sequence[Block], scope: Scope) -> str:
    return "".join(_render_block(block, scope) for block in blocks)


def _render_block(block: Block, scope: Scope) -> str:
    if block.kind == "text":
        return block.content
    assigned = ASSIGNED.fullmatch(block.content)
    key, name, expression = assigned.groups() if assigned else (None, None, block.content)
    found = evaluate(expression, scope)
    if block.kind == "range":
        return _render_range(block, scope, found, (key, name))
    variables = {name: found} if name else {}
    if block.kind == "expression":
        scope.variables.update(variables)
        return "" if name else printed(found)
    chosen = block.body if is_true(found) else block.otherwise
    dot = found if block.kind == "with" and is_true(found) else scope.dot
    return _render(chosen, scope.inside(dot, variables))


def _render_range(block: Block, scope: Scope, found: Value, names: tuple[str | None, str | None]) -> str:
    if not found:
        return _render(block.otherwise, scope.inside(scope.dot, {}))
    if isinstance(found, Mapping):
        pairs: list[tuple[Value, Value]] = [(key, found[key]) for key in sorted(found)]
    elif isinstance(found, Sequence) and not isinstance(found, str):
        pairs = list(enumerate(found))
    else:
        raise TemplateError(f"template: range can't iterate over {found}")
    key, name = names
    made = ({**({key: number} if key else {}), **({name: item} if name else {})} for number, item in pairs)
    return "".join(
        _render(block.body, scope.inside(item, variables)) for (_, item), variables in zip(pairs, made, strict=True)
    )


def evaluate(expression: str, scope: Scope) -> Value:
    """Work out one pipeline."""
    tokens = TOKEN.findall(expression)
    found = _pipeline(tokens, scope)
    if tokens:
        raise TemplateError(f'template: unexpected "{tokens[0]}" in {expression}')
    return found


def _pipeline(tokens: list[str], scope: Scope) -> Value:
    """Take a pipeline from the tokens, up to their end or a closing parenthesis."""
    piped: list[Value] = []
    while True:
        words: list[tuple[str, Value]] = []
        while tokens and tokens[0] != "|" and not tokens[0].startswith(")"):
            words.append(_word(tokens, scope))
        piped = [_call(words, piped)] if words else piped
        if not tokens or tokens[0] != "|":
            return piped[0] if piped else ""
        tokens.pop(0)


def _word(tokens: list[str], scope: Scope) -> tuple[str, Value]:
    """Take one word: the name of a function, or a value without a name."""
    token = tokens.pop(0)
    if token == "(":  # noqa: S105 -- a parenthesis
        found = _pipeline(tokens, scope)
        if not tokens:
            raise TemplateError("template: unclosed left parenthesis")
        return "", _fields(tokens.pop(0)[1:], found)
    if token in FUNCTIONS:
        return token, None
    return "", _operand(token, scope)


def _call(words: Sequence[tuple[str, Value]], piped: list[Value]) -> Value:
    (name, value), *rest = words
    arguments = [call(word, ()) if word else given for word, given in rest]
    if name:
        return call(name, [*arguments, *piped])
    if rest or piped:
        raise TemplateError(f"template: can't give arguments to {printed(value)}; only functions take some")
    return value


def _operand(word: str, scope: Scope) -> Value:
    if word[0] in '"`':
        try:
            return json.loads(word) if word[0] == '"' else word[1:-1]
        except ValueError as error:
            raise TemplateError(f"template: unterminated quoted string {word}") from error
    if word in ("true", "false", "nil"):
        return {"true": True, "false": False}.get(word)
    if word.lstrip("-").isdecimal():
        return int(word)
    if word.startswith("$"):
        name, _, rest = word.partition(".")
        if name not in scope.variables:
            raise TemplateError(f'template: undefined variable "{name}"')
        return _fields(rest, scope.variables[name])
    if not word.startswith("."):
        raise TemplateError(f'template: function "{word}" not defined; there are {", ".join(sorted(FUNCTIONS))}')
    return _fields(word, scope.dot)


def _fields(path: str, value: Value) -> Value:
    """Go down a path such as `.Spec.Name`."""
    found = value
    for name in filter(None, path.split(".")):
        if not isinstance(found, Mapping):
            raise TemplateError(f"template: can't evaluate field {name}")
        if name not in found:
            if isinstance(found, Fields):
                raise TemplateError(f"template: can't evaluate field {name}; there are {', '.join(sorted(found))}")
            return ""
        found = found[name]
    return found
