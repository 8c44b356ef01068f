"""`skep backup`: a file that is whole or not there, looked into without a daemon, and sent to one."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon
from tests.factories import a_cluster, a_node, a_service

from skep.cli.main import main
from skep.manager import backup as backups
from skep.model.backup import Head, Scrypt
from skep.model.base import Object

PHRASE = "correct horse battery staple"
CHEAP = Scrypt(salt=b"0123456789abcdef", n=2, r=1)


def a_backup(objects: Sequence[Object] = (a_cluster(), a_node("n1"), a_service())) -> bytes:
    head = Head(cluster_id="c1", node_id="n1", revision=41, created_at=10**18, skep="0.1.0", scrypt=CHEAP)
    return b"".join(backups.write(head, backups.derive(PHRASE, CHEAP), bytes(32), objects))


@pytest.fixture
def phrase_file(tmp_path: Path) -> str:
    path = tmp_path / "phrase"
    path.write_text(PHRASE + "\nanything else\n")
    return str(path)


def skep(daemon: Daemon | None, *words: str, stdin: str = "") -> Result:
    host = daemon.host if daemon is not None else "unix:///nowhere"
    return CliRunner().invoke(main, ["-H", host, "backup", *words], input=stdin)


def test_what_the_daemon_sends_is_checked_and_kept_for_its_owner(
    daemon: Daemon, tmp_path: Path, phrase_file: str
) -> None:
    daemon.answers = {("POST", "/skep/backup"): a_backup(), ("POST", "/skep/backup/saved"): {}}
    path = tmp_path / "b.skep"
    path.write_text("an older one")
    path.chmod(0o644)
    done = skep(daemon, "save", "--passphrase-file", phrase_file, str(path))
    assert done.exit_code == 0, done.output
    assert "Saved 1 node, 1 service, 0 tasks" in done.stdout
    assert [asked[3] for asked in daemon.asked] == [{"PassPhrase": PHRASE}, {"CreatedAt": 10**18}]
    assert path.read_bytes() == a_backup()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.new"))
    assert not list(tmp_path.glob(".*.new"))


def test_a_swarm_that_cannot_note_its_backup_has_one_all_the_same(
    daemon: Daemon, tmp_path: Path, phrase_file: str
) -> None:
    daemon.answers = {("POST", "/skep/backup"): a_backup()}
    daemon.headers = {"Skep-Stale": "true"}
    done = skep(daemon, "save", "--passphrase-file", phrase_file, str(tmp_path / "b.skep"))
    assert done.exit_code == 0
    assert "WARNING! This manager is cut off from the others" in done.stderr
    assert "The backup is whole; the swarm could not note" in done.stderr
    assert (tmp_path / "b.skep").read_bytes() == a_backup()


@pytest.mark.parametrize("n_bytes", [0, 40, 200, -1])
def test_a_backup_that_is_not_whole_leaves_the_older_one(
    daemon: Daemon, tmp_path: Path, phrase_file: str, n_bytes: int
) -> None:
    daemon.answers = {("POST", "/skep/backup"): a_backup()[:n_bytes]}
    path = tmp_path / "b.skep"
    path.write_text("an older one")
    refused = skep(daemon, "save", "--passphrase-file", phrase_file, str(path))
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: the ")
    assert path.read_text() == "an older one"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.skep", "docker.sock", "phrase"]


def test_a_pass_phrase_is_needed_and_must_be_long(daemon: Daemon, tmp_path: Path) -> None:
    path = str(tmp_path / "b.skep")
    assert "no terminal to ask" in skep(daemon, "save", path).stderr
    assert "shorter than 8" in skep(daemon, "save", "--passphrase-file", "-", path, stdin="short\n").stderr
    assert "empty line" in skep(daemon, "save", "--passphrase-file", "-", path, stdin="\n").stderr
    assert "cannot be read" in skep(daemon, "save", "--passphrase-file", str(tmp_path / "none"), path).stderr
    assert daemon.asked == []


def test_only_a_plain_file_is_replaced(daemon: Daemon, tmp_path: Path, phrase_file: str) -> None:
    daemon.answers = {("POST", "/skep/backup"): a_backup()}
    refused = skep(daemon, "save", "--passphrase-file", phrase_file, str(tmp_path))
    assert "no plain file" in refused.stderr


def test_a_file_is_inspected_without_a_daemon(tmp_path: Path, phrase_file: str) -> None:
    path = tmp_path / "b.skep"
    path.write_bytes(a_backup())
    plain = skep(None, "inspect", str(path))
    assert plain.exit_code == 0, plain.output
    assert "c1" in plain.stdout
    assert "checksum sound" in plain.stdout
    assert "sealed" in plain.stdout
    opened = skep(None, "inspect", "--passphrase-file", phrase_file, str(path))
    assert "1 node, 1 service, 0 tasks" in opened.stdout
    found = json.loads(skep(None, "inspect", "--passphrase-file", phrase_file, "--format", "json", str(path)).stdout)
    assert (found["Revision"], found["Objects"]) == (41, {"cluster": 1, "node": 1, "service": 1})
    assert skep(None, "inspect", "--format", "{{.Revision}}", str(path)).stdout == "41\n"


def test_each_way_a_file_can_be_wrong_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "b.skep"
    raw = bytearray(a_backup())
    path.write_bytes(raw)
    wrong = skep(None, "inspect", "--passphrase-file", "-", str(path), stdin="another one\n")
    assert wrong.stderr == "Error: the pass phrase does not open this backup; give the one it was made with\n"
    raw[-100] ^= 1
    path.write_bytes(raw)
    assert "the backup is damaged" in skep(None, "inspect", str(path)).stderr
    path.write_bytes(raw[:-50])
    assert "cut off" in skep(None, "inspect", str(path)).stderr
    path.write_text("SQLite format 3")
    assert "no backup of Skep's" in skep(None, "inspect", str(path)).stderr
    assert "cannot be read: No such file" in skep(None, "inspect", str(tmp_path / "none")).stderr


def test_a_restore_sends_the_file_and_says_what_to_do_next(daemon: Daemon, tmp_path: Path, phrase_file: str) -> None:
    path = tmp_path / "b.skep"
    path.write_bytes(a_backup())
    daemon.answers = {
        ("POST", "/skep/backup/restore"): "n1",
        ("GET", "/nodes"): [{"ID": "n1", "ManagerStatus": {"Addr": "192.0.2.1:2377"}}],
    }
    done = skep(daemon, "restore", "--passphrase-file", phrase_file, "--advertise-addr", "192.0.2.1", str(path))
    assert done.exit_code == 0, done.output
    method, where, query, body = daemon.asked[0]
    assert (method, where, body) == ("POST", "/skep/backup/restore", a_backup())
    assert query["advertise-addr"] == "192.0.2.1"
    assert daemon.phrases == [base64.b64encode(PHRASE.encode()).decode()]
    assert "skep node rejoin 192.0.2.1:2377" in done.stdout


def test_a_damaged_file_is_not_even_sent(daemon: Daemon, tmp_path: Path, phrase_file: str) -> None:
    path = tmp_path / "b.skep"
    path.write_bytes(a_backup()[:-1])
    refused = skep(daemon, "restore", "--passphrase-file", phrase_file, str(path))
    assert (refused.exit_code, daemon.asked) == (1, [])


def test_a_node_is_told_where_its_managers_are_now(daemon: Daemon) -> None:
    daemon.answers = {("POST", "/skep/rejoin"): {}}
    done = CliRunner().invoke(main, ["-H", daemon.host, "node", "rejoin", "192.0.2.9", "192.0.2.8:2377"])
    assert done.exit_code == 0, done.output
    assert daemon.asked[0][3] == {"Addrs": ["192.0.2.9", "192.0.2.8:2377"]}
