"""A task's image on a node: pulled with the service's credentials, which are asked for and kept nowhere."""

from pathlib import Path

import pytest
from tests.agent.node import a_running_node, assigned
from tests.agent.test_private_files import a_manager

from skep.model.lifecycle import TaskState as S

pytestmark = pytest.mark.anyio

HEADER = b"eyJ1c2VybmFtZSI6ImNpIn0="


async def test_the_image_is_pulled_with_the_services_credentials(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node, a_manager(node, {"s1": HEADER}) as asked:
        await node.give(assigned(has_registry_auth=True), is_full=True)
        await node.reach(S.RUNNING)
        assert (asked, node.engine.pulls) == (["s1"], [("web", HEADER.decode())])
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and HEADER in path.read_bytes()]


async def test_a_service_without_credentials_asks_nobody(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        assert node.engine.pulls == [("web", "")]


async def test_refused_credentials_leave_the_image_that_is_here(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node, a_manager(node, {}):
        await node.give(assigned(has_registry_auth=True), is_full=True)
        await node.reach(S.RUNNING)
        assert node.engine.pulls == [("web", "")]


async def test_without_a_manager_it_goes_on_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skep.agent.images.AUTH_PATIENCE", 50_000_000)
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(has_registry_auth=True), is_full=True)
        await node.reach(S.RUNNING)
        assert node.engine.pulls == [("web", "")]
