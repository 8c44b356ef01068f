"""Docker's words for limits and mounts in the OCI runtime's."""

import pytest

from skep.edge import oci_values
from skep.model.service import BindOptions, Limits, Mount, TmpfsOptions
from skep.ports.runtime import ContainerRejected


@pytest.mark.parametrize(("name", "expected"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN", 34)], ids=str)
def test_signal_number(name: str, expected: int) -> None:
    assert oci_values.signal_number(name) == expected


@pytest.mark.parametrize("name", ["SIGNOPE", "0", "99", "-1", ""], ids=repr)
def test_an_unknown_signal_is_refused(name: str) -> None:
    with pytest.raises(ContainerRejected, match="invalid signal"):
        oci_values.signal_number(name)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(), {}, id="none"),
        pytest.param(Limits(memory_bytes=7), {"memory": {"limit": 7}}, id="memory"),
        pytest.param(Limits(nano_cpus=1_500_000_000), {"cpu": {"period": 100_000, "quota": 150_000}}, id="cpu"),
        pytest.param(Limits(pids=9), {"pids": {"limit": 9}}, id="pids"),
    ],
)
def test_resource_limits(limits: Limits, expected: dict[str, object]) -> None:
    assert oci_values.resource_limits(limits) == expected


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        pytest.param(Mount(type="bind"), ["rbind", "rprivate", "rw"], id="plain"),
        pytest.param(Mount(type="bind", read_only=True), ["rbind", "rprivate", "ro"], id="read-only"),
        pytest.param(
            Mount(type="bind", bind_options=BindOptions(propagation="rshared", non_recursive=True)),
            ["bind", "rshared", "rw"],
            id="options",
        ),
    ],
)
def test_bind_options(mount: Mount, expected: list[str]) -> None:
    assert oci_values.bind_options(mount) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(None, ["noexec", "nosuid", "nodev"], id="plain"),
        pytest.param(
            TmpfsOptions(size_bytes=5, mode=0o700), ["noexec", "nosuid", "nodev", "size=5", "mode=700"], id="size"
        ),
        pytest.param(
            TmpfsOptions(options=[["exec"], ["uid", "3"]]),
            ["nosuid", "nodev", "mode=1777", "exec", "uid=3"],
            id="users-own",
        ),
    ],
)
def test_tmpfs_options(options: TmpfsOptions | None, expected: list[str]) -> None:
    assert oci_values.tmpfs_options(Mount(type="tmpfs", tmpfs_options=options)) == expected
