"""Make container images on the spot from programs this machine has, for machines without a registry.

Edge: reads the host's files and runs ldd. The same inputs give the same bytes: entries are sorted and carry neither
owner nor time, so an image made twice has one id.
"""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "var/log", "var/run")
ACCOUNTS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    b"www-data:x:33:33:www-data:/var/www:/bin/false\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
EPOCH = "1970-01-01T00:00:00Z"


class ImageNotMade(Exception):
    """A program is missing here; the text says which and how to get it."""


@dataclass(frozen=True, slots=True)
class RootEntry:
    """One file of a root. Attributes: content: its bytes, or None for a link. link: where a link points."""

    content: bytes | None = None
    link: str = ""
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to run it.

    Attributes:
        health_test: Docker's Healthcheck.Test; empty for none. health_interval_ns: 0 takes the engine's default.
    """

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    health_test: Sequence[str] = ()
    health_interval_ns: int = 0


def busybox_root() -> dict[str, RootEntry]:
    """A root of Debian's static busybox with all its applets.

    Raises:
        ImageNotMade: It is not installed.
    """
    program = _find("busybox", "busybox-static")
    if _libraries(program):
        raise ImageNotMade(f"{program} is not a static program: install the package busybox-static")
    root = {"/bin/busybox": RootEntry(program.read_bytes(), mode=0o755)}
    listing = subprocess.run([program, "--list"], capture_output=True, check=True, text=True)
    for applet in listing.stdout.split():
        if applet != "busybox":
            root[f"/bin/{applet}"] = RootEntry(link="busybox", mode=0o777)
    return root | {path: RootEntry(content) for path, content in ACCOUNTS.items()}


def program_root(
    programs: Iterable[str | Path],
    files: Mapping[str, bytes] | None = None,
    *,
    directories: Iterable[Path] = (),
    left_out: Sequence[str] = (),
) -> dict[str, RootEntry]:
    """A root of programs with the libraries they load, on top of busybox.

    Args:
        programs: Names on PATH or absolute paths, such as `nginx`; each keeps its path.
        files: Further files by absolute path.
        directories: Taken whole, at the path they have here, such as a database's modules.
        left_out: Patterns of paths in those directories that are not taken.
    Raises:
        ImageNotMade: One of them is not installed.
    """
    root = busybox_root()
    for name in programs:
        program = _find(str(name), str(name))
        for path in (program, *_libraries(program)):
            root[str(path)] = RootEntry(path.read_bytes(), mode=0o755)
    for directory in directories:
        root |= _directory(directory, left_out)
    return root | {path: RootEntry(content) for path, content in (files or {}).items()}


def _directory(directory: Path, left_out: Sequence[str]) -> dict[str, RootEntry]:
    """Every file below a directory; links are followed, as what they point at may not be taken."""
    if not directory.is_dir():
        raise ImageNotMade(f"{directory} is not here: install the package that has it")
    found: dict[str, RootEntry] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not any(fnmatch(str(path), pattern) for pattern in left_out):
            found[str(path)] = RootEntry(path.read_bytes(), mode=path.stat().st_mode & 0o777)
    return found


def root_tar(root: Mapping[str, RootEntry]) -> bytes:
    """Write a root as a tar for `docker import`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in _folders(root):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for path in sorted(root):
            _add(archive, path.lstrip("/"), root[path])
    return buffer.getvalue()


def image_archive(name: str, root: Mapping[str, RootEntry], config: ImageConfig | None = None) -> bytes:
    """Write an image as an archive for `docker load`.

    Args:
        name: With or without a tag.
    Source: the docker-archive format, version 1.2 of Docker's image specification.
    """
    layer = root_tar(root)
    settings = json.dumps(_image_settings(layer, config or ImageConfig()), sort_keys=True).encode()
    settings_name = f"{hashlib.sha256(settings).hexdigest()}.json"
    tag = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    manifest = [{"Config": settings_name, "RepoTags": [tag], "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, settings_name, RootEntry(settings))
        _add(archive, "layer.tar", RootEntry(layer))
        _add(archive, "manifest.json", RootEntry(json.dumps(manifest).encode()))
    return buffer.getvalue()


def _image_settings(layer: bytes, config: ImageConfig) -> dict[str, object]:
    run: dict[str, object] = {
        "Entrypoint": list(config.entrypoint) or None,
        "Cmd": list(config.command) or None,
        "Env": list(config.env),
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Labels": dict(config.labels),
    }
    if config.health_test:
        run["Healthcheck"] = {"Test": list(config.health_test), "Interval": config.health_interval_ns}
    return {
        "architecture": _architecture(),
        "os": "linux",
        "created": EPOCH,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": EPOCH, "created_by": "skep lab"}],
    }


def _architecture() -> str:
    """The machine's architecture as Go and images name it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _add(archive: tarfile.TarFile, name: str, entry: RootEntry) -> None:
    header = tarfile.TarInfo(name)
    header.mode = entry.mode
    if entry.content is None:
        header.type, header.linkname = tarfile.SYMTYPE, entry.link
        archive.addfile(header)
        return
    header.size = len(entry.content)
    archive.addfile(header, io.BytesIO(entry.content))


def _folders(root: Mapping[str, RootEntry]) -> list[str]:
    """Every folder needed, parents first."""
    needed = set(FOLDERS) | {path.lstrip("/").rpartition("/")[0] for path in root}
    parents = {str(parent) for folder in needed for parent in PurePosixPath(folder).parents}
    return sorted((needed | parents) - {".", ""})


def _find(program: str, package: str) -> Path:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise ImageNotMade(f'"{program}" is not installed here: install the package {package}')
    return Path(path)


def _libraries(program: Path) -> list[Path]:
    """The shared libraries and the loader a program needs, by the paths it looks for them at."""
    result = subprocess.run(
        ["ldd", program], check=False, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    )
    if result.returncode != 0:
        return []  # Static programs and scripts.
    found: list[Path] = []
    for line in result.stdout.splitlines():
        words = line.split()
        if "not" in words and "found" in words:
            raise ImageNotMade(f"{program} lacks the library {words[0]}: install the package that has it")
        path = words[2] if len(words) > 2 and words[1] == "=>" else words[0]
        if path.startswith("/"):
            found.append(Path(path))
    return found
