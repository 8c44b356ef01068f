"""`skep stack` as far as it needs no daemon: which files it reads, and what it says of wrong ones."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from skep.cli.main import main

GOOD = "services:\n  web:\n    image: web:${TAG:-1}\n    build: .\n  debug: {image: d, profiles: [dev], wat: 1}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("COMPOSE_FILE", "COMPOSE_PROFILES", "TAG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*words: str, stdin: str | bytes = "", **variables: str) -> Result:
    return CliRunner().invoke(main, ["stack", *words], input=stdin, env=variables)


def test_config_shows_the_merged_files_and_says_what_it_ignores(here: Path) -> None:
    (here / "compose.yaml").write_text(GOOD)
    (here / "over.yaml").write_text("services: {web: {environment: {A: $$x}}}")
    (here / ".env").write_text("TAG=7\n")
    shown = run("config", "-c", "compose.yaml", "-c", "over.yaml")
    assert shown.exit_code == 0
    assert "image: web:7\n" in shown.stdout
    assert "A: $$x\n" in shown.stdout
    assert shown.stderr == (
        "compose.yaml:4: ignored: `build` of web; images are built and pushed before they are deployed\n"
    )


@pytest.mark.parametrize("name", ["compose.yaml", "compose.yml", "docker-compose.yml"])
def test_the_usual_file_is_found(here: Path, name: str) -> None:
    (here / name).write_text(GOOD)
    assert "web:1" in run("config").stdout


def test_files_and_profiles_can_be_named_by_the_environment(here: Path) -> None:
    (here / "a.yaml").write_text(GOOD)
    (here / "b.yaml").write_text("services: {web: {image: other}}")
    assert "image: other" in run("config", COMPOSE_FILE="a.yaml:b.yaml").stdout
    asked = run("config", COMPOSE_FILE="a.yaml", COMPOSE_PROFILES="dev")
    assert asked.exit_code == 1
    assert 'a.yaml:5: "wat" is no key of a service' in asked.stderr


def test_standard_input_is_a_file(here: Path) -> None:
    assert "image: i" in run("config", "-c", "-", stdin="services: {s: {image: i}}").stdout


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        ("services:\n  s: {image: i,\n", "-:3: this is no YAML"),
        ("services:\n  s:\n    image: i\n    image: j\n", '-:4: "image" is given twice, first in line 3'),
        ("services:\n  s: {image: '${X:?say which}'}\n", "-:2: the variable X is required: say which"),
        (b"\xff\xfe", "-:1: the file is not UTF-8 text"),
        (b"services: {'a\x1b[31m': 1}", "-:1: this is no YAML"),
        ("services: {s: {image: i, 'a\\u1b': 1}}", "is no key of a service"),
    ],
    ids=["syntax", "duplicate", "required", "bytes", "escape", "quoted"],
)
def test_a_wrong_file_ends_with_one_line_and_no_traceback(here: Path, stdin: str | bytes, told: str) -> None:
    for words in (("config", "-c", "-"), ("deploy", "-c", "-", "name")):
        done = run(*words, stdin=stdin)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: ")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr


def test_a_missing_file_is_named(here: Path) -> None:
    assert "nope.yaml: nope.yaml cannot be read: No such file" in run("config", "-c", "nope.yaml").stderr
    assert "there is no compose.yaml here" in run("config").stderr


def test_a_stack_needs_a_name(here: Path) -> None:
    done = run("deploy", "-c", "-", stdin="services: {s: {image: i}}")
    assert done.exit_code == 2
    assert "give the stack's name" in done.stderr


def test_without_a_daemon_it_says_so(here: Path) -> None:
    done = run("deploy", "-c", "-", stdin="name: x\nservices: {s: {image: i}}", DOCKER_HOST=f"unix://{here}/none")
    assert done.exit_code == 1
    assert "Cannot connect to the daemon" in done.stderr
