"""Containers by skep's own words: lists, streams taken apart, raw connections, files as archives."""

import base64
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon

from skep.cli.commands import stats
from skep.cli.main import main

ID = "c" * 64
LABELS = {"com.docker.swarm.node.id": "n2"}
CONTAINER: dict[str, Any] = {
    "Id": ID, "Names": ["/web.1.t1"], "Image": "nginx:1", "Command": "nginx -g 'daemon off;' --long", "Created": 1,
    "State": "running", "Status": "Up 1 second", "Labels": LABELS,
    "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"PrivatePort": 53, "Type": "udp"}],
}  # fmt: skip


def skep(daemon: Daemon, *words: str) -> Result:
    return CliRunner().invoke(main, ["-H", daemon.host, *words])


def frames(*said: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack(">BxxxL", channel, len(text)) + text for channel, text in said)


# --- lists --------------------------------------------------------------------------


def test_ps_names_the_node_of_a_task(daemon: Daemon) -> None:
    daemon.answers = {
        ("GET", "/containers/json"): [CONTAINER],
        ("GET", "/nodes"): [{"ID": "n2", "Description": {"Hostname": "beta"}}],
    }
    done = skep(daemon, "ps", "--format", "{{.ID}}|{{.Command}}|{{.Ports}}|{{.Node}}|{{.Names}}")
    assert done.stdout == f'{ID[:12]}|"nginx -g \'daemon of…"|0.0.0.0:8080->80/tcp, 53/udp|beta|web.1.t1\n'
    assert skep(daemon, "ps", "-q", "--no-trunc").stdout == f"{ID}\n"
    assert skep(daemon, "ps").stdout.splitlines()[0].split()[:3] == ["CONTAINER", "ID", "IMAGE"]


