"""Services from registries in skep's own command: the digest of a tag, and what docker login left."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon

from skep.cli.main import main

IMAGE = "reg.example:5000/team/app"
DIGEST = "sha256:" + "ab" * 32
CREATE, UPDATE = ("POST", "/services/create"), ("POST", "/services/s1/update")
ASK = ("GET", f"/distribution/{IMAGE}:1/json")
PASSWORD = base64.b64encode(b"ci:pass:word").decode()


def skep(daemon: Daemon, *words: str) -> Result:
    return CliRunner().invoke(main, ["-H", daemon.host, *words])


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where docker's config.json is; empty."""
    folder = tmp_path / "login"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


@pytest.fixture
def service(daemon: Daemon) -> Daemon:
    """A daemon that makes services, with a registry that has one image."""
    spec = {"Name": "app", "TaskTemplate": {"ContainerSpec": {"Image": f"{IMAGE}:0"}}, "Mode": {"Replicated": {}}}
    daemon.answers[CREATE] = {"ID": "s1"}
    daemon.answers[UPDATE] = {}
    daemon.answers["GET", "/services/app"] = {"ID": "s1", "Version": {"Index": 7}, "Spec": spec}
    daemon.answers[ASK] = {
        "Descriptor": {"digest": DIGEST},
        "Platforms": [{"architecture": "amd64", "os": "linux"}],
    }
    return daemon


def made(daemon: Daemon, call: tuple[str, str] = CREATE) -> dict[str, Any]:
    """The task template that was sent."""
    (body,) = [body for method, path, _, body in daemon.asked if (method, path) == call]
    return dict(body["TaskTemplate"])


def shown(daemon: Daemon, call: tuple[str, str]) -> dict[str, str]:
    return dict(json.loads(base64.urlsafe_b64decode(daemon.logins[call])))


def test_a_tag_is_pinned_to_its_digest_and_platforms(service: Daemon) -> None:
    result = skep(service, "service", "create", "-d", "--name", "app", f"{IMAGE}:1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert made(service)["ContainerSpec"]["Image"] == f"{IMAGE}:1@{DIGEST}"
    assert made(service)["Placement"]["Platforms"] == [{"Architecture": "amd64", "OS": "linux"}]
    assert service.logins == {}


@pytest.mark.parametrize(
    ("words", "is_warned"),
    [([f"{IMAGE}:none"], True), (["--no-resolve-image", f"{IMAGE}:1"], False), ([f"{IMAGE}@{DIGEST}"], False)],
    ids=["unknown", "not-wanted", "pinned-already"],
)
def test_what_is_not_pinned_stays_as_it_is(service: Daemon, words: list[str], is_warned: bool) -> None:
    result = skep(service, "service", "create", "-d", "--name", "app", *words)
    assert result.exit_code == 0
    assert ("could not be accessed on a registry" in result.stderr) == is_warned
    assert made(service)["ContainerSpec"]["Image"] == words[-1]


@pytest.mark.parametrize(
    ("entry", "credentials"),
    [
        ({"auth": PASSWORD}, {"username": "ci", "password": "pass:word"}),
        ({"auth": PASSWORD, "identitytoken": "t"}, {"identitytoken": "t"}),
    ],
    ids=["password", "identity-token"],
)
def test_a_login_goes_along(service: Daemon, login: Path, entry: dict[str, str], credentials: dict[str, str]) -> None:
    login.write_text(json.dumps({"auths": {"reg.example:5000": entry}}))
    assert skep(service, "service", "create", "-d", "--with-registry-auth", f"{IMAGE}:1").exit_code == 0
    expected = credentials | {"serveraddress": "reg.example:5000"}
    assert shown(service, CREATE) == shown(service, ASK) == expected
    words = ("service", "update", "-d", "--with-registry-auth", "app")
    assert skep(service, *words).exit_code == 0
    assert shown(service, UPDATE) == expected
    assert made(service, UPDATE)["ContainerSpec"]["Image"] == f"{IMAGE}:0"  # Only a new image is asked for.


def test_a_helper_is_asked_for_docker_hub(
    service: Daemon, login: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-keys"
    helper.write_text(
        '#!/bin/sh\n[ "$(cat)" = https://index.docker.io/v1/ ] && echo \'{"Username":"u","Secret":"s"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    login.write_text(json.dumps({"credsStore": "keys"}))
    assert skep(service, "service", "create", "-d", "--with-registry-auth", "busybox").exit_code == 0
    expected = {"username": "u", "password": "s", "serveraddress": "https://index.docker.io/v1/"}
    assert shown(service, CREATE) == expected


@pytest.mark.parametrize(
    "text", ["{}", '{"auths": {"other.example": {"auth": "eA=="}}}', None], ids=["empty", "other", "none"]
)
def test_nobody_logged_in_sends_nothing(service: Daemon, login: Path, text: str | None) -> None:
    if text is not None:
        login.write_text(text)
    assert skep(service, "service", "create", "-d", "--with-registry-auth", f"{IMAGE}:1").exit_code == 0
    assert service.logins == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read"),
        ('{"auths": {"reg.example:5000": {"auth": "?"}}}', "log in again"),
        ('{"credsStore": "no"}', "does not work"),
    ],
    ids=["file", "entry", "helper"],
)
def test_a_damaged_login_is_a_sentence(service: Daemon, login: Path, text: str, reason: str) -> None:
    login.write_text(text)
    result = skep(service, "service", "create", "-d", "--with-registry-auth", f"{IMAGE}:1")
    assert result.exit_code == 1
    assert reason in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_a_stacks_services_get_it_new_or_as_they_are(service: Daemon, login: Path, tmp_path: Path) -> None:
    login.write_text(json.dumps({"auths": {"reg.example:5000": {"auth": PASSWORD}}}))
    file = tmp_path / "compose.yaml"
    file.write_text(f"services:\n  app:\n    image: {IMAGE}:1\n")
    for kind in ("services", "networks", "secrets", "configs"):
        service.answers["GET", f"/{kind}"] = []
    service.answers["POST", "/networks/create"] = {"Id": "n1"}
    words = ("stack", "deploy", "-d", "--with-registry-auth", "-c", str(file), "shop")
    assert skep(service, *words).exit_code == 0
    expected = {"username": "ci", "password": "pass:word", "serveraddress": "reg.example:5000"}
    assert shown(service, CREATE) == expected
    spec = next(body for method, path, _, body in service.asked if (method, path) == CREATE)
    there = {"ID": "s1", "Version": {"Index": 7}, "Spec": spec}
    service.answers["GET", "/services"], service.answers["GET", "/services/s1"] = [there], there
    labels = {"com.docker.stack.namespace": "shop"}
    network = {"Id": "n1", "Name": "shop_default", "Scope": "swarm", "Driver": "overlay", "Labels": labels}
    service.answers["GET", "/networks"] = [network]
    assert skep(service, *words).exit_code == 0
    assert shown(service, UPDATE) == expected
    service.logins.clear()
    assert skep(service, *(word for word in words if word != "--with-registry-auth")).exit_code == 0
    assert service.logins == {}
