"""A member's state out of a backup: the same objects and a fresh certificate, or a refusal."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import pytest
from tests.edge.test_control import Service
from tests.factories import a_cluster, a_node, a_service, a_task
from tests.identities import CLUSTER_ID, Authorities

from skep.api.backend import RestoreRequest
from skep.core import identity as certificates
from skep.daemon.manager import Means
from skep.daemon.restore import Place, Restored, restore
from skep.daemon.stores import STORE_FILE
from skep.edge import keyfile
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.control import ControlListener
from skep.edge.sqlite import SqliteStore
from skep.manager import backup as backups
from skep.manager.control.cluster import UNLOCK_PURPOSE
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.model.backup import BackupDamaged, Head, Scrypt, WrongPassPhrase
from skep.model.base import Object
from skep.model.cluster import JoinTokens
from skep.model.errors import Conflict, InvalidSpec, Unavailable
from skep.model.node import ManagerStatus, Node, NodeSpec, Role
from skep.store.state import State

pytestmark = pytest.mark.anyio

PHRASE = "correct horse battery staple"
CHEAP = Scrypt(salt=b"0123456789abcdef", n=2, r=1)
DATA_KEY = bytes(range(32))
REVISION = 5_000
ASKED = RestoreRequest(pass_phrase=PHRASE, advertise_addr="127.0.0.1")


@dataclass
class Saved:
    """A swarm that was saved, and the directory it is restored to."""

    staging: Path
    authorities: Authorities = field(default_factory=Authorities)
    managers: list[Node] = field(default_factory=list)

    @cached_property
    def objects(self) -> list[Object]:
        seal = Seal(DataKey.of(DATA_KEY))
        cluster = msgspec.structs.replace(
            a_cluster(
                join_tokens=JoinTokens(worker="W", manager="M"),
                authority=self.authorities.authority.sealed(seal),
                unlock_key=seal.seal(b"SWMKEY-1-x", UNLOCK_PURPOSE),
                data_path_port=4999,
            ),
            id=CLUSTER_ID,
        )
        web = a_service()
        tasks = [a_task(f"t{n}", service=web, slot=n, node_id="w1") for n in range(1, 400)]
        found = [cluster, *self.managers, a_node("w1"), web, *tasks]
        return [msgspec.structs.replace(each, version=REVISION, created_at=7, updated_at=8) for each in found]

    def raw(self) -> bytes:
        head = Head(
            cluster_id=CLUSTER_ID,
            node_id="m1",
            revision=REVISION,
            created_at=time.time_ns() - 10**9,
            skep="0.1.0",
            scrypt=CHEAP,
        )
        return b"".join(backups.write(head, backups.derive(PHRASE, CHEAP), DATA_KEY, self.objects))

    async def restore(self, raw: bytes, request: RestoreRequest = ASKED, hostname: str = "m1") -> Restored:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(raw), 10_000):
                yield raw[start : start + 10_000]

        return await restore(Place(self.staging, hostname, Means(SystemClock(), SystemDice())), request, pieces())

    async def state(self) -> State:
        store = await SqliteStore.open(self.staging / STORE_FILE, create=False)
        replica = Replica(store, SystemClock())
        await replica.open()
        await replica.close()
        await store.close()
        return replica.view


def a_manager(id: str, addr: str, *, leader: bool = False) -> Node:
    status = ManagerStatus(leader=leader, addr=addr)
    return msgspec.structs.replace(
        a_node(id), spec=NodeSpec(role=Role.MANAGER), role=Role.MANAGER, manager_status=status
    )


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    managers = [a_manager("m1", "127.0.0.1:2377", leader=True), a_manager("m2", "127.0.0.1:1")]
    return Saved(tmp_path, managers=managers)


async def test_every_object_is_there_as_it_was_and_this_machine_leads(saved: Saved) -> None:
    restored = await saved.restore(saved.raw())
    state = await saved.state()
    expected = {(type(each), each.id): each for each in saved.objects}
    found = {(type(each), each.id): each for _, each in state.objects()}
    assert found.keys() == expected.keys()
    touched = {CLUSTER_ID, "m1", "m2"}
    for key, value in found.items():
        assert value.version > REVISION + 1_000_000  # No client that knows an older number is taken for current.
        if value.id not in touched:
            assert msgspec.structs.replace(value, version=REVISION) == expected[key]
    cluster, before = state.cluster, saved.objects[0]
    assert cluster is not None
    assert cluster.backed_up_at > 0
    kept = msgspec.structs.replace(cluster, backed_up_at=0, version=REVISION, updated_at=8)
    assert kept == before
    own, other = state.nodes.get("m1"), state.nodes.get("m2")
    assert own is not None
    assert other is not None
    assert (own.manager_status, own.role) == (ManagerStatus(leader=True, addr="127.0.0.1:2377"), Role.MANAGER)
    assert (other.manager_status, other.spec.role) == (None, Role.WORKER)
    member = restored.member
    assert (member.node_id, member.cluster_id, member.role, member.data_path_port) == (
        "m1", CLUSTER_ID, Role.MANAGER, 4999,
    )  # fmt: skip
    identity = certificates.identity_of_pem(restored.credentials.certificate)
    assert (identity.node_id, identity.role, identity.serial) == ("m1", Role.MANAGER, own.certificate_serial)
    assert restored.credentials.root == saved.authorities.authority.root_pem
    assert keyfile.load_or_create_data_key(saved.staging) == DATA_KEY


@pytest.mark.parametrize(
    ("hostname", "addr"), [("m1", "127.0.0.2"), ("another", "127.0.0.1")], ids=["other address", "other name"]
)
async def test_another_machine_is_a_new_node(saved: Saved, hostname: str, addr: str) -> None:
    asked = RestoreRequest(pass_phrase=PHRASE, advertise_addr=addr)
    restored = await saved.restore(saved.raw(), asked, hostname)
    state = await saved.state()
    node = state.nodes.get(restored.member.node_id)
    assert node is not None
    assert node.id not in ("m1", "m2", "w1")
    assert (node.description.hostname, node.status.addr) == (hostname, addr)
    assert [each.id for each in state.nodes.values() if each.manager_status] == [node.id]


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def changed(raw: bytes) -> bytes:
    return raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]


@pytest.mark.parametrize("damage", [cut, changed])
async def test_a_damaged_backup_is_refused_though_it_began_well(saved: Saved, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BackupDamaged):
        await saved.restore(damage(saved.raw()))
    assert not (saved.staging / keyfile.DATA_KEY_FILE).exists()


async def test_the_wrong_pass_phrase_and_an_impossible_address_are_refused(saved: Saved) -> None:
    with pytest.raises(WrongPassPhrase):
        await saved.restore(saved.raw(), RestoreRequest(pass_phrase="another phrase", advertise_addr="127.0.0.1"))
    (saved.staging / STORE_FILE).unlink()
    with pytest.raises(InvalidSpec, match=r"192\.0\.2\.9"):
        await saved.restore(saved.raw(), RestoreRequest(pass_phrase=PHRASE, advertise_addr="192.0.2.9"))


async def test_a_disk_that_refuses_is_a_sentence(saved: Saved) -> None:
    (saved.staging / STORE_FILE).mkdir()
    with pytest.raises(Unavailable, match="cannot be restored here"):
        await saved.restore(saved.raw())


@pytest.mark.parametrize("is_forced", [False, True])
async def test_while_a_manager_of_that_swarm_answers_only_force_restores(tmp_path: Path, is_forced: bool) -> None:
    saved = Saved(tmp_path)
    own = saved.authorities.make("m2", Role.MANAGER)
    listener = ControlListener(Service(saved.authorities), lambda: own, CLUSTER_ID)
    port = await listener.start("127.0.0.1", 0)
    saved.managers = [a_manager("m1", "127.0.0.1:2377"), a_manager("m2", f"127.0.0.1:{port}")]
    asked = RestoreRequest(pass_phrase=PHRASE, advertise_addr="127.0.0.1", is_forced=is_forced)
    try:
        if is_forced:
            assert (await saved.restore(saved.raw(), asked)).member.node_id == "m1"
        else:
            with pytest.raises(Conflict, match=f"still has a manager at 127.0.0.1:{port}"):
                await saved.restore(saved.raw(), asked)
    finally:
        await listener.close()


async def test_a_stranger_at_a_managers_address_is_no_manager_of_that_swarm(tmp_path: Path) -> None:
    saved = Saved(tmp_path)
    others = Authorities()
    own = others.make("m2", Role.MANAGER)
    listener = ControlListener(Service(others), lambda: own, CLUSTER_ID)
    port = await listener.start("127.0.0.1", 0)
    saved.managers = [a_manager("m1", "127.0.0.1:2377"), a_manager("m2", f"127.0.0.1:{port}")]
    try:
        assert (await saved.restore(saved.raw())).member.node_id == "m1"
    finally:
        await listener.close()