def test_ps_on_a_worker_has_ids_for_nodes(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/containers/json"): [CONTAINER]}
    assert skep(daemon, "ps", "--format", "{{.Node}}").stdout == "n2\n"


def test_a_list_of_nothing_prints_no_line(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/containers/json"): []}
    assert skep(daemon, "ps", "-q").stdout == ""


def test_inspect_finds_what_is_called_so(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/nodes/beta"): {"ID": "n2"}, ("GET", "/containers/web.1/json"): {"Id": ID}}
    assert skep(daemon, "inspect", "-f", "{{.ID}}{{.Id}}", "beta", "web.1").stdout == f"n2\n{ID}\n"
    missing = skep(daemon, "inspect", "nope")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert "No such object: nope" in missing.stderr


def test_every_container_is_stopped_that_can_be(daemon: Daemon) -> None:
    daemon.answers = {("POST", "/containers/web.2/stop"): {}}
    done = skep(daemon, "stop", "-t", "3", "web.1", "web.2")
    assert done.exit_code == 1
    assert done.stdout == "web.2\n"
    assert done.stderr == "Error response from daemon: /containers/web.1/stop not found\n"
    assert [query for _, _, query, _ in daemon.asked] == [{"t": "3"}, {"t": "3"}]


def test_logs_go_where_they_were_written(daemon: Daemon) -> None:
    daemon.answers = {
        ("GET", "/containers/web.1/json"): {"Config": {"Tty": False}},
        ("GET", "/containers/web.1/logs"): frames((1, b"out\n"), (2, b"err\n"), (1, b"\xff more\n")),
    }
    line = [sys.executable, "-m", "skep.cli", "-H", daemon.host, "logs", "--tail", "5", "web.1"]
    done = subprocess.run(line, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"out\n\xff more\n", b"err\n")
    assert daemon.asked[-1][2]["tail"] == "5"


def test_service_logs_name_their_tasks(daemon: Daemon) -> None:
    ids = "com.docker.swarm.node.id=n2,com.docker.swarm.service.id=s1,com.docker.swarm.task.id=" + "t" * 25
    daemon.answers = {
        ("GET", "/services/web"): {"ID": "s1", "Spec": {"Name": "web", "TaskTemplate": {}}},
        ("GET", "/services/s1"): {"ID": "s1", "Spec": {"Name": "web"}},
        ("GET", "/nodes/n2"): {"ID": "n2", "Description": {"Hostname": "beta"}},
        ("GET", f"/tasks/{'t' * 25}"): {"ID": "t" * 25, "Slot": 1},
        ("GET", "/services/s1/logs"): frames((1, f"2026-01-01T00:00:00Z {ids} hello\n".encode())),
    }
    words = ("service", "logs", "--timestamps", "web")
    assert skep(daemon, *words).stdout == f"2026-01-01T00:00:00Z web.1.{'t' * 12}@beta    | hello\n"
    assert skep(daemon, *words, "--no-task-ids").stdout == "2026-01-01T00:00:00Z web.1@beta    | hello\n"
    assert skep(daemon, *words, "--no-resolve").stdout == f"2026-01-01T00:00:00Z s1.1.{'t' * 12}@n2    | hello\n"
    assert sum(path == "/nodes/n2" for _, path, _, _ in daemon.asked) == 2, "asked once a run, and only where wanted"


# --- numbers ----------------------------------------------------------------------------


def test_stats_in_dockers_words() -> None:
    found = {
        "id": ID, "name": "/web.1", "pids_stats": {"current": 3},
        "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
        "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"inactive_file": 1 << 20}},
        "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 20}},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}]},
    }  # fmt: skip
    assert stats.row(found, is_whole=False) == {
        "ID": ID[:12], "Container": ID[:12], "Name": "web.1", "CPUPerc": "40.00%", "MemUsage": "2MiB / 8MiB",
        "MemPerc": "25.00%", "NetIO": "1.5kB / 20B", "BlockIO": "4.096kB / 0B", "PIDs": "3",
    }  # fmt: skip


def test_stats_of_an_engine_that_knows_no_before_takes_two_looks(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(used: int, passed: int) -> dict[str, Any]:
        cpu = {"cpu_usage": {"total_usage": used}, "system_cpu_usage": passed}
        return {"Id": ID, "name": "web.1", "cpu_stats": cpu}

    path = ("GET", "/containers/web.1/stats")
    daemon.answers = {path: look(100, 1000)}
    monkeypatch.setattr("time.sleep", lambda _: daemon.answers.update({path: look(150, 1100)}))
    assert skep(daemon, "stats", "--no-stream", "--format", "{{.CPUPerc}}", "web.1").stdout == "50.00%\n"


# --- raw connections ---------------------------------------------------------------------


@contextmanager
def program(path: Path, *, code: int = 0) -> Iterator[None]:
    """An engine whose one command gives its input back, framed, and then says how much it was."""

    def exchange(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as file:
            first = file.readline().decode().split()
            length = 0
            while (header := file.readline().strip()) != b"":
                name, _, value = header.decode().partition(":")
                length = int(value) if name.lower() == "content-length" else length
            file.read(length)
            if first[1].endswith("/start"):
                file.write(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n")
                file.flush()
                total = 0
                while data := connection.recv(65_536) if total else file.read1(65_536):  # type: ignore[attr-defined]
                    total += len(data)
                    file.write(frames((1, data)))
                    file.flush()
                file.write(frames((2, f"{total}\n".encode())))
            else:
                answer = json.dumps({"Id": "e1", "ExitCode": code}).encode()
                file.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            file.flush()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for _ in range(3):  # It is prepared, started, and asked how it ended.
            connection, _ = listener.accept()
            exchange(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        listener.close()


def test_exec_carries_all_input_and_all_output_and_the_exit_code(tmp_path: Path) -> None:
    sent = os.urandom(3_000_000)
    with program(tmp_path / "s", code=7):
        line = [sys.executable, "-m", "skep.cli", "-H", f"unix://{tmp_path}/s", "exec", "-i", "web.1", "cat"]
        done = subprocess.run(line, input=sent, capture_output=True, timeout=60)
    assert done.returncode == 7
    assert done.stdout == sent
    assert done.stderr == b"3000000\n"


def test_a_terminal_is_refused_where_there_is_none(tmp_path: Path, daemon: Daemon) -> None:
    daemon.answers = {("POST", "/containers/web.1/exec"): {"Id": "e1"}}
    line = [sys.executable, "-m", "skep.cli", "-H", daemon.host, "exec", "-it", "web.1", "sh"]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "the input device is not a TTY; leave out -t" in done.stderr
    assert "Traceback" not in done.stderr


# --- files ---------------------------------------------------------------------------------


def archive(**members: bytes | None) -> bytes:
    """A tar archive; None is a directory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.mode = 0o755 if content is None else 0o644
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


@pytest.mark.parametrize(
    ("path", "target", "sent", "expected"),
    [
        pytest.param("/etc/hosts", "here", {"hosts": b"x"}, "here/hosts", id="into a directory"),
        pytest.param("/etc/hosts", "other", {"hosts": b"x"}, "other", id="under another name"),
        pytest.param("/etc", "here", {"etc": None, "etc__hosts": b"x"}, "here/etc/hosts", id="a directory into one"),
        pytest.param("/etc", "new", {"etc": None, "etc__hosts": b"x"}, "new/hosts", id="a directory renamed"),
        pytest.param("/etc/.", "here", {"hosts": b"x"}, "here/hosts", id="what is in a directory"),
    ],
)
def test_files_come_out(
    daemon: Daemon, tmp_path: Path, path: str, target: str, sent: dict[str, bytes | None], expected: str
) -> None:
    (tmp_path / "here").mkdir()
    daemon.answers = {("GET", "/containers/web.1/archive"): archive(**sent)}
    done = skep(daemon, "cp", f"web.1:{path}", str(tmp_path / target))
    assert done.exit_code == 0, done.output
    assert (tmp_path / expected).read_bytes() == b"x"
    assert daemon.asked[-1][2] == {"path": path}


def test_no_member_of_an_archive_leaves_its_place(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    daemon.answers = {("GET", "/containers/web.1/archive"): archive(**{"..__evil": b"x"})}
    refused = skep(daemon, "cp", "web.1:/a", str(tmp_path / "here"))
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: ")
    assert not (tmp_path / "evil").exists()


def test_no_link_in_an_archive_leads_out_of_its_place(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("out/evil"))
    daemon.answers = {("GET", "/containers/web.1/archive"): file.getvalue()}
    refused = skep(daemon, "cp", "web.1:/a", str(tmp_path / "here"))
    assert refused.exit_code == 1
    assert "out/evil in the archive would be written outside of" in refused.stderr
    assert not (tmp_path / "evil").exists()


def test_a_copy_is_between_a_container_and_here(daemon: Daemon) -> None:
    assert skep(daemon, "cp", "./a", "./b").exit_code == 2
    assert skep(daemon, "cp", "web.1:/a", "web.2:/b").exit_code == 2


@pytest.mark.parametrize(
    ("source", "target", "is_directory", "directory", "names"),
    [
        ("file", "/etc/other", False, "/etc", ["other"]),
        ("file", "/etc", True, "/etc", ["file"]),
        ("tree", "/srv/", False, "/srv/", ["tree", "tree/leaf"]),
        ("tree/.", "/srv", True, "/srv", [".", "./leaf"]),
    ],
)
def test_files_go_in(
    daemon: Daemon, tmp_path: Path, source: str, target: str, is_directory: bool, directory: str, names: list[str]
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_bytes(b"y")
    daemon.answers = {("PUT", "/containers/web.1/archive"): {}}
    if is_directory:
        stat = base64.b64encode(json.dumps({"mode": 1 << 31 | 0o755}).encode()).decode()
        daemon.answers["HEAD", "/containers/web.1/archive"] = {}
        daemon.headers = {"X-Docker-Container-Path-Stat": stat}
    done = skep(daemon, "cp", f"{tmp_path}/{source}", f"web.1:{target}")
    assert done.exit_code == 0, done.output
    _, _, query, sent = daemon.asked[-1]
    assert query["path"] == directory
    with tarfile.open(fileobj=io.BytesIO(sent)) as tar:
        assert tar.getnames() == names
