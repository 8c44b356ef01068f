"""Shell completion: words, live names, and no more loaded than that takes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from tests.cli.conftest import Daemon

from skep.cli.main import main

HEAVY = (
    "aiohttp", "anyio", "cryptography", "dns", "msgspec", "structlog", "yaml", "asyncio",
    "http.client", "ssl", "email", "csv",
    "skep.api", "skep.manager", "skep.agent", "skep.daemon", "skep.core", "skep.model",
)  # fmt: skip


def a_service(name: str, id: str = "", **labels: str) -> dict[str, Any]:
    return {"ID": id or name, "Spec": {"Name": name, "Labels": labels}}


def a_node(name: str) -> dict[str, Any]:
    return {"ID": f"id-{name}", "Description": {"Hostname": name}}


@pytest.fixture
def swarm(daemon: Daemon) -> Daemon:
    stack = {"com.docker.stack.namespace": "shop"}
    daemon.answers = {
        ("GET", "/services"): [a_service("web"), a_service("worker"), a_service("shop_db", **stack)],
        ("GET", "/nodes"): [a_node("alpha"), a_node("beta")],
        ("GET", "/networks"): [{"Name": "back"}, {"Name": "front\x1b[2J"}],
        ("GET", "/volumes"): {"Volumes": [{"Name": "data"}]},
        ("GET", "/secrets"): [a_service("db.pass")],
        ("GET", "/configs"): [a_service("site.conf")],
        ("GET", "/tasks"): [
            {"ID": "t1", "ServiceID": "web", "Slot": 1, "NodeID": "id-alpha"},
            {"ID": "t2", "ServiceID": "worker", "NodeID": "id-beta"},
            {"ID": "t3", "ServiceID": "gone", "Slot": 1},
        ],
    }
    return daemon


def completed(words: str, host: str) -> list[str]:
    """What a shell is told to offer for the last word."""
    *given, last = words.split(" ")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DOCKER_HOST", host)
        found = ShellComplete(main, {}, "skep", "_SKEP_COMPLETE").get_completions(given, last)
    return [item.value for item in found]


def as_a_shell(words: str, host: str, check: str = "pass") -> list[str]:
    """The lines that a shell reads, from a process of its own; `check` is run in it at the end."""
    code = f"import sys; sys.argv = ['skep']\nfrom skep.cli.main import main\ntry: main()\nfinally:\n {check}"
    asked = {"_SKEP_COMPLETE": "bash_complete", "COMP_WORDS": f"skep {words}", "COMP_CWORD": str(words.count(" ") + 1)}
    env = {**os.environ, **asked, "DOCKER_HOST": host}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("serv", ["service"]),
        ("service ls --qu", ["--quiet"]),
        ("service inspect w", ["web", "worker"]),
        ("service inspect web w", ["worker"]),
        ("service scale wo", ["worker="]),
        ("service create --network b", ["back"]),
        ("service create --network f", []),
        ("service update --secret-add d", ["db.pass"]),
        ("node inspect ", ["alpha", "beta", "self"]),
        ("task why w", ["web.1", "worker.beta"]),
        ("stack ps ", ["shop"]),
        ("config rm ", ["site.conf"]),
        ("volume inspect ", ["data"]),
        ("node update --availability d", ["drain"]),
    ],
)
def test_words_and_live_names(swarm: Daemon, words: str, expected: list[str]) -> None:
    assert completed(words, swarm.host) == expected


def test_a_host_on_the_command_line_is_asked(swarm: Daemon) -> None:
    assert completed(f"-H {swarm.host} volume rm ", "unix:///nowhere") == ["data"]


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "nonsense"])
def test_without_a_daemon_there_are_no_names_and_no_complaint(host: str) -> None:
    assert completed("service inspect ", host) == []


@pytest.mark.parametrize("answer", [b"", b"no JSON", [], {"message": "x"}, [{"ID": 3}], [None]])
def test_an_answer_of_another_shape_is_no_name(daemon: Daemon, answer: Any) -> None:
    daemon.answers = {("GET", "/services"): answer}
    assert completed("service inspect ", daemon.host) == []


@pytest.mark.parametrize("words", ["service inspect w", "stack ps ", "exec -it w", "st"])
def test_completion_loads_little(swarm: Daemon, words: str) -> None:
    check = f"print('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})))"
    *offered, loaded = as_a_shell(words, swarm.host, check)
    assert all(line.startswith("plain,") for line in offered)
    assert offered
    assert loaded == "loaded:"


def test_a_shell_hears_no_complaint() -> None:
    assert as_a_shell("service inspect ", "unix:///nowhere/docker.sock") == [""]


def test_the_version_loads_nothing_of_ours() -> None:
    code = (
        "import sys; sys.argv = ['skep', '--version']\nfrom skep.cli.main import main\n"
        "try: main()\nexcept SystemExit: print(*sorted(m for m in sys.modules if m.startswith('skep')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("Skep version ")
    assert done.stdout.splitlines()[1] == "skep skep.cli skep.cli.main"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_calls_skep(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert f"_SKEP_COMPLETE={shell}_complete" in done.stdout


def test_bash_completes_with_the_script(swarm: Daemon, tmp_path: Path) -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    words = 'COMP_WORDS=(skep service rm w); COMP_CWORD=3; _skep_completion skep; echo "${COMPREPLY[@]}"'
    skep = tmp_path / "skep"
    code = 'from skep.cli.main import main; main(prog_name="skep")'
    skep.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    skep.chmod(0o755)
    env = {**os.environ, "DOCKER_HOST": swarm.host, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    bash = shutil.which("bash") or "bash"
    done = subprocess.run([bash, "-c", f"{script}\n{words}"], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["web", "worker"], done.stderr
