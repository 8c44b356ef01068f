"""What the documentation claims of the code is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULES = ROOT / "docs" / "reference" / "swarm-semantics.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)*)`")


def names_in(path: str) -> set[str]:
    """Every test of a file as pytest names it, the file itself included."""
    tree = ast.parse((ROOT / path).read_text())
    found = {""}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"::{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(f"::{node.name}")
    return found


def rows() -> list[str]:
    lines = [line for line in RULES.read_text().splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith(("|---", "| Rule"))]


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED.findall(RULES.read_text())}))
def test_every_test_that_shows_a_rule_exists(path: str) -> None:
    named = {name for file, name in NAMED.findall(RULES.read_text()) if file == path}
    assert not named - names_in(path)


def test_every_rule_has_a_test() -> None:
    assert len(rows()) > 70
    assert [row for row in rows() if not NAMED.search(row)] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
