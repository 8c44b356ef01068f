"""An engine's events in Docker's words."""

from typing import Any

import msgspec
import pytest

from skep.api import engine_events

PODMANS = {"containerExitCode": "0", "image": "", "name": "x", "podId": ""}


def line(kind: str, action: str, id: str = "", **attributes: str) -> bytes:
    return msgspec.json.encode(
        {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": id, "Attributes": attributes},
            "time": 7,
            "timeNano": 7_000_001,
        }
    )


@pytest.mark.parametrize(
    ("kind", "action", "id", "attributes", "expected"),
    [
        ("volume", "create", "", PODMANS | {"name": "data"}, ("create", "data", {"driver": "local"})),
        ("volume", "remove", "", PODMANS | {"name": "data"}, ("destroy", "data", {"driver": "local"})),
        ("image", "pull", "", PODMANS | {"name": "redis:7"}, ("pull", "redis:7", {"name": "redis:7"})),
        ("image", "tag", "sha", PODMANS | {"name": "a:1"}, ("tag", "sha", {"name": "a:1"})),
        ("image", "loadfromarchive", "", PODMANS | {"name": "f"}, ("load", "f", {"name": "f"})),
        (
            "container",
            "died",
            "c",
            PODMANS | {"image": "redis", "containerExitCode": "3", "team": "red"},
            ("die", "c", {"image": "redis", "name": "x", "exitCode": "3", "team": "red"}),
        ),
        ("container", "start", "c", PODMANS | {"image": "r"}, ("start", "c", {"image": "r", "name": "x"})),
        ("container", "remove", "c", PODMANS | {"image": "r"}, ("destroy", "c", {"image": "r", "name": "x"})),
        ("container", "exec_died", "c", PODMANS, ("exec_die", "c", {"image": "", "name": "x", "exitCode": "0"})),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
def test_podmans_events_are_told_as_dockers(
    kind: str, action: str, id: str, attributes: dict[str, str], expected: tuple[str, str, dict[str, str]]
) -> None:
    event = engine_events.read(line(kind, action, id, **attributes))
    assert event is not None
    assert (event.action, event.actor_id, event.attributes) == expected
    assert (event.type, event.scope, event.time) == (kind, "local", 7_000_001)


@pytest.mark.parametrize(
    ("kind", "action"),
    [("container", "init"), ("container", "cleanup"), ("system", "refresh"), ("volume", "prune"), ("pod", "create")],
)
def test_what_docker_has_no_event_for_is_not_told(kind: str, action: str) -> None:
    assert engine_events.read(line(kind, action, **PODMANS)) is None


def test_dockers_own_events_pass_as_they_are() -> None:
    seen: Any = engine_events.read(line("volume", "mount", "data", container="c", driver="local"))
    assert (seen.action, seen.actor_id, seen.attributes) == ("mount", "data", {"container": "c", "driver": "local"})


def test_what_only_holds_a_sandbox_is_not_told() -> None:
    assert engine_events.read(line("container", "start", "p", **{"skep.pause": "c"})) is None


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b'{"Type":1}'])
def test_what_is_no_event_is_left_out(text: bytes) -> None:
    assert engine_events.read(text) is None
