"""Overlay and local networks, and a node whose engine has none of its own."""

from typing import Any

import pytest
from tests.api.conftest import Api

from skep.model.network import NetworkSpec

pytestmark = pytest.mark.anyio


# --- networks ------------------------------------------------------------


async def test_networks_of_a_node_without_engine_networks(api: Api) -> None:
    local = {"bridge": "bridge", "host": "host", "none": "null"}
    assert {each["Name"]: each["Driver"] for each in await api.get("/networks")} == local
    await api.init()
    names = {each["Name"]: each["Scope"] for each in await api.get("/networks")}
    assert names == {"ingress": "swarm", "bridge": "local", "host": "local", "none": "local"}


async def test_an_overlay_network(api: Api) -> None:
    await api.init()
    made = await api.ask(
        "POST",
        "/networks/create",
        {
            "Name": "back",
            "Driver": "overlay",
            "CheckDuplicate": True,
            "Attachable": True,
            "Labels": {"a": "b"},
            "Options": {"encrypted": "false"},
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]},
        },
    )
    assert made.status == 201
    network = await api.get("/networks/back", scope="swarm")
    assert network["Id"] == made.json["Id"]
    assert network["IPAM"]["Config"] == [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]
    assert network["Options"]["com.docker.network.driver.overlay.vxlanid_list"] == "4097"
    assert (network["Attachable"], network["Labels"], network["EnableIPv4"]) == (True, {"a": "b"}, True)
    assert (await api.ask("POST", "/networks/create", {"Name": "back", "Driver": "overlay"})).status == 409
    assert (await api.ask("POST", "/networks/create", {"Name": "back", "Driver": "bridge"})).status == 409
    assert (await api.ask("GET", "/networks/back", params={"scope": "local"})).status == 404
    assert (await api.ask("DELETE", "/networks/back")).status == 204
    assert (await api.ask("GET", "/networks/back")).message == "network back not found"


async def test_who_is_on_a_network(api: Api) -> None:
    await api.init()
    await api.ask("POST", "/networks/create", {"Name": "back", "Driver": "overlay"})
    template = {"ContainerSpec": {"Image": "nginx"}, "Networks": [{"Target": "back"}]}
    await api.create("web", TaskTemplate=template)
    (task,) = api.swarm.state.tasks.values()
    assert task.status.container is not None
    network = await api.get("/networks/back", verbose="true")
    container = network["Containers"][task.status.container.container_id]
    assert (container["Name"], container["IPv4Address"]) == (task.name, "10.0.0.11/24")
    (member,) = network["Services"]["web"]["Tasks"]
    assert network["Services"]["web"]["VIP"] == "10.0.0.2"
    assert member == {
        "Name": task.name,
        "EndpointID": task.id,
        "EndpointIP": "10.0.0.11",
        "Info": {"Host IP": "192.0.2.1"},
    }
    in_use = await api.ask("DELETE", "/networks/back")
    assert (in_use.status, in_use.message) == (400, "network back is in use by service web")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"driver": ["overlay"]}, ["ingress", "back"]),
        ({"scope": ["swarm"], "name": ["ck"]}, ["back"]),
        ({"name": ["^ingress$"]}, ["ingress"]),
        ({"type": ["builtin"]}, ["bridge", "host", "none"]),
        ({"type": ["custom"]}, ["ingress", "back"]),
        ({"label": ["a=b"]}, ["back"]),
        ({"dangling": ["true"]}, ["ingress", "back"]),
        ({"dangling": ["false"]}, []),
    ],
    ids=str,
)
async def test_network_filters(api: Api, filters: dict[str, Any], names: list[str]) -> None:
    await api.init()
    await api.ask("POST", "/networks/create", {"Name": "back", "Driver": "overlay", "Labels": {"a": "b"}})
    assert [each["Name"] for each in await api.get("/networks", filters=filters)] == names


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "/networks/create", {"Name": "host", "Driver": "overlay"}, 403, "operation is not permitted"),
        ("DELETE", "/networks/bridge", None, 403, "bridge is a pre-defined network and cannot be removed"),
        ("DELETE", "/networks/nowhere", None, 404, "network nowhere not found"),
        ("POST", "/networks/create", {"Name": "x"}, 501, "this node's engine runs tasks only"),
        ("POST", "/networks/create", {"Name": "x", "Scope": "swarm"}, 501, "needs the overlay driver"),
        ("POST", "/networks/ingress/connect", {"Container": "c"}, 403, "not manually attachable"),
        ("GET", "/networks?filters=" + '{"type":["odd"]}', None, 400, "invalid filter: 'type'='odd'"),
        ("GET", "/networks/x?scope=galaxy", None, 400, "invalid scope 'galaxy'"),
    ],
)
async def test_network_refusals(api: Api, method: str, path: str, body: Any, status: int, sentence: str) -> None:
    await api.init()
    answer = await api.ask(method, path, body)
    assert answer.status == status
    assert sentence in answer.message


async def test_prune_networks(api: Api) -> None:
    await api.init()
    for name in ("used", "unused", "kept"):
        await api.swarm.create_network(NetworkSpec(name=name, labels={"keep": "1"} if name == "kept" else {}))
    await api.create("web", TaskTemplate={"ContainerSpec": {"Image": "nginx"}, "Networks": [{"Target": "used"}]})
    filters = {"filters": '{"label!": {"keep": true}}'}
    assert (await api.ask("POST", "/networks/prune", params=filters)).json == {"NetworksDeleted": ["unused"]}
    assert (await api.ask("POST", "/networks/prune", params={"filters": '{"until":["1h"]}'})).json == {
        "NetworksDeleted": None
    }
    assert (await api.ask("POST", "/networks/prune")).json == {"NetworksDeleted": ["kept"]}
    assert {each["Name"] for each in await api.get("/networks", filters={"scope": ["swarm"]})} == {"ingress", "used"}


# --- what there is none of ------------------------------------------------------------


async def test_a_node_without_containers(api: Api) -> None:
    assert await api.get("/containers/json", all="1") == []
    assert await api.get("/images/json") == []
    assert await api.get("/volumes") == {"Volumes": [], "Warnings": []}
    assert await api.get("/plugins") == []
    assert (await api.get("/system/df"))["Images"] == []
    for method, path in (("POST", "/containers/create"), ("POST", "/exec/x/start"), ("GET", "/images/x/history")):
        answer = await api.ask(method, path, {})
        assert answer.status == 501
        assert "no containers or images" in answer.message
    for path, sentence in (
        ("/containers/x/json", "No such container: x"),
        ("/images/a/x/json", "No such image: a/x"),
        ("/volumes/x", "get x: no such volume"),
        ("/plugins/x/json", 'plugin "x" not found'),
    ):  # `docker inspect NAME` asks for one kind after the other, as long as the answer is 404.
        answer = await api.ask("GET", path)
        assert (answer.status, answer.message) == (404, sentence)


async def test_digests_are_not_pinned(api: Api) -> None:
    assert (await api.ask("GET", "/distribution/registry:5000/team/app:1/json")).status == 404
