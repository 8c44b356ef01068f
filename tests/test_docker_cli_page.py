"""The page of docker's commands names a session for each, and leaves none out."""

import re
import shutil
import subprocess

import pytest
from tests.test_docs import NAMED, ROOT, names_in

PAGE = ROOT / "docs" / "reference" / "docker-cli.md"
GROUPS = ("swarm", "node", "service", "stack", "network", "secret", "config", "volume", "system")
"""Groups of the CLI of which every command is to be there; of containers and images only what a swarm's user needs."""
OTHERS = frozenset({"version", "inspect", "pull", "images", "ps", "logs", "exec"})
ROW = re.compile(r"\| `docker ([a-z -]+)` \|")


def rows() -> dict[str, str]:
    """Each command's row."""
    found = {}
    for line in PAGE.read_text().splitlines():
        if match := ROW.match(line):
            assert match[1] not in found, f"{match[1]} has two rows"
            found[match[1]] = line
    return found


def commands_of(group: str) -> set[str]:
    """What the installed CLI has in a group; it asks no daemon for that."""
    line = ["docker", "-H", "unix:///nonexistent", group, "--help"]
    said = subprocess.run(line, capture_output=True, text=True, timeout=30, check=True).stdout
    listed = said.partition("Commands:\n")[2].partition("\n\n")[0]
    return {f"{group} {text.split()[0]}" for text in listed.splitlines() if text.startswith("  ")}


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED.findall(PAGE.read_text())}))
def test_every_session_exists(path: str) -> None:
    assert not {name for file, name in NAMED.findall(PAGE.read_text()) if file == path} - names_in(path)


def test_every_command_has_a_session() -> None:
    assert [command for command, row in rows().items() if not NAMED.search(row)] == []


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
@pytest.mark.parametrize("group", GROUPS)
def test_no_command_of_the_cli_is_missing(group: str) -> None:
    assert commands_of(group)
    assert commands_of(group) - rows().keys() == set()


def test_the_commands_without_a_group_are_there() -> None:
    assert OTHERS - rows().keys() == set()
