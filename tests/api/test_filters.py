import pytest

from skep.api import filters
from skep.model.errors import InvalidSpec


@pytest.mark.parametrize(
    "text", ['{"name": {"web": true, "off": false}}', '{"name": ["web"]}'], ids=["go", "docker-py"]
)
def test_reads_both_spellings(text: str) -> None:
    assert tuple(filters.read(text).values("name")) == ("web",)


@pytest.mark.parametrize("text", ["", "{}", '{"name": null}', '{"name": []}', '{"name": {}}'])
def test_nothing_asked_lets_everything_pass(text: str) -> None:
    assert filters.read(text).is_exact("name", "anything")
    assert filters.read(text).has_labels("label", {})


@pytest.mark.parametrize("text", ["[]", "{", '"x"', '{"name": "web"}', '{"name": [1]}', "[" * 9999, '{"\ud800": []}'])
def test_refuses_what_is_neither(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"^invalid filter"):
        filters.read(text)


def test_names_the_unknown_key() -> None:
    with pytest.raises(InvalidSpec, match=r"^invalid filter 'colour'$"):
        filters.read('{"colour": ["red"]}').allow("id", "name")


@pytest.mark.parametrize(
    ("wanted", "labels", "passes"),
    [
        (["a"], {"a": "1"}, True),
        (["a=1"], {"a": "1"}, True),
        (["a=2"], {"a": "1"}, False),
        (["a=1", "b"], {"a": "1"}, False),
        (["a="], {"a": ""}, True),
        (["a=b=c"], {"a": "b=c"}, True),
    ],
)
def test_all_labels_must_match(wanted: list[str], labels: dict[str, str], passes: bool) -> None:
    assert filters.Filters({"label": wanted}).has_labels("label", labels) is passes


@pytest.mark.parametrize(
    ("pattern", "name", "passes"),
    [
        ("ingr", "ingress", True),
        ("gress", "ingress", True),
        ("^gress", "ingress", False),
        ("^ingress$", "ingress", True),
        ("^ingress$", "ingress2", False),
        ("in.*s$", "ingress", True),
        ("a+b", "a+b", True),
        ("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", False),
    ],
)
def test_name_patterns(pattern: str, name: str, passes: bool) -> None:
    assert filters.Filters({"name": [pattern]}).is_pattern("name", name) is passes


@pytest.mark.parametrize(("values", "truth"), [(["true"], True), (["1"], True), (["false"], False), ([], False)])
def test_truth(values: list[str], truth: bool) -> None:
    assert filters.Filters({"_up-to-date": values}).is_true("_up-to-date") is truth


def test_refuses_half_a_truth() -> None:
    with pytest.raises(InvalidSpec):
        filters.Filters({"dangling": ["maybe"]}).is_true("dangling")
