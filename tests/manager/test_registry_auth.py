"""Registry credentials: sealed with their service, kept through updates, and given to the nodes of its tasks only."""

import base64

import msgspec
import pytest
from tests import factories
from tests.manager.test_control import MirrorSealer, a_control, a_spec

from skep.api import documents
from skep.manager.shelf import Shelf
from skep.model.errors import InvalidSpec
from skep.model.lifecycle import TaskState
from skep.model.registry import AuthSource
from skep.model.service import Service, registry_auth_purpose
from skep.model.session import FileKind, FileWanted

pytestmark = pytest.mark.anyio


def a_header(password: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode({"username": "ci", "password": password})).decode()


FIRST, SECOND = a_header("first"), a_header("second")


def held(service: Service) -> str:
    sealed = service.registry_auth
    return MirrorSealer().open(sealed, registry_auth_purpose(service.id)).decode() if sealed else ""


async def test_credentials_are_sealed_and_shown_to_nobody() -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec(), auth=AuthSource(FIRST))
        assert held(service) == FIRST
        assert FIRST.encode() not in msgspec.msgpack.encode(service)
        changed = await control.update_service("web", service.version, a_spec(labels={"a": "b"}))
        shown = msgspec.json.encode([documents.service(each, with_defaults=True) for each in (service, changed)])
        assert b"auth" not in shown.lower()


async def test_an_update_keeps_them_renews_them_or_takes_those_of_the_spec_before() -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec(), auth=AuthSource(FIRST))
        service = await control.update_service("web", service.version, a_spec(labels={"a": "1"}))
        assert held(service) == FIRST
        service = await control.update_service("web", service.version, a_spec(), auth=AuthSource(SECOND))
        assert held(service) == SECOND
        before = AuthSource(taken_from="previous-spec")
        service = await control.update_service("web", service.version, a_spec(labels={"a": "2"}), auth=before)
        assert held(service) == FIRST
        service = await control.update_service("web", service.version, a_spec(), is_rollback=True, auth=before)
        assert held(service) == SECOND


@pytest.mark.parametrize("header", ["", "e30=", "e30", "bnVsbA=="], ids=["none", "empty", "unpadded", "null"])
async def test_credentials_of_nobody_are_none(header: str) -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec(), auth=AuthSource(header))
        assert service.registry_auth is None


@pytest.mark.parametrize(
    ("auth", "reason"),
    [
        pytest.param(AuthSource("{}"), "X-Registry-Auth is not JSON in base64", id="no base64"),
        pytest.param(AuthSource("W10="), "X-Registry-Auth is not JSON in base64", id="a list"),
        pytest.param(AuthSource("A" * 20_000), "X-Registry-Auth is longer than", id="endless"),
        pytest.param(AuthSource(taken_from="thin air"), "unsupported registryAuthFrom value 'thin air'", id="from"),
    ],
)
async def test_what_cannot_be_meant_is_refused_without_being_repeated(auth: AuthSource, reason: str) -> None:
    async with a_control() as control:
        with pytest.raises(InvalidSpec, match=reason):
            await control.create_service(a_spec(), auth=auth)
        assert not list(control.view.services.values())


WANTED = FileWanted(task_id="t1", kind=FileKind.REGISTRY_AUTH, file_id="web")


@pytest.mark.parametrize(
    ("node_id", "wanted", "payload"),
    [
        pytest.param("n1", WANTED, FIRST, id="its node"),
        pytest.param("n2", WANTED, "", id="another node"),
        pytest.param("n1", msgspec.structs.replace(WANTED, file_id="db"), "", id="another service"),
        pytest.param("n1", msgspec.structs.replace(WANTED, task_id="t2"), "", id="a task that has ended"),
        pytest.param("n1", msgspec.structs.replace(WANTED, task_id="t3"), "", id="a service without any"),
    ],
)
def test_only_a_node_with_a_task_of_the_service_gets_them(node_id: str, wanted: FileWanted, payload: str) -> None:
    sealed = MirrorSealer().seal(FIRST.encode(), registry_auth_purpose("web"))
    web, db = factories.a_service("web", registry_auth=sealed), factories.a_service("db")
    state = factories.a_state(
        web,
        db,
        factories.a_task("t1", service=web, state=TaskState.PREPARING, node_id="n1"),
        factories.a_task("t2", service=web, state=TaskState.FAILED, node_id="n1"),
        factories.a_task("t3", service=db, state=TaskState.PREPARING, node_id="n1"),
    )
    sent = Shelf(lambda: state, MirrorSealer()).answer(node_id, wanted)
    assert sent.payload.decode() == payload
    assert bool(sent.error) == (not payload)
    assert FIRST not in repr(sent)
