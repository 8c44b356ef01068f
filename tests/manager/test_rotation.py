"""New values behind one name, and the services that follow."""

import base64
from typing import Any

import pytest
from tests.manager.test_control import a_control, a_spec

from skep.manager.control.control import SwarmControl
from skep.model.errors import InvalidSpec
from skep.model.secret import VERSION_OF, ConfigSpec, Secret, SecretSpec
from skep.model.service import ConfigReference, ContainerSpec, FileTarget, SecretReference, Service

pytestmark = pytest.mark.anyio


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def a_secret(control: SwarmControl, name: str = "key") -> Secret:
    return await control.create_secret(SecretSpec(name=name, labels={"team": "red"}, data=encoded("one")))


def using(*secrets: Secret) -> dict[str, Any]:
    """A container with secrets."""
    targets = [FileTarget(name=f"k{n}") for n in range(len(secrets))]
    pairs = zip(secrets, targets, strict=True)
    return {"secrets": [SecretReference(secret_id=s.id, secret_name=s.spec.name, file=target) for s, target in pairs]}


def container_of(service: Service) -> ContainerSpec:
    container = service.spec.task_template.container_spec
    assert container is not None
    return container


def named(control: SwarmControl) -> dict[str, Secret]:
    return {secret.spec.name: secret for secret in control.view.secrets.values()}


async def test_the_name_moves_and_its_services_follow_others_stay() -> None:
    async with a_control() as control:
        old, other = await a_secret(control), await a_secret(control, "other")
        user = await control.create_service(a_spec("user", container=using(old, other)))
        idle = await control.create_service(a_spec("idle", container=using(other)))
        new = await control.rotate_secret("key", encoded("two"))
        assert new.sealed is not None
        assert new.sealed.box == b"two"[::-1]
        assert new.spec.labels == {"team": "red"}
        assert named(control)["key"].id == new.id
        assert named(control)["key.v1"].id == old.id
        after = control.find_service("user")
        assert [each.secret_id for each in container_of(after).secrets or ()] == [new.id, other.id]
        assert [each.secret_name for each in container_of(after).secrets or ()] == ["key", "other"]
        assert after.spec_version > user.spec_version
        assert control.find_service("idle") == idle


async def test_a_service_rolls_back_to_the_value_before() -> None:
    async with a_control() as control:
        old = await a_secret(control)
        await control.create_service(a_spec("user", container=using(old)))
        await control.rotate_secret("key", encoded("two"))
        service = control.find_service("user")
        after = await control.update_service(service.id, service.version, service.spec, is_rollback=True)
        assert [each.secret_id for each in container_of(after).secrets or ()] == [old.id]


async def test_versions_nobody_can_go_back_to_are_removed() -> None:
    async with a_control() as control:
        await control.create_service(a_spec("user", container=using(await a_secret(control))))
        for text in ("two", "three", "four", "five"):
            await control.rotate_secret("key", encoded(text))
        names = sorted(named(control))
        assert names[0] == "key"
        assert len(names) <= 3, names
        assert "key.v1" not in names


async def test_an_older_version_is_not_rotated_and_says_whose_it_is() -> None:
    async with a_control() as control:
        old = await a_secret(control)
        await control.rotate_secret("key", encoded("two"))
        assert named(control)["key.v1"].spec.labels[VERSION_OF] == "key"
        with pytest.raises(InvalidSpec, match=r"secret key\.v1 is an older version of key: rotate that"):
            await control.rotate_secret(old.id, encoded("three"))
        with pytest.raises(InvalidSpec, match="not base64"):
            await control.rotate_secret("key", "?")


async def test_configs_rotate_likewise() -> None:
    async with a_control() as control:
        old = await control.create_config(ConfigSpec(name="site", data=encoded("one")))
        reference = ConfigReference(config_id=old.id, config_name="site", file=FileTarget(name="site"))
        await control.create_service(a_spec("user", container={"configs": [reference]}))
        new = await control.rotate_config("site", encoded("two"))
        assert (new.data, new.spec.name) == (b"two", "site")
        assert [each.config_id for each in container_of(control.find_service("user")).configs or ()] == [new.id]
