"""Images made on the spot."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from skep.lab import images
from skep.lab.images import ImageConfig, ImageNotMade, RootEntry


def needs(program: str) -> None:
    if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip(f"{program} is not installed")


def members(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: member for member in archive.getmembers()}


def test_a_busybox_root_has_its_applets() -> None:
    needs("busybox")
    root = images.busybox_root()
    assert root["/bin/sh"] == RootEntry(link="busybox", mode=0o777)
    assert root["/bin/busybox"].mode == 0o755
    assert b"root:x:0:0" in (root["/etc/passwd"].content or b"")


def test_the_same_root_gives_the_same_bytes() -> None:
    root = {"/b": RootEntry(b"2"), "/a/c": RootEntry(b"1")}
    turned = dict(reversed(root.items()))
    assert images.root_tar(root) == images.root_tar(turned)
    assert images.image_archive("x", root) == images.image_archive("x", turned)


def test_a_tar_has_parents_first_and_no_time() -> None:
    found = members(images.root_tar({"/srv/www/x": RootEntry(b"1"), "/srv/link": RootEntry(link="www")}))
    names = list(found)
    assert names.index("srv") < names.index("srv/www") < names.index("srv/www/x")
    assert {member.mtime for member in found.values()} == {0}
    assert found["tmp"].mode == 0o1777
    assert found["srv/link"].linkname == "www"


def test_an_archive_is_what_docker_load_reads() -> None:
    config = ImageConfig(command=("sh",), health_test=("CMD", "true"), labels={"a": "b"})
    content = images.image_archive("skep/x", {"/a": RootEntry(b"1")}, config)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())[0]
        settings = json.load(archive.extractfile(manifest["Config"]) or io.BytesIO())
    assert manifest["RepoTags"] == ["skep/x:latest"]
    assert settings["config"]["Cmd"] == ["sh"]
    assert settings["config"]["Healthcheck"]["Test"] == ["CMD", "true"]
    assert len(settings["rootfs"]["diff_ids"]) == 1


def test_a_program_comes_with_its_libraries() -> None:
    needs("ls")
    root = images.program_root([Path("/bin/ls")], {"/etc/motd": b"hello\n"})
    assert any("libc.so" in path for path in root)
    assert any("ld-linux" in path or "ld-musl" in path for path in root)
    assert root["/etc/motd"].content == b"hello\n"


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ImageNotMade, match="install the package no-such-program"):
        images.program_root(["no-such-program"])
