"""YAML with places and bounds."""

import time

import pytest

from skep.stack import document
from skep.stack.errors import ComposeError
from skep.stack.nodes import Kind, Mapping, Scalar, Sequence

BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])
MERGE_BOMB = "\n".join(["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: *a{n - 1}, b: *a{n - 1}}}" for n in range(1, 60))])


def plain(node: object) -> object:
    match node:
        case Mapping():
            return {key: plain(value) for key, value in node.entries.items()}
        case Sequence():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.text
    raise AssertionError(node)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("yes", Kind.TEXT),
        ("No", Kind.TEXT),
        ("on", Kind.TEXT),
        ("true", Kind.BOOLEAN),
        ("False", Kind.BOOLEAN),
        ('"true"', Kind.TEXT),
        ("22:22", Kind.TEXT),
        ("1:30:00", Kind.TEXT),
        ("0440", Kind.INTEGER),
        ("0o440", Kind.INTEGER),
        ("0x1F", Kind.INTEGER),
        ("1_000", Kind.TEXT),
        ("1e3", Kind.FLOAT),
        ("3.8", Kind.FLOAT),
        (".inf", Kind.FLOAT),
        ("2001-12-14", Kind.TEXT),
        ("~", Kind.NULL),
        ("", Kind.NULL),
        ("''", Kind.TEXT),
        ("=", Kind.TEXT),
        ("!!str 12", Kind.TEXT),
        ("!!int '12'", Kind.INTEGER),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(written: str, kind: Kind) -> None:
    found = document.compose(f"k: {written}", "f").entries["k"]
    assert isinstance(found, Scalar)
    assert found.kind is kind


def test_every_node_knows_its_line() -> None:
    root = document.compose("a: 1\nb:\n  - x\n  -\n    c: 2\n", "f.yaml")
    b = root.entries["b"]
    assert isinstance(b, Sequence)
    assert [str(item.place) for item in b.items] == ["f.yaml:3", "f.yaml:5"]
    assert str(root.key_place("b")) == "f.yaml:2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"x": "1", "y": "3"}),
        ("a: &a {x: 1}\nc: &c {x: 2, z: 4}\nb: {<<: [*a, *c]}", {"x": "1", "z": "4"}),
        ("a: &a {x: 1}\nc: &c {z: 4}\nb: {<<: *a, <<: *c}", {"x": "1", "z": "4"}),
        ("a: &a {x: 1}\nb: {x: 0, <<: *a}", {"x": "0"}),
    ],
    ids=["own keys win", "the first of a list wins", "twice", "also before"],
)
def test_merge_keys(text: str, expected: object) -> None:
    assert plain(document.compose(text, "f").entries["b"]) == expected


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: 2\na: 3", 3, '"a" is given twice, first in line 1'),
        ("a: 1\nb: [\n- {", 3, "this is no YAML"),
        ("a: \t- x: {", 1, "this is no YAML"),
        ("\n- a", 2, "does not hold keys and values"),
        ("a: *nothing", 1, "no anchor &nothing"),
        ("a: &a\n  b: *a", 2, "inside of &a itself"),
        ("a: &a [*a]", 1, "inside of &a itself"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("? [a]\n: 1", 1, "a key has to be plain text"),
        ("a: !!python/object:os.system x", 1, "means nothing"),
        ("a: !!binary aGk=", 1, "means nothing"),
        ("a: 1\nb: {<<: 3}", 2, "takes a mapping"),
        ("a: " + "[" * 200, 1, "nested more than"),
        (BOMB, 5, "once its aliases are expanded"),
        (MERGE_BOMB, None, "values once|nested more"),
        ("a: " + "x" * (document.MAX_BYTES + 1), 1, "larger than"),
        (b"a: \xff", 1, "not UTF-8"),
        (b"a: \x00", 1, "this is no YAML"),
        ("a: \ud800", 1, "not UTF-8"),
        ("%YAML 3.0\n---\na: 1", 1, "this is no YAML"),
    ],
    ids=lambda value: str(value)[:24] if not isinstance(value, int) else None,
)
def test_what_is_refused_says_where_and_at_once(text: str | bytes, line: int | None, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(ComposeError, match=reason) as caught:
        document.compose(text, "f")
    assert time.monotonic() - began < 1
    assert caught.value.place is not None
    assert line is None or caught.value.place.line == line


def test_a_large_document_is_read_or_refused_within_a_second() -> None:
    text = "services:\n" + "".join(f"  s{n}: {{image: a, command: [b, c]}}\n" for n in range(20_000))
    began = time.monotonic()
    with pytest.raises(ComposeError, match="more than 20000 values"):
        document.compose(text, "f")
    assert time.monotonic() - began < 1
