"""The swarm's routes over a swarm in memory, with the JSON that clients read."""

import asyncio
import struct
from typing import Any

import msgspec
import pytest
from tests.api.conftest import Api
from tests.fakes.swarm import ALREADY, START

from skep.api import events
from skep.lib.timestamps import format_rfc3339
from skep.model.cluster import CAConfig
from skep.model.lifecycle import TaskState
from skep.model.network import NetworkSpec
from skep.model.node import Availability, NodeState, Role
from skep.model.service import (
    FailureAction,
    JobStatus,
    ReplicatedJob,
    Service,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateStatus,
)
from skep.ports.runtime import LogEntry
from skep.store.changes import Put

pytestmark = pytest.mark.anyio


# --- /swarm ---------------------------------------------------------------------------


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
    await api.init()
    cluster = api.swarm.cluster()
    spec = msgspec.structs.replace(cluster.spec, ca_config=CAConfig(signing_ca_key="PRIVATE", signing_ca_cert="CERT"))
    api.swarm.commit(Put(msgspec.structs.replace(cluster, spec=spec)))
    for path in ("/swarm", "/info"):
        assert b"PRIVATE" not in (await api.ask("GET", path)).raw


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


# --- /info --------------------------------------------------------------------------------


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


# --- /nodes -----------------------------------------------------------------------------------


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


# --- /services and /tasks -------------------------------------------------------------------------


