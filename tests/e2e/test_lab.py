"""`skep lab`: every word of it, two labs side by side, and a lab whose making was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skep.lab import layout, nodes
from skep.lab.cgroups import CGROUP_ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]


def skep(*words: str, check: bool = True, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "skep.cli", "lab", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s)
    assert not check or done.returncode == 0, f"skep lab {' '.join(words)}: {done.stdout}{done.stderr}"
    return done


def up(root: Path, *words: str) -> None:
    skep("up", "--engine", "process", "--dir", str(root), *words)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where one test makes a lab; whatever it left is removed."""
    root = tmp_path / "l"
    yield root
    if layout.lab_file(root).exists():
        skep("down", "--dir", str(root))


def ls(root: Path) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in json.loads(skep("ls", "--json", "--dir", str(root)).stdout)}


def inside(root: Path, node: str, *command: str, check: bool = True) -> str:
    return skep("exec", "--dir", str(root), node, "--", *command, check=check).stdout


def node_states(root: Path) -> list[str]:
    return inside(root, "node1", "docker", "node", "ls", "--format", "{{.Hostname}}={{.Status}}").split()


def remains(root: Path) -> list[str]:
    """Everything on the machine that still belongs to a lab."""
    mark = layout.LabLayout(root.resolve()).mark
    found = [str(path) for path in Path("/run/netns").glob(f"*{mark}*")]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(root) in line]
    trees = [CGROUP_ROOT, *(child for child in CGROUP_ROOT.iterdir() if child.is_dir())]
    found += [str(tree / f"skep-{mark}") for tree in trees if (tree / f"skep-{mark}").exists()]
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes()
        except OSError:
            continue
        if f"skep-{mark}".encode() in line or os.fsencode(root) + b"/" in line:
            found.append(f"process {file.parent.name}: {line.decode(errors='replace')}")
    return [*found, *map(str, root.iterdir() if root.exists() else ())]


def is_reached(root: Path, node: str) -> bool:
    address = layout.load_lab(root).node(node).underlay
    return "1 received" in inside(root, "client", "ping", "-c1", "-W1", address, check=False)


HARMED = {"cut": "cut", "freeze": "frozen", "kill": "killed"}


def test_a_node_is_cut_healed_frozen_thawed_killed_and_started(directory: Path) -> None:
    up(directory)
    assert {name: node["state"] for name, node in ls(directory).items()} == dict.fromkeys(
        ("node1", "node2", "node3"), "active"
    )
    assert node_states(directory) == ["node1=Ready", "node2=Ready", "node3=Ready"]
    for harms in ((("cut", "node2", "heal"), ("freeze", "node3", "thaw")), (("kill", "node2", "start"),)):
        for harm, node, _ in harms:
            assert is_reached(directory, node)
            skep(harm, node, "--dir", str(directory))
        assert [ls(directory)[node]["state"] for _, node, _ in harms] == [HARMED[harm] for harm, _, _ in harms]
        for harm, node, _ in harms:
            nodes.wait_until(lambda node=node: f"{node}=Down" in node_states(directory), f"{harm} is not noticed", 12)
            assert is_reached(directory, node) == (harm == "freeze")  # A frozen node's kernel goes on.
        for _, node, remedy in harms:
            skep(remedy, node, "--dir", str(directory))
            nodes.wait_until(lambda node=node: f"{node}=Ready" in node_states(directory), f"{remedy} does not help", 15)
            assert ls(directory)[node]["state"] == "active"
    skep("kill", "node3", "--dir", str(directory))
    skep("freeze", "node2", "--dir", str(directory))
    skep("cut", "node1", "--dir", str(directory))
    skep("down", "--dir", str(directory))
    assert remains(directory) == []


@pytest.mark.soak
def test_two_labs_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    try:
        up(first, "--nodes", "2")
        up(second, "--nodes", "2")
        assert len({ls(root)["node1"]["id"] for root in (first, second)}) == 2
        assert ls(first)["node1"]["address"] == ls(second)["node1"]["address"]
        create = ("docker", "service", "create", "-q", "--no-resolve-image", "--stop-grace-period", "0s")
        echo = ("x", "busybox", "nc", "-ll", "-p", "80", "-e", "echo")
        for root, word in ((first, "one"), (second, "two")):
            inside(root, "node1", *create, "--name", word, "--update-monitor", "0s", "-p", "8080:80", *echo, word)
        for root, word in ((first, "one"), (second, "two")):
            address = ls(root)["node2"]["address"]
            ask = f"busybox nc -w 2 {address} 8080 </dev/null"
            nodes.wait_until(lambda root=root, ask=ask, word=word: _says(root, ask) == word, f"{word} is not served", 8)
            assert inside(root, "node1", "docker", "service", "ls", "--format", "{{.Name}}").split() == [word]
        skep("kill", "node2", "--dir", str(first))
        skep("down", "--dir", str(first))
        assert remains(first) == []
        assert node_states(second) == ["node1=Ready", "node2=Ready"]
        assert _says(second, ask) == "two"
    finally:
        for root in (first, second):
            if layout.lab_file(root).exists():
                skep("down", "--dir", str(root))
    assert remains(second) == []


def _says(root: Path, ask: str) -> str:
    return inside(root, "client", "sh", "-c", ask, check=False).strip()


@pytest.mark.soak
@pytest.mark.parametrize("moment", ["lab.json", "node1/init.json", "node2/init.json", "node1/docker.sock"])
def test_down_after_a_killed_up(directory: Path, moment: str) -> None:
    line = [sys.executable, "-m", "skep.cli", "lab", "up", "--engine", "process", "--dir", str(directory)]
    making = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    nodes.wait_until((directory / moment).exists, f"{moment} was not made", 20)
    making.send_signal(signal.SIGKILL)
    making.wait()
    began = time.monotonic()
    skep("down", "--dir", str(directory))
    assert time.monotonic() - began < 12
    assert remains(directory) == []
    assert "there is no lab in" in skep("down", "--dir", str(directory), check=False).stderr
    up(directory, "--nodes", "1")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("up", "--nodes", "0"), "--nodes 0: a lab has between 1 and"),
        (("up", "--managers", "4"), "--managers 4: choose between 1 and the number of nodes, 3"),
        (("up", "--engine", "nope"), "--engine nope: choose one of"),
        (("ls",), "there is no lab in"),
        (("kill", "node1"), "there is no lab in"),
        (("exec", "node1", "--", "true"), "there is no lab in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked_of_a_lab(directory: Path, words: tuple[str, ...], sentence: str) -> None:
    place = ("--dir", str(directory))
    done = skep(words[0], *place, *words[1:], check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not directory.exists()


def test_what_cannot_be_asked_of_a_running_lab(directory: Path) -> None:
    up(directory, "--nodes", "1", "--no-join")
    place = ("--dir", str(directory))
    for words, sentence in (
        (("up",), "there is a lab in"),
        (("start", "node1"), "node1 is running already"),
        (("kill", "node7"), 'the lab has no node "node7"; it has node1'),
    ):
        done = skep(words[0], *place, *words[1:], check=False)
        assert done.returncode == 1
        assert sentence in done.stderr
    skep("kill", "node1", *place)
    for word in ("kill", "freeze", "cut"):
        assert (
            "node1 is not running; `skep lab start node1` starts it" in skep(word, "node1", *place, check=False).stderr
        )
    (directory / "precious").write_text("mine")
    skep("down", *place)
    assert [path.name for path in directory.iterdir()] == ["precious"]
    assert "holds other files" in skep("up", *place, check=False).stderr
    (directory / "precious").unlink()
