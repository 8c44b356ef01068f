"""A real registry for tests: Debian's docker-registry in a folder of its own, with or without a password.

Edge: processes, sockets, files. Images are written into it over its own API, so no engine is needed to push.
"""

import base64
import contextlib
import hashlib
import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from skep.lab import images

USER, PASSWORD = "ci", "s3cret-for-tests"
HTPASSWD = f"{USER}:$2b$04$R39omWuR6k9rnFTurVb/V.CrtN5MX3EuMjgBVb3Q3Wis6syXebVT6\n"
BOTH_FIT = "application/vnd.docker.distribution.manifest.v2+json"
START_S = 20.0


def auth_header(password: str = PASSWORD, user: str = USER) -> str:
    """X-Registry-Auth as docker's CLI sends it."""
    return base64.urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode()).decode()


@dataclass(frozen=True, slots=True)
class RegistryServer:
    """Attributes: name: `host:port`, as images are named by it. writer: the same, open to this process."""

    name: str
    writer: str
    process: "subprocess.Popen[bytes]"

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """It takes connections and says nothing, as over a line that hangs."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def push(self, repository: str, tag: str, archive: bytes) -> str:
        """Put an image, as `lab.images.image_archive` writes it, under a tag; returns its digest."""
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            parts = {member.name: files.extractfile(member) for member in files.getmembers()}
            blobs = {name: part.read() for name, part in parts.items() if part is not None}
        settings_name = json.loads(blobs["manifest.json"])[0]["Config"]
        kinds = {
            settings_name: "application/vnd.docker.container.image.v1+json",
            "layer.tar": "application/vnd.docker.image.rootfs.diff.tar",
        }
        described = {
            name: {"mediaType": kind, "size": len(blobs[name]), "digest": self._blob(repository, blobs[name])}
            for name, kind in kinds.items()
        }
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": BOTH_FIT,
                "config": described[settings_name],
                "layers": [described["layer.tar"]],
            }
        ).encode()
        path = f"/v2/{repository}/manifests/{tag}"
        status, _ = self._ask("PUT", path, manifest, {"Content-Type": BOTH_FIT})
        assert status == 201, f"{path}: {status}"
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    def _blob(self, repository: str, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        status, headers = self._ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202, status
        place = urlsplit(headers["Location"])
        path = f"{place.path}?{place.query}&digest={digest}"
        status, _ = self._ask("PUT", path, content, {"Content-Type": "application/octet-stream"})
        assert status == 201, status
        return digest

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str]]:
        connection = http.client.HTTPConnection(self.writer, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            answer.read()
            return answer.status, dict(answer.getheaders())


def an_image(text: str) -> bytes:
    """An archive of a small image that sleeps until it is told to stop, and says which one it is in /version."""
    root = images.busybox_root()
    root["/version"] = images.RootEntry(text.encode())
    return images.image_archive(
        "version", root, images.ImageConfig(command=("sh", "-c", "trap exit TERM; sleep 1d & wait"))
    )


@contextlib.contextmanager
def a_registry(folder: Path, address: str = "127.0.0.1", launcher: Sequence[str] = ()) -> Iterator[RegistryServer]:
    """A registry that asks for USER and PASSWORD, on any free port of `address`.

    Args:
        launcher: Words to put before its command, such as those that enter a namespace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(HTPASSWD)
    port, writer_port = _free_port(), _free_port()
    guard = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    with (
        _serving(folder, "guarded", f"{address}:{port}", guard, launcher) as process,
        _serving(folder, "writer", f"127.0.0.1:{writer_port}", "", ()),
    ):
        yield RegistryServer(name=f"{address}:{port}", writer=f"127.0.0.1:{writer_port}", process=process)


@contextlib.contextmanager
def _serving(
    folder: Path, name: str, listen: str, more: str, launcher: Sequence[str]
) -> Iterator["subprocess.Popen[bytes]"]:
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not installed: run tools/setup test"
    config, output = folder / f"{name}.yml", folder / f"{name}.log"
    config.write_text(
        f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: {listen}\n{more}"
    )
    with output.open("wb") as log:
        process = subprocess.Popen([*launcher, program, "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while not _listens(process.pid, int(listen.rpartition(":")[2])):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, f"the registry does not listen: {output.read_text()}"
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(pid: int, port: int) -> bool:
    """Whether something listens on a port in the network namespace of a process."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            return False
        if any(int(line.split()[1].rpartition(":")[2], 16) == port and line.split()[3] == "0A" for line in lines):
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