async def test_create_a_service(api: Api) -> None:
    await api.init()
    answer = await api.ask(
        "POST",
        "/services/create",
        {
            "Name": "web",
            "Mode": {"Replicated": {"Replicas": 2}},
            "TaskTemplate": {"ContainerSpec": {"Image": "nginx", "Env": None}},
            "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]},
        },
        headers={"Content-Type": "application/json", "X-Registry-Auth": "e30="},
    )
    assert answer.status == 201
    assert api.swarm.registry_auth == "e30="
    service = await api.get("/services/web")
    assert service["ID"] == answer.json["ID"]
    assert service["Spec"]["Mode"] == {"Replicated": {"Replicas": 2}}
    assert service["Endpoint"]["Ports"] == [
        {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
    ]
    assert service["CreatedAt"].startswith("2025-10-09T")
    again = await api.ask("POST", "/services/create", service["Spec"])
    assert (again.status, again.message) == (
        409,
        "name conflicts with an existing object: service web already exists",
    )


async def test_a_service_in_a_list_has_status_only_when_asked(api: Api) -> None:
    await api.init()
    await api.create("web", Mode={"Replicated": {"Replicas": 3}})
    assert "ServiceStatus" not in (await api.get("/services"))[0]
    (service,) = await api.get("/services", status="true")
    assert service["ServiceStatus"] == {"RunningTasks": 3, "DesiredTasks": 3, "CompletedTasks": 0}


async def test_status_counts_no_task_of_a_node_that_is_down(api: Api) -> None:
    await api.init()
    api.swarm.add_node("beta")
    await api.create("web", Mode={"Global": {}})
    beta = api.swarm.find_node("beta")
    api.swarm.commit(
        Put(msgspec.structs.replace(beta, status=msgspec.structs.replace(beta.status, state=NodeState.DOWN)))
    )
    (service,) = await api.get("/services", status="true")
    assert service["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 0}


async def test_a_jobs_numbers_are_there_for_the_cli_to_read(api: Api) -> None:
    await api.init()
    spec = ServiceSpec(name="job", task_template=TaskSpec(), mode=ServiceMode(replicated_job=ReplicatedJob()))
    api.swarm.commit(Put(Service(id="job".ljust(25, "x"), spec=spec, job_status=JobStatus(iteration=4))))
    (job,) = await api.get("/services", status="true")
    assert job["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
    assert job["JobStatus"] == {"JobIteration": {"Index": 4}, "LastExecution": "0001-01-01T00:00:00Z"}
    assert job["ServiceStatus"]["DesiredTasks"] == 1


async def test_update_status_has_times(api: Api) -> None:
    await api.init()
    await api.create("web")
    status = UpdateStatus(state="paused", started_at=START, message="update paused due to failure")
    api.swarm.commit(Put(msgspec.structs.replace(api.swarm.find_service("web"), update_status=status)))
    assert (await api.get("/services/web"))["UpdateStatus"] == {
        "State": "paused",
        "StartedAt": format_rfc3339(START),
        "Message": "update paused due to failure",
    }


async def test_defaults_are_inserted_when_asked(api: Api) -> None:
    await api.init()
    await api.create("web")
    assert "UpdateConfig" not in (await api.get("/services/web"))["Spec"]
    spec = (await api.get("/services/web", insertDefaults="true"))["Spec"]
    assert (
        spec["UpdateConfig"]
        == spec["RollbackConfig"]
        == {
            "Parallelism": 1,
            "FailureAction": FailureAction.PAUSE,
            "Monitor": 5_000_000_000,
            "MaxFailureRatio": 0.0,
            "Order": "stop-first",
        }
    )
    template = spec["TaskTemplate"]
    assert template["RestartPolicy"] == {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}
    assert template["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["web", "webmail", "agent"]),
        ({"name": ["web"]}, ["web", "webmail"]),
        ({"mode": ["global"]}, ["agent"]),
        ({"mode": ["replicated", "global"]}, ["web", "webmail", "agent"]),
        ({"label": ["tier=front"]}, ["web"]),
        ({"label": ["tier=front", "x"]}, []),
        ({"runtime": ["plugin"]}, []),
        ({"id": ["agent"]}, ["agent"]),
    ],
    ids=str,
)
async def test_service_filters(api: Api, filters: dict[str, Any], names: list[str]) -> None:
    await api.init()
    await api.create("web", Labels={"tier": "front"})
    await api.create("webmail")
    await api.create("agent", Mode={"Global": {}})
    assert [service["Spec"]["Name"] for service in await api.get("/services", filters=filters)] == names


async def test_update_roll_back_and_remove_a_service(api: Api) -> None:
    await api.init()
    service_id = await api.create("web")
    service = await api.get(f"/services/{service_id}")
    spec = {**service["Spec"], "Mode": {"Replicated": {"Replicas": 4}}}
    version = service["Version"]["Index"]
    updated = await api.ask("POST", "/services/web/update", spec, params={"version": version})
    assert (updated.status, updated.json) == (200, {"Warnings": None})
    stale = await api.ask("POST", "/services/web/update", spec, params={"version": version})
    assert (stale.status, stale.message) == (500, "rpc error: code = Unknown desc = update out of sequence")
    after = await api.get("/services/web")
    assert after["PreviousSpec"]["Mode"] == {"Replicated": {"Replicas": 1}}
    back = {"version": after["Version"]["Index"], "rollback": "previous"}
    assert (await api.ask("POST", "/services/web/update", {}, params=back)).status == 200
    assert (await api.get("/services/web"))["Spec"]["Mode"] == {"Replicated": {"Replicas": 1}}
    assert (await api.ask("POST", "/services/web/update", {}, params={**back, "rollback": "next"})).status == 400
    assert (await api.ask("DELETE", "/services/web")).status == 200
    gone = await api.ask("GET", "/services/web")
    assert (gone.status, gone.message) == (404, "service web not found")


async def test_a_task(api: Api) -> None:
    await api.init()
    await api.ask("POST", "/networks/create", {"Name": "back", "Driver": "overlay"})
    template = {"ContainerSpec": {"Image": "nginx"}, "Networks": [{"Target": "back"}]}
    service_id = await api.create("web", TaskTemplate=template)
    (task,) = await api.get("/tasks")
    assert (task["ServiceID"], task["Slot"], task["DesiredState"]) == (service_id, 1, "running")
    assert task["NodeID"] == api.node.local_state.node_id
    assert task["Status"]["State"] == "running"
    assert task["Status"]["ContainerStatus"]["PID"] == 4711
    assert task["Spec"]["ContainerSpec"]["Image"] == "nginx"
    (attachment,) = task["NetworksAttachments"]
    assert attachment["Addresses"] == ["10.0.0.11/24"]
    assert attachment["Network"]["Spec"]["Name"] == "back"
    assert await api.get(f"/tasks/{task['ID']}") == task
    assert (await api.ask("GET", "/tasks/none")).message == "task none not found"


@pytest.mark.parametrize(
    ("filters", "slots"),
    [
        ({}, [1, 2, 1]),
        ({"service": ["web"]}, [1, 2]),
        ({"service": {"web": True, "db": True}}, [1, 2, 1]),
        ({"name": ["web.2"]}, [2]),
        ({"label": ["tier"]}, [1]),
        ({"node": ["alpha"]}, [1, 2, 1]),
        ({"node": ["self"]}, [1, 2, 1]),
        ({"service": ["web"], "node": ["alpha"]}, [1, 2]),
        ({"desired-state": ["running"]}, [1, 2, 1]),
        ({"desired-state": ["shutdown"]}, []),
        ({"runtime": ["container"]}, [1, 2, 1]),
        ({"_up-to-date": ["true"]}, [1, 2, 1]),
    ],
    ids=str,
)
async def test_task_filters(api: Api, filters: dict[str, Any], slots: list[int]) -> None:
    await api.init()
    await api.create("web", Mode={"Replicated": {"Replicas": 2}})
    await api.create("db", Labels={"tier": "back"})
    assert [task["Slot"] for task in await api.get("/tasks", filters=filters)] == slots


async def test_tasks_of_what_does_not_exist(api: Api) -> None:
    await api.init()
    answer = await api.ask("GET", "/tasks", params={"filters": '{"service": ["nobody"]}'})
    assert (answer.status, answer.message) == (404, "service nobody not found")
    answer = await api.ask("GET", "/tasks", params={"filters": '{"desired-state": ["asleep"]}'})
    assert (answer.status, answer.message) == (400, "invalid desired-state filter: 'asleep'")


async def test_up_to_date_tasks_survive_scaling_but_not_a_new_image(api: Api) -> None:
    await api.init()
    await api.create("web")
    for image, replicas, current in (("nginx", 3, 3), ("nginx:2", 3, 3)):
        service = await api.get("/services/web")
        spec = {
            **service["Spec"],
            "Mode": {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {"ContainerSpec": {"Image": image}},
        }
        await api.ask("POST", "/services/web/update", spec, params={"version": service["Version"]["Index"]})
        tasks = await api.get("/tasks", filters={"service": ["web"], "_up-to-date": ["true"]})
        assert len(tasks) == current
        assert {task["Spec"]["ContainerSpec"]["Image"] for task in tasks} == {image}
    assert len(await api.get("/tasks", filters={"service": ["web"]})) == 6


async def test_a_failed_task_says_why(api: Api) -> None:
    await api.init()
    await api.create("web")
    (task,) = api.swarm.state.tasks.values()
    status = msgspec.structs.replace(task.status, state=TaskState.REJECTED, err="No such image: nginx")
    api.swarm.commit(Put(msgspec.structs.replace(task, status=status)))
    shown = (await api.get("/tasks"))[0]["Status"]
    assert (shown["State"], shown["Err"]) == ("rejected", "No such image: nginx")


# --- logs ----------------------------------------------------------------------------------------


def frames(raw: bytes) -> list[tuple[int, bytes]]:
    found = []
    while raw:
        channel, size = struct.unpack(">BxxxL", raw[:8])
        found.append((channel, raw[8 : 8 + size]))
        raw = raw[8 + size :]
    return found


LINES = [LogEntry(1, START + 5, b"out\n"), LogEntry(2, START + 1_000_000_000, b"err\n")]


async def test_service_logs_are_frames_with_the_ids(api: Api) -> None:
    await api.init()
    service_id = await api.create("web")
    (task,) = api.swarm.state.tasks.values()
    api.swarm.logs = LINES
    query = {"stdout": "1", "stderr": "1", "details": "1", "timestamps": "1"}
    answer = await api.ask("GET", "/services/web/logs", params=query)
    assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    ids = (
        f"com.docker.swarm.node.id={task.node_id},com.docker.swarm.service.id={service_id},"
        f"com.docker.swarm.task.id={task.id}"
    )
    assert frames(answer.raw) == [
        (1, f"2025-10-09T08:53:20.000000005Z {ids} out\n".encode()),
        (2, f"2025-10-09T08:53:21.000000000Z {ids} err\n".encode()),
    ]


@pytest.mark.parametrize(
    ("query", "channels"),
    [
        ({"stdout": "1"}, [1]),
        ({"stderr": "true"}, [2]),
        ({"stdout": "1", "stderr": "1", "tail": "1"}, [2]),
        ({"stdout": "1", "stderr": "1", "tail": "all"}, [1, 2]),
        ({"stdout": "1", "stderr": "1", "until": f"{START // 10**9}.5"}, [1]),
    ],
    ids=str,
)
async def test_log_options(api: Api, query: dict[str, str], channels: list[int]) -> None:
    await api.init()
    await api.create("web")
    (task,) = api.swarm.state.tasks.values()
    api.swarm.logs = LINES
    for path in ("/services/web/logs", f"/tasks/{task.id}/logs"):
        answer = await api.ask("GET", path, params=query)
        assert [channel for channel, _ in frames(answer.raw)] == channels


async def test_logs_of_a_terminal_are_raw(api: Api) -> None:
    await api.init()
    await api.create("web", TaskTemplate={"ContainerSpec": {"Image": "nginx", "TTY": True}})
    api.swarm.logs = LINES
    answer = await api.ask("GET", "/services/web/logs", params={"stdout": "1"})
    assert answer.headers["Content-Type"] == "application/vnd.docker.raw-stream"
    assert answer.raw == b"out\n"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({}, "Bad parameters: you must choose at least one stream"),
        ({"stdout": "1", "tail": "some"}, "invalid tail 'some': it must be a number of lines, or all"),
        (
            {"stdout": "1", "since": "yesterday"},
            "invalid since 'yesterday': it must be seconds since 1970, like 1700000000.5",
        ),
    ],
    ids=str,
)
async def test_bad_log_options(api: Api, query: dict[str, str], sentence: str) -> None:
    await api.init()
    await api.create("web")
    answer = await api.ask("GET", "/services/web/logs", params=query)
    assert (answer.status, answer.message) == (400, sentence)


# --- networks ---------------------------------------------------------------------------------------


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


# --- what there is none of ---------------------------------------------------------------------------


async def test_a_node_without_containers(api: Api) -> None:
    assert await api.get("/containers/json", all="1") == []
    assert await api.get("/images/json") == []
    assert await api.get("/volumes") == {"Volumes": [], "Warnings": []}
    assert await api.get("/plugins") == []
    assert (await api.get("/system/df"))["Images"] == []
    for method, path in (("POST", "/containers/create"), ("POST", "/exec/x/start"), ("GET", "/images/x/json")):
        answer = await api.ask(method, path, {})
        assert answer.status == 501
        assert "no containers or images" in answer.message


async def test_digests_are_not_pinned(api: Api) -> None:
    assert (await api.ask("GET", "/distribution/registry:5000/team/app:1/json")).status == 404


# --- events -------------------------------------------------------------------------------------------


async def read_events(api: Api, count: int, **params: str) -> list[Any]:
    async with asyncio.timeout(5), api.session.get("http://node/events", params=params) as stream:
        return [msgspec.json.decode(await stream.content.readline()) for _ in range(count)]


async def followed(api: Api) -> None:
    """Wait until the server follows the swarm's state."""
    async with asyncio.timeout(5):
        await api.swarm.watched.wait()


async def test_events_as_they_happen(api: Api) -> None:
    await api.init()
    await followed(api)
    reading = asyncio.create_task(read_events(api, 3, filters='{"type":["service"]}'))
    await asyncio.sleep(0.05)
    service_id = await api.create("web")
    service = await api.get("/services/web")
    spec = {
        **service["Spec"],
        "Mode": {"Replicated": {"Replicas": 3}},
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx:2"}},
    }
    await api.ask("POST", "/services/web/update", spec, params={"version": service["Version"]["Index"]})
    await api.ask("DELETE", "/services/web")
    made, changed, removed = await reading
    assert made["Actor"] == {"ID": service_id, "Attributes": {"name": "web"}}
    assert (made["Type"], made["Action"], made["scope"]) == ("service", "create", "swarm")
    assert made["timeNano"] // 10**9 == made["time"]
    assert changed["Action"] == "update"
    assert changed["Actor"]["Attributes"] == {
        "name": "web",
        "image.old": "nginx",
        "image.new": "nginx:2",
        "replicas.old": "1",
        "replicas.new": "3",
    }
    assert removed["Action"] == "remove"


async def test_events_of_the_past_end_at_until(api: Api) -> None:
    await api.init()
    await followed(api)
    await api.create("web")
    node = api.swarm.find_node("alpha")
    spec = msgspec.structs.replace(node.spec, availability=Availability.DRAIN)
    api.swarm.commit(Put(msgspec.structs.replace(node, spec=spec)))
    await api.swarm.create_network(NetworkSpec(name="back"))
    seen: list[Any] = []
    async with asyncio.timeout(5):
        while len(seen) < 3:
            until = f"{api.node.clock.now() // 10**9}.999999999"
            answer = await api.ask("GET", "/events", params={"since": str(START // 10**9), "until": until})
            seen = [msgspec.json.decode(line) for line in answer.raw.splitlines()]
    assert [(each["Type"], each["Action"]) for each in seen] == [
        ("service", "create"),
        ("node", "update"),
        ("network", "create"),
    ]
    assert seen[1]["Actor"]["Attributes"] == {
        "name": "alpha",
        "availability.old": "active",
        "availability.new": "drain",
    }


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"type": ["network"]}, 1),
        ({"event": ["create"]}, 2),
        ({"service": ["web"]}, 1),
        ({"service": ["other"]}, 0),
        ({"scope": ["local"]}, 0),
        ({"type": ["service", "network"], "event": ["create"]}, 2),
        ({"label": ["x"]}, 0),
    ],
    ids=str,
)
async def test_event_filters(api: Api, filters: dict[str, Any], count: int) -> None:
    await api.init()
    await followed(api)
    await api.create("web")
    await api.swarm.create_network(NetworkSpec(name="back"))
    async with asyncio.timeout(5):
        await read_events(api, 2, since="1")
    until = f"{api.node.clock.now() // 10**9}.999999999"
    params = {"since": "1", "until": until, "filters": msgspec.json.encode(filters).decode()}
    answer = await api.ask("GET", "/events", params=params)
    assert len(answer.raw.splitlines()) == count


async def test_a_listener_that_does_not_keep_up_is_cut_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE", 2)
    hub = events.EventHub(api.node, api.node.clock)
    listener = hub.listen()
    for number in range(4):
        hub.tell(events.Happening("service", "create", str(number), {}, START))
    assert listener.is_overrun
    assert [listener.queue.get_nowait().actor_id for _ in range(2)] == ["0", "1"]
    assert not hub.has_listeners
