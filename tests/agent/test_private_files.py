"""Secrets and configs on a node: asked for, put into memory, mounted, and gone with the task."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from tests.agent.node import NodeUnderTest, a_container_spec, a_running_node, assigned, until

from skep.agent.wants import Wants
from skep.model.lifecycle import TaskState as S
from skep.model.service import ConfigReference, ContainerSpec, FileTarget, SecretReference
from skep.model.session import FileKind, FileSent, FileWanted

pytestmark = pytest.mark.anyio

PASSWORD = b"correct horse \x00 battery"


def a_secret(id: str, target: str = "", **fields: object) -> SecretReference:
    file = FileTarget(name=target or id, **fields)  # type: ignore[arg-type]  # a test's shortcut
    return SecretReference(secret_id=id, secret_name=id, file=file)


def a_config(id: str, target: str = "") -> ConfigReference:
    return ConfigReference(config_id=id, config_name=id, file=FileTarget(name=target or id))


@contextlib.asynccontextmanager
async def a_manager(node: NodeUnderTest, values: Mapping[str, bytes], templated: str = "") -> AsyncIterator[list[str]]:
    """Answers a node's questions; yields the ids asked for."""
    asked: list[str] = []

    async def answer() -> None:
        while True:
            for wanted in await node.agent.next_wanted():
                asked.append(wanted.file_id)
                if wanted.file_id not in values:
                    sent = FileSent(wanted=wanted, error=f"{wanted.kind} {wanted.file_id} not found")
                else:
                    driver = "golang" if wanted.file_id in templated.split() else ""
                    sent = FileSent(wanted=wanted, payload=values[wanted.file_id], templating=driver)
                node.agent.answered(sent)

    answering = asyncio.create_task(answer())
    try:
        yield asked
    finally:
        answering.cancel()


def mounted(node: NodeUnderTest) -> dict[str, Path]:
    config = node.engine.configs[node.engine.only().id]
    return {file.target: file.source for file in config.files if "memory" in file.source.parts}


async def test_files_have_their_place_owner_and_mode_and_go_with_the_task(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node, a_manager(node, {"key": PASSWORD, "site": b"listen 80;"}) as asked:
        spec = a_container_spec(
            secrets=[a_secret("key", uid="33", gid="44", mode=0o440)], configs=[a_config("site", "/etc/site.conf")]
        )
        await node.give(assigned(spec=spec), is_full=True)
        await node.reach(S.RUNNING)
        files = mounted(node)
        assert set(files) == {"/run/secrets/key", "/etc/site.conf"}
        assert files["/run/secrets/key"].read_bytes() == PASSWORD
        assert files["/etc/site.conf"].read_bytes() == b"listen 80;"
        seen = files["/run/secrets/key"].stat()
        assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (33, 44, 0o440)
        assert asked == ["key", "site"]
        node.engine.end(node.engine.only().id, 0)
        await node.reach(S.COMPLETE)
        await until(lambda: not node.files.task_ids(), lambda: "the secret outlived its task")


async def test_nothing_of_a_secret_is_on_the_nodes_disk(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node, a_manager(node, {"key": PASSWORD}):
        await node.give(assigned(spec=a_container_spec(secrets=[a_secret("key")])), is_full=True)
        await node.reach(S.RUNNING)
        held = [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD in path.read_bytes()]
        assert [path.relative_to(tmp_path).parts[0] for path in held] == ["memory"]


async def test_a_question_outlives_the_manager_and_the_daemon_asks_again(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(spec=a_container_spec(secrets=[a_secret("key")])), is_full=True)
        assert [wanted.file_id for wanted in await node.agent.next_wanted()] == ["key"]
        await node.agent.hello()  # The session broke before the answer came.
        assert [wanted.file_id for wanted in await node.agent.next_wanted()] == ["key"]
        await node.restart()
        async with a_manager(node, {"key": PASSWORD}):
            await node.give(assigned(spec=a_container_spec(secrets=[a_secret("key")])), is_full=True)
            await node.reach(S.RUNNING)


async def test_a_secret_the_manager_does_not_give_rejects_the_task(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node, a_manager(node, {}):
        await node.give(assigned(spec=a_container_spec(secrets=[a_secret("key")])), is_full=True)
        assert (await node.reach(S.REJECTED)).err == "secret key not found"


TEMPLATE = b'{{.Node.Hostname}}:{{secret "key"}}:{{config "site"}}:{{env "COLOUR"}}:{{.Task.Slot}}'


async def test_templates_name_the_node_and_the_tasks_other_files(tmp_path: Path) -> None:
    values = {"key": b"k", "site": b"s", "made": TEMPLATE}
    async with a_running_node(tmp_path) as node, a_manager(node, values, templated="made"):
        spec = a_container_spec(
            env=["COLOUR=amber"], secrets=[a_secret("key")], configs=[a_config("site"), a_config("made", "/made")]
        )
        await node.give(assigned(spec=spec), is_full=True)
        await node.reach(S.RUNNING)
        assert mounted(node)["/made"].read_text() == "alpha:k:s:amber:1"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param(
            a_container_spec(secrets=[a_secret("made")]),
            "expanding secret made failed: an action in its template cannot be carried out",
            id="secret-quotes-nothing",
        ),
        pytest.param(
            a_container_spec(configs=[a_config("made")]),
            'expanding config made failed: secret target key not found',
            id="config",
        ),
        pytest.param(
            a_container_spec(secrets=[a_secret("made", uid="me")]),
            "secret made: uid and gid must be numbers",
            id="uid",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_filled_in_rejects_the_task(tmp_path: Path, spec: ContainerSpec, words: str) -> None:
    templated = "" if "uid" in words else "made"
    async with a_running_node(tmp_path) as node, a_manager(node, {"made": TEMPLATE}, templated):
        await node.give(assigned(spec=spec), is_full=True)
        assert (await node.reach(S.REJECTED)).err == words


def test_a_value_is_not_printed() -> None:
    sent = FileSent(wanted=FileWanted(task_id="t", kind=FileKind.SECRET, file_id="s"), payload=PASSWORD)
    assert "battery" not in repr(sent)


async def test_an_answer_nobody_waits_for_is_dropped() -> None:
    wants = Wants()
    wanted = FileWanted(task_id="t", kind=FileKind.SECRET, file_id="s")
    asking = asyncio.create_task(wants.fetch(wanted))
    assert await wants.next() == [wanted]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    wants.take(FileSent(wanted=wanted, payload=PASSWORD))
    again = asyncio.create_task(wants.fetch(wanted))
    assert await wants.next() == [wanted]
    again.cancel()
