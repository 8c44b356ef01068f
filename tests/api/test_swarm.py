"""The swarm, this node's part in it, and the nodes."""

from typing import Any

import msgspec
import pytest
from tests.api.conftest import Api
from tests.fakes.swarm import ALREADY

from skep.manager.control.cluster import merged_spec
from skep.model.cluster import CAConfig
from skep.model.node import Availability, NodeState, Role
from skep.store.changes import Put

pytestmark = pytest.mark.anyio


# --- /swarm ------------------------------------------------------------


async def test_init_passes_on_what_was_asked(api: Api) -> None:
    body = {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": "eth0",
        "DataPathAddr": "eth1",
        "DataPathPort": 4790,
        "DefaultAddrPool": ["10.20.0.0/16"],
        "SubnetSize": 26,
        "ForceNewCluster": False,
        "AutoLockManagers": True,
        "Availability": "drain",
        "Spec": {"Labels": {"a": "b"}, "Orchestration": {"TaskHistoryRetentionLimit": 2}},
    }
    answer = await api.ask("POST", "/swarm/init", body)
    assert answer.status == 200
    assert answer.json == api.node.local_state.node_id
    asked: Any = api.node.asked
    assert (asked.advertise_addr, asked.data_path_addr, asked.data_path_port) == ("eth0", "eth1", 4790)
    assert (asked.default_addr_pool, asked.subnet_size, asked.availability) == (("10.20.0.0/16",), 26, "drain")
    assert asked.spec.labels == {"a": "b"}
    assert asked.spec.orchestration.task_history_retention_limit == 2
    assert asked.spec.encryption_config.auto_lock_managers


async def test_init_twice(api: Api) -> None:
    await api.init()
    answer = await api.ask("POST", "/swarm/init", {})
    assert (answer.status, answer.message) == (503, ALREADY)


async def test_init_with_an_availability_that_is_none(api: Api) -> None:
    answer = await api.ask("POST", "/swarm/init", {"Availability": "lazy"})
    assert (answer.status, answer.message) == (
        400,
        'invalid Availability: "lazy"; it is one of active, pause and drain',
    )


async def test_join_and_leave(api: Api) -> None:
    assert (await api.ask("POST", "/swarm/join", {"JoinToken": "SWMTKN-1-x"})).status == 400
    joined = await api.ask("POST", "/swarm/join", {"RemoteAddrs": ["192.0.2.9:2377"], "JoinToken": "SWMTKN-1-x"})
    assert joined.status == 200
    assert (await api.get("/info"))["Swarm"]["ControlAvailable"] is False
    assert (await api.ask("POST", "/swarm/leave")).status == 200
    assert (await api.ask("POST", "/swarm/leave")).status == 503


async def test_leaving_as_the_last_manager_needs_force(api: Api) -> None:
    await api.init()
    assert (await api.ask("POST", "/swarm/leave")).status == 503
    assert (await api.ask("POST", "/swarm/leave", params={"force": "true"})).status == 200


