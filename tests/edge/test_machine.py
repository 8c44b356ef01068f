"""What a machine lacks is said, and worked around."""

import dataclasses
from pathlib import Path

import pytest

from skep.edge import machine
from skep.edge.engine_program import EngineSettings
from skep.edge.machine import Machine
from skep.edge.podman import configuration

COMPLETE = Machine(
    cgroups="v2",
    has_systemd=True,
    can_raise_limits=True,
    runtimes=(("runc", "/usr/bin/runc"), ("crun", "/usr/bin/crun")),
    conmon_path="/usr/bin/conmon",
    podman_path="/usr/bin/podman",
    fuse_overlayfs_path="",
    init_path="/usr/bin/catatonit",
)
SETTINGS = EngineSettings(Path("/var/lib/skep/engine"), Path("/run/skep/engine"))


def test_a_complete_machine_has_no_problems() -> None:
    assert COMPLETE.problems() == ()
    assert COMPLETE.runtime == "crun"


@pytest.mark.parametrize(
    ("changes", "sentence", "setting"),
    [
        pytest.param({"can_raise_limits": False}, "CAP_SYS_RESOURCE", "default_ulimits = []", id="ulimits"),
        pytest.param({"cgroups": "hybrid"}, "hybrid layout", 'runtime = "runc"', id="hybrid"),
        pytest.param({"init_path": ""}, "--init", "", id="init"),
        pytest.param({"is_root_overlay": True}, "overlay file system", "", id="overlay"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, object], sentence: str, setting: str) -> None:
    lacking = dataclasses.replace(COMPLETE, **changes)  # type: ignore[arg-type]  # fields by name
    assert len(lacking.problems()) == 1
    assert sentence in lacking.problems()[0]
    text = configuration.containers_conf(lacking, SETTINGS)
    assert setting in text
    assert not setting or setting not in configuration.containers_conf(COMPLETE, SETTINGS)


@pytest.mark.parametrize(
    ("has_systemd", "cgroup_parent", "expected"),
    [(True, "", "systemd"), (True, "/skep-x/n1", "cgroupfs"), (False, "", "cgroupfs")],
)
def test_the_cgroup_manager(has_systemd: bool, cgroup_parent: str, expected: str) -> None:
    settings = dataclasses.replace(SETTINGS, cgroup_parent=cgroup_parent)
    found = dataclasses.replace(COMPLETE, has_systemd=has_systemd)
    assert f"--cgroup-manager={expected}" in configuration.podman_arguments(found, settings)


def test_a_long_run_directory_gets_a_short_name() -> None:
    assert str(configuration.run_root(SETTINGS)) == "/run/skep/engine/storage"
    long = dataclasses.replace(SETTINGS, run_dir=Path("/home/somebody/with/a/long/name/lab/node1/run/engine"))
    assert len(str(configuration.run_root(long))) <= configuration.RUN_ROOT_LIMIT
    other = dataclasses.replace(SETTINGS, run_dir=Path("/home/somebody/with/a/long/name/lab/node2/run/engine"))
    assert configuration.run_root(long) != configuration.run_root(other)


def test_this_machine_can_be_probed(tmp_path: Path) -> None:
    found = machine.probe(tmp_path / "not" / "made" / "yet")
    assert found.cgroups in ("v1", "hybrid", "v2")
    assert machine.memory_total_bytes() > 1 << 20
    assert machine.cpu_count() >= 1
