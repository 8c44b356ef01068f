"""How a process container sees the host's files."""

from pathlib import Path

from skep.edge.process.host_root import FRESH, expose_host


def test_the_host_is_bound_read_only(tmp_path: Path) -> None:
    mounts = expose_host(tmp_path, [])
    assert {mount["destination"] for mount in mounts} <= {f"/{entry.name}" for entry in Path("/").iterdir()}
    assert all("ro" in mount["options"] for mount in mounts)
    assert not FRESH & {mount["destination"] for mount in mounts}
    assert (tmp_path / "etc").is_dir()
    assert (tmp_path / "proc").is_dir()


def test_a_target_the_host_has_needs_no_room(tmp_path: Path) -> None:
    assert len(expose_host(tmp_path, ["/etc/hosts", "/tmp/x", "/usr"])) < 40


def test_a_target_the_host_lacks_gets_room_beside_its_neighbours(tmp_path: Path) -> None:
    mounts = expose_host(tmp_path, ["/etc/skep-nowhere/deep", "/skep-new"])
    bound = {mount["destination"] for mount in mounts}
    assert "/etc" not in bound
    assert "/etc/passwd" in bound
    assert "/usr" in bound
    assert (tmp_path / "etc/passwd").read_bytes() == b""