async def test_inspect_and_rotate_tokens(api: Api) -> None:
    await api.init()
    swarm = await api.get("/swarm")
    assert swarm["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
    assert swarm["TLSInfo"]["TrustRoot"]
    assert swarm["RootRotationInProgress"] is False
    assert (swarm["DefaultAddrPool"], swarm["SubnetSize"], swarm["DataPathPort"]) == (["10.0.0.0/8"], 24, 4789)
    version = swarm["Version"]["Index"]
    rotated = await api.ask(
        "POST", "/swarm/update", swarm["Spec"], params={"version": version, "rotateWorkerToken": "true"}
    )
    assert rotated.status == 200
    after = await api.get("/swarm")
    assert after["JoinTokens"]["Worker"] != swarm["JoinTokens"]["Worker"]
    assert after["JoinTokens"]["Manager"] == swarm["JoinTokens"]["Manager"]
    stale = await api.ask("POST", "/swarm/update", swarm["Spec"], params={"version": version})
    assert (stale.status, stale.message) == (500, "rpc error: code = Unknown desc = update out of sequence")


async def test_the_authoritys_key_is_never_shown(api: Api) -> None:
    """Not in the spec either, where the CLI puts that of a root that is brought along."""
    await api.init()
    cluster = api.swarm.cluster()
    brought = CAConfig(signing_ca_key="PRIVATE", signing_ca_cert="CERT")
    merged = merged_spec(cluster.spec, msgspec.structs.replace(cluster.spec, ca_config=brought))
    api.swarm.commit(Put(msgspec.structs.replace(cluster, spec=merged)))
    for path in ("/swarm", "/info"):
        raw = (await api.ask("GET", path)).raw
        assert b"PRIVATE" not in raw
        assert b"CERT" not in raw.replace(b"CERTIFICATE", b"")


async def test_unlocking_what_is_not_locked(api: Api) -> None:
    assert (await api.ask("POST", "/swarm/unlock", {"UnlockKey": "SWMKEY-1-x"})).status == 503
    await api.init()
    assert (await api.ask("POST", "/swarm/unlock", {"UnlockKey": "SWMKEY-1-x"})).message == "swarm is not locked"
    assert await api.get("/swarm/unlockkey") == {"UnlockKey": ""}


@pytest.mark.parametrize("version", ["", "x", "-1", "1.5", "9" * 30, "¹"])
async def test_a_version_must_be_a_number(api: Api, version: str) -> None:
    await api.init()
    answer = await api.ask("POST", "/swarm/update", {}, params={"version": version})
    assert answer.status == 400
    assert answer.message.startswith("invalid version")


# --- /info ------------------------------------------------------------


async def test_info_out_of_any_swarm(api: Api) -> None:
    info = await api.get("/info")
    assert info["Swarm"] == {
        "NodeID": "",
        "NodeAddr": "",
        "LocalNodeState": "inactive",
        "ControlAvailable": False,
        "Error": "",
        "RemoteManagers": None,
    }
    assert (info["NCPU"], info["MemTotal"], info["OSType"]) == (2, 4 << 30, "linux")


async def test_info_of_a_manager(api: Api) -> None:
    node_id = await api.init()
    api.swarm.add_node("beta", role=Role.MANAGER)
    info = await api.get("/info")
    swarm = info["Swarm"]
    assert (swarm["NodeID"], swarm["Nodes"], swarm["Managers"]) == (node_id, 2, 2)
    assert swarm["RemoteManagers"] == [{"NodeID": node_id, "Addr": "192.0.2.1:2377"}]
    assert "JoinTokens" not in swarm["Cluster"]
    assert "two-manager" in info["Warnings"][0]


async def test_whoever_asks_sees_what_other_managers_have_acknowledged(api: Api) -> None:
    await api.ask("GET", "/_ping")
    await api.init()
    await api.ask("GET", "/_ping")
    assert api.swarm.n_catches == 0
    for n, (method, path) in enumerate((("GET", "/services"), ("DELETE", "/services/nowhere"), ("GET", "/info")), 1):
        await api.ask(method, path)
        assert api.swarm.n_catches == n
    api.swarm.is_stale = True  # Nobody would answer.
    await api.ask("GET", "/services")
    assert api.swarm.n_catches == 3


async def test_without_a_quorum_every_read_of_the_swarm_says_that_it_may_be_old(api: Api) -> None:
    await api.init()
    reads = ("/nodes", "/services", "/tasks", "/networks", "/secrets", "/configs", "/swarm", "/info")
    for path in reads:
        assert "Skep-Stale" not in (await api.ask("GET", path)).headers
    api.swarm.is_stale = True
    for path in reads:
        assert (await api.ask("GET", path)).headers["Skep-Stale"] == "true"
    assert (await api.ask("GET", "/services/nowhere")).headers["Skep-Stale"] == "true"
    assert "Skep-Stale" not in (await api.ask("GET", "/_ping")).headers
    assert "Skep-Stale" not in (await api.ask("POST", "/secrets/create", {"Name": "s", "Data": ""})).headers
    info = await api.get("/info")
    assert "out of date" in info["Warnings"][0]
    assert info["Swarm"]["Error"].startswith("The swarm does not have a leader.")


# --- /nodes ------------------------------------------------------------


async def test_nodes(api: Api) -> None:
    node_id = await api.init()
    api.swarm.add_node("beta", state=NodeState.DOWN)
    alpha, beta = await api.get("/nodes")
    assert alpha["ID"] == node_id
    assert alpha["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "192.0.2.1:2377"}
    assert "ManagerStatus" not in beta
    assert beta["Status"] == {"State": "down", "Message": "", "Addr": "192.0.2.2"}
    assert alpha["Description"]["Platform"] == {"Architecture": "x86_64", "OS": "linux"}
    assert alpha["Description"]["Resources"] == {"NanoCPUs": 2 * 10**9, "MemoryBytes": 4 << 30}


@pytest.mark.parametrize(
    ("filters", "hostnames"),
    [
        ({}, ["alpha", "beta"]),
        ({"name": ["be"]}, ["beta"]),
        ({"name": {"alpha": True, "beta": True}}, ["alpha", "beta"]),
        ({"role": ["worker"]}, ["beta"]),
        ({"membership": ["accepted"]}, ["alpha", "beta"]),
        ({"membership": ["pending"]}, []),
        ({"label": ["disk=ssd"]}, ["alpha", "beta"]),
        ({"node.label": ["zone"]}, []),
        ({"id": ["beta"]}, ["beta"]),
    ],
    ids=str,
)
async def test_node_filters(api: Api, filters: dict[str, Any], hostnames: list[str]) -> None:
    await api.init()
    api.swarm.add_node("beta")
    assert [node["Description"]["Hostname"] for node in await api.get("/nodes", filters=filters)] == hostnames


LISTS = ["/nodes", "/services", "/tasks", "/networks", "/secrets", "/configs", "/events"]


@pytest.mark.parametrize("path", LISTS)
async def test_an_unknown_filter_is_named(api: Api, path: str) -> None:
    await api.init()
    answer = await api.ask("GET", path, params={"filters": '{"colour": {"red": true}}'})
    assert (answer.status, answer.message) == (400, "invalid filter 'colour'")


@pytest.mark.parametrize("path", LISTS)
async def test_filters_that_are_no_json(api: Api, path: str) -> None:
    await api.init()
    assert (await api.ask("GET", path, params={"filters": "{name: web}"})).status == 400


async def test_update_a_node(api: Api) -> None:
    node_id = await api.init()
    node = await api.get(f"/nodes/{node_id}")
    spec = {**node["Spec"], "Availability": "Drain", "Labels": {"zone": "a"}}
    version = {"version": node["Version"]["Index"]}
    assert (await api.ask("POST", f"/nodes/{node_id}/update", spec, params=version)).status == 200
    after = await api.get("/nodes/alpha")
    assert (after["Spec"]["Availability"], after["Spec"]["Labels"]) == ("drain", {"zone": "a"})
    assert api.swarm.find_node("alpha").spec.availability is Availability.DRAIN
    assert (await api.ask("POST", f"/nodes/{node_id}/update", spec, params=version)).status == 500


async def test_remove_a_node(api: Api) -> None:
    await api.init()
    api.swarm.add_node("beta")
    assert (await api.ask("DELETE", "/nodes/beta")).status == 400
    assert (await api.ask("DELETE", "/nodes/beta", params={"force": "1"})).status == 200
    missing = await api.ask("GET", "/nodes/beta")
    assert (missing.status, missing.message) == (404, "node beta not found")
