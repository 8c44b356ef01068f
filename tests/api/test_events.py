"""The swarm's events."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.api.conftest import Api
from tests.fakes.swarm import START

from skep.api import events
from skep.model.network import NetworkSpec
from skep.model.node import Availability
from skep.store.changes import Put

pytestmark = pytest.mark.anyio


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
        hub.flush()
    assert listener.is_overrun
    assert told(listener) == ["0", "1"]
    assert not hub.has_listeners


def told(listener: events.Listener) -> list[str]:
    """Take what a listener was offered; ids of what it is about."""
    taken: list[str] = []
    while (burst := listener.take()) is not None:
        taken += [event.actor_id for event in burst.events]
    return taken


async def test_the_first_event_goes_out_at_once_and_what_follows_goes_together(api: Api) -> None:
    hub = events.EventHub(api.node, api.node.clock)
    listener = hub.listen()
    for number in range(4):
        hub.tell(events.Happening("service", "create", str(number), {}, START))
    assert told(listener) == ["0"]
    async with asyncio.timeout(5):
        await listener.wait()
    burst = listener.take()
    assert burst is not None
    assert [event.actor_id for event in burst.events] == ["1", "2", "3"]
    assert burst.lines.count(b"\n") == 3


async def test_a_newcomer_is_not_told_what_was_held_back_for_others(api: Api) -> None:
    hub = events.EventHub(api.node, api.node.clock)
    earlier = hub.listen()
    for number in range(2):
        hub.tell(events.Happening("service", "create", str(number), {}, START))
    newcomer = hub.listen()
    assert told(earlier) == ["0", "1"]
    assert told(newcomer) == []
    assert [event.actor_id for event in hub.since(START)] == ["0", "1"]
