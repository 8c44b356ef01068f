"""Hostile values, and documents and bytes that are nearly right."""

from typing import Any

from hypothesis import strategies as st

WORDS = st.sampled_from(
    [
        "",
        "x",
        "web",
        "true",
        "\x00",
        "../../etc/passwd",
        "a" * 300,
        "ünï",
        "%00",
        "{{.Node.ID}}",
        "-1",
        "1e999",
        "0x10",
        "10.0.0.0/8",
        "fe80::/10",
        "10.0.0.0/33",
        "300.1.1.1",
        "node.id==x",
        "a=b=c",
        "\ud7ff",
        "\r\n\r\n",
        "🐝",
        "null",
    ]
)
NUMBERS = st.sampled_from([0, 1, -1, 7, 65536, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308])
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    WORDS,
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just([[[[None]]]]),
    st.lists(WORDS, max_size=3),
    st.dictionaries(WORDS, WORDS, max_size=2),
)


def places(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a document, the whole included."""
    found = [here]
    pairs: Any = ()
    if isinstance(document, dict):
        pairs = document.items()
    elif isinstance(document, list):
        pairs = enumerate(document)
    for key, value in pairs:
        found += places(value, (*here, key))
    return found


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    if isinstance(document, list):
        return [replaced(part, place[1:], value) if n == place[0] else part for n, part in enumerate(document)]
    return {key: replaced(part, place[1:], value) if key == place[0] else part for key, part in document.items()}


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """A document of which a few parts are something else."""
    for _ in range(draw(st.integers(0, 3))):
        document = replaced(document, draw(st.sampled_from(places(document))), draw(VALUES))
    return document


@st.composite
def mutated(draw: st.DrawFn, originals: st.SearchStrategy[bytes], longest: int = 4) -> bytes:
    """Bytes of which a few are others, repeated or missing."""
    raw = bytearray(draw(originals))
    for _ in range(draw(st.integers(0, longest))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.integers(0, 3)):
            case 0:
                raw[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                raw[at:at] = draw(st.binary(max_size=6))
            case 2:
                del raw[at : at + draw(st.integers(1, 12))]
            case 3:
                raw[at:at] = raw[at : at + draw(st.integers(1, 40))]
    return bytes(raw)
