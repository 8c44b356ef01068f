"""Services, tasks and their logs, with the JSON that clients read."""

import asyncio
import struct
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.api.conftest import Api
from tests.fakes.swarm import START

from skep.lib.timestamps import format_rfc3339
from skep.model.lifecycle import TaskState
from skep.model.node import NodeState
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


# --- /services and /tasks ------------------------------------------------------------


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


# --- logs ------------------------------------------------------------


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


SHOP = {"com.docker.stack.namespace": "shop"}


async def test_logs_of_a_stack_are_those_of_its_services(api: Api) -> None:
    await api.init()
    own = [await api.create(name, Labels=SHOP) for name in ("shop_web", "shop_db")]
    await api.create("other")
    api.swarm.logs = LINES[:1]
    answer = await api.ask("GET", "/skep/stacks/shop/logs", params={"stdout": "1", "details": "1"})
    assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    said = [line.decode().partition("service.id=")[2].partition(",")[0] for _, line in frames(answer.raw)]
    assert sorted(said) == sorted(own)
    missing = await api.ask("GET", "/skep/stacks/nope/logs", params={"stdout": "1"})
    assert (missing.status, missing.message) == (
        404,
        "nothing found in stack: nope; see which there are with skep stack ls",
    )


@pytest.mark.parametrize("path", ["/services/shop_web/logs", "/skep/stacks/shop/logs"])
async def test_a_follower_hears_tasks_of_later_on(api: Api, path: str) -> None:
    await api.init()
    await api.create("shop_web", Labels=SHOP)
    await api.create("other")
    api.swarm.logs = LINES[:1]
    query = {"stdout": "1", "follow": "1", "details": "1"}
    async with asyncio.timeout(10), api.session.get(f"http://node{path}", params=query) as response:
        await _next_frame(response)
        for name in ("other", "shop_web"):
            shown = await api.get(f"/services/{name}")
            spec = {**shown["Spec"], "Mode": {"Replicated": {"Replicas": 2}}}
            await api.ask("POST", f"/services/{name}/update?version={shown['Version']['Index']}", spec)
        line = await _next_frame(response)
    second = next(task for task in api.swarm.state.tasks.values() if task.slot == 2 and task.service_name == "shop_web")
    assert f"task.id={second.id}".encode() in line


async def _next_frame(response: aiohttp.ClientResponse) -> bytes:
    header = await response.content.readexactly(8)
    return await response.content.readexactly(struct.unpack(">BxxxL", header)[1])


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
