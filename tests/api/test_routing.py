import pytest

from skep.api import authorize, routes, versions
from skep.api.authorize import ENGINE, EVERYONE, KEYS, SWARM, Access, Caller, CallerKind
from skep.api.call import Route, RouteTable, UnguardedRoute
from skep.api.routes.system import ping
from skep.model.errors import Forbidden, InvalidSpec

TABLE = RouteTable(routes.ALL)


def test_a_route_that_says_not_who_may_call_it_stops_the_start() -> None:
    with pytest.raises(UnguardedRoute, match="GET /anything"):
        RouteTable([Route("GET", "/anything", ping, frozenset())])


@pytest.mark.parametrize(
    ("method", "path", "found", "params"),
    [
        ("GET", "/services", "/services", {}),
        ("GET", "/services/abc", "/services/{id}", {"id": "abc"}),
        ("GET", "/services/abc/logs", "/services/{id}/logs", {"id": "abc"}),
        ("POST", "/services/create", "/services/create", {}),
        ("GET", "/distribution/registry:5000/team/app:1/json", None, {"name": "registry:5000/team/app:1"}),
        ("POST", "/containers/abc/attach", "/containers/{id}/attach", {"id": "abc"}),
        ("GET", "/images/team/app/history", "/images/{rest...}", {"rest": "team/app/history"}),
    ],
)
def test_finds_the_route(method: str, path: str, found: str | None, params: dict[str, str]) -> None:
    match = TABLE.find(method, path)
    assert match is not None
    assert found is None or match[0].path == found
    assert match[1] == params


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/service"), ("PATCH", "/services"), ("GET", "/services/a/b"), ("POST", "/_ping")],
)
def test_finds_nothing(method: str, path: str) -> None:
    assert TABLE.find(method, path) is None


def _expected(route: Route) -> Access:
    head = route.path.split("/")[1]
    if head in ("_ping", "version"):
        return EVERYONE
    if route.path in ("/swarm/init", "/swarm/join", "/swarm/leave", "/swarm/unlock", "/system/df"):
        return ENGINE
    if route.path in ("/skep/backup", "/skep/backup/saved"):
        return KEYS
    if head in (
        "swarm",
        "nodes",
        "services",
        "tasks",
        "networks",
        "secrets",
        "configs",
        "info",
        "events",
        "distribution",
        "skep",
    ):
        return SWARM
    return ENGINE


@pytest.mark.parametrize("route", routes.ALL, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.parametrize("kind", CallerKind)
def test_who_may_call_what(route: Route, kind: CallerKind) -> None:
    allowed = kind in _expected(route)
    if allowed:
        authorize.check(Caller(kind), route.access)
    else:
        with pytest.raises(Forbidden, match=kind.value):
            authorize.check(Caller(kind), route.access)


def test_workers_and_strangers_see_nothing_of_the_swarm_and_command_no_engine() -> None:
    assert not {CallerKind.WORKER, CallerKind.NOBODY} & (SWARM | ENGINE)
    assert CallerKind.NOBODY not in EVERYONE


@pytest.mark.parametrize(
    ("path", "asked", "rest"),
    [
        ("/v1.24/info", (1, 24), "/info"),
        ("/v1.51/info", (1, 51), "/info"),
        ("/info", (1, 51), "/info"),
        ("/v1.41", (1, 51), "/v1.41"),
        ("/v1.x/info", (1, 51), "/v1.x/info"),
    ],
)
def test_versions(path: str, asked: tuple[int, int], rest: str) -> None:
    assert versions.split_path(path) == (asked, rest)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "/v1.23/info",
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a "
            "newer version",
        ),
        ("/v1.52/info", "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("/v2.0/info", "client version 2.0 is too new. Maximum supported API version is 1.51"),
    ],
)
def test_refuses_versions_in_dockers_words(path: str, sentence: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        versions.split_path(path)
    assert str(refusal.value) == sentence
