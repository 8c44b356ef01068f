"""The routes of backups: refused in a sentence before anything is sent, and streamed."""

import base64

import pytest
from tests.api.conftest import Api

from skep.api.backend import RestoreRequest

pytestmark = pytest.mark.anyio

FILE = {"Content-Type": "application/vnd.skep.backup"}


def under(pass_phrase: str) -> dict[str, str]:
    return {**FILE, "X-Skep-Pass-Phrase": base64.b64encode(pass_phrase.encode()).decode()}


async def test_a_backup_is_streamed_as_what_it_is(api: Api) -> None:
    await api.init()
    answer = await api.ask("POST", "/skep/backup", {"PassPhrase": "long enough"})
    assert (answer.status, answer.raw) == (200, b"a backup under long enough")
    assert answer.headers["Content-Type"] == "application/vnd.skep.backup"


async def test_what_is_refused_has_a_status(api: Api) -> None:
    outside = await api.ask("POST", "/skep/backup", {"PassPhrase": "long enough"})
    assert outside.status == 503
    await api.init()
    short = await api.ask("POST", "/skep/backup", {"PassPhrase": "short"})
    assert (short.status, "shorter than 8" in short.message) == (400, True)


async def test_a_restore_brings_the_file_and_where_this_node_is(api: Api) -> None:
    path = "/skep/backup/restore?advertise-addr=192.0.2.7&force=1"
    answer = await api.ask("POST", path, b"a backup" * 100_000, headers=under("é long"))
    assert answer.status == 200, answer.raw
    assert answer.json == api.node.local_state.node_id
    assert api.node.restored == RestoreRequest(pass_phrase="é long", advertise_addr="192.0.2.7", is_forced=True)
    again = await api.ask("POST", path, b"a backup", headers=under("é long"))
    assert (again.status, "already part of a swarm" in again.message) == (503, True)


async def test_other_files_and_headers_are_refused(api: Api) -> None:
    path = "/skep/backup/restore"
    damaged = await api.ask("POST", path, b"anything", headers=under("phrase"))
    assert (damaged.status, "no backup of Skep's" in damaged.message) == (400, True)
    plain = await api.ask("POST", path, b"a backup", headers={"Content-Type": "text/plain"})
    assert (plain.status, "application/vnd.skep.backup" in plain.message) == (400, True)
    garbled = await api.ask("POST", path, b"a backup", headers={**FILE, "X-Skep-Pass-Phrase": "no base64!"})
    assert (garbled.status, "in base64" in garbled.message) == (400, True)


async def test_a_pass_phrase_is_not_shown_where_a_request_is(api: Api) -> None:
    assert "phrase" not in repr(RestoreRequest(pass_phrase="phrase")).replace("pass_phrase", "")


async def test_a_node_is_told_where_its_managers_are(api: Api) -> None:
    outside = await api.ask("POST", "/skep/rejoin", {"Addrs": ["192.0.2.9"]})
    assert outside.status == 503
    await api.init()
    assert (await api.ask("POST", "/skep/rejoin", {"Addrs": ["192.0.2.9"]})).status == 200
    assert api.node.rejoined == ["192.0.2.9"]
