"""The routes that tell how the managers fare."""

import pytest
from tests.api.conftest import Api

pytestmark = pytest.mark.anyio


async def test_the_status_of_one_manager(api: Api) -> None:
    node_id = await api.init()
    found = await api.get("/skep/cluster")
    assert [(row["ID"], row["Role"], row["Self"]) for row in found["Managers"]] == [(node_id, "leader", True)]
    assert found["HasQuorum"]
    assert found["Store"]["Kind"] == "sqlite"
    assert found["LastBackup"] is None
    assert any("no backup is known" in risk for risk in found["Risks"])
    assert (await api.ask("POST", "/skep/backup/saved", {"CreatedAt": api.node.clock.now()})).status == 200
    again = await api.get("/skep/cluster")
    assert again["LastBackup"]
    assert again["Risks"] == []


async def test_the_plan_of_a_recovery_changes_nothing(api: Api) -> None:
    node_id = await api.init()
    before = api.swarm.state.revision
    plan = await api.get("/skep/cluster/recovery")
    assert [(node["ID"], node["Was"]) for node in plan["Nodes"]] == [(node_id, "leader")]
    assert (plan["Losses"], plan["Danger"], plan["Failure"]) == ([], "", "")
    assert api.swarm.state.revision == before


async def test_a_node_that_is_no_manager_cannot_tell(api: Api) -> None:
    for path in ("/skep/cluster", "/skep/cluster/recovery"):
        assert (await api.ask("GET", path)).status == 503


async def test_a_manager_that_cannot_open_without_the_others_says_what_to_do(api: Api) -> None:
    await api.init()
    api.node.closed_because = "this manager does not take part yet: etcd has no quorum"
    refused = await api.ask("GET", "/skep/cluster")
    assert refused.status == 503
    assert "etcd has no quorum; if the other managers are gone for good" in refused.message
    plan = await api.get("/skep/cluster/recovery")
    assert (plan["Nodes"], plan["Failure"]) == ([], api.node.closed_because)
    assert plan["Steps"]
    assert plan["Danger"]
