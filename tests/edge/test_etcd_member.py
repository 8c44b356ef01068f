"""A manager's own etcd member, as a real process: kept running, found again, joined by others."""

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from tests.etcd_members import BRISK, CALM, free_ports
from tests.identities import Authorities

from skep.core.identity import identity_of_pem
from skep.edge.etcd.gateway import Target
from skep.edge.etcd.member import EtcdMember
from skep.edge.etcd.members import MemberRefused, Membership
from skep.edge.etcd.settings import MemberSettings, Timing, version_warning
from skep.edge.etcd.store import EtcdStore
from skep.edge.kept_process import KeepingLimits
from skep.edge.tls_context import client_context
from skep.model.identity import MANAGER_NAME, Credentials
from skep.model.node import Role
from skep.ports.store import StoreUnavailable, Write

pytestmark = pytest.mark.anyio
LIMIT_S = 90
QUICK = KeepingLimits(ping_every_s=0.1, pings_missed=3, end_s=10, first_delay_s=0.05)


def put(id: str, at: int = 0) -> Write:
    return Write("task", id, b"v", at)


class Managers:
    """Machines of one swarm that run members, on one loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = Authorities()
        self.held: dict[str, Credentials] = {}
        self.settings: dict[str, MemberSettings] = {}
        self.living: list[EtcdMember] = []

    def describe(self, name: str, *, joins: str = "") -> MemberSettings:
        """Settings of a first member, or of one that joins another's cluster."""
        peer, client = free_ports(2)
        url = f"https://127.0.0.1:{peer}"
        folder = self.directory / name
        self.held[name] = self.authorities.make(name, Role.MANAGER, address="127.0.0.1")
        self.settings[name] = MemberSettings(
            name=name,
            data_dir=folder / "etcd",
            run_dir=folder / "run",
            peer_url=url,
            client_url=f"https://127.0.0.1:{client}",
            initial={name: url} | {other: each.peer_url for other, each in self.settings.items() if joins},
            token="tests",
            is_joining=bool(joins),
            timing=Timing(heartbeat_ms=100, election_ms=1000),
        )
        return self.settings[name]

    def member(self, name: str, limits: KeepingLimits = QUICK) -> EtcdMember:
        member = EtcdMember(self.settings[name], lambda: self.held[name], CALM, limits)
        self.living.append(member)
        return member

    async def run(self, name: str) -> EtcdMember:
        member = self.member(name)
        await member.start()
        await member.wait_ready(LIMIT_S)
        return member

    async def close(self) -> None:
        for member in self.living:
            await member.close()
        for pid_file in self.directory.glob("*/run/etcd.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[Managers]:
    made = Managers(tmp_path)
    try:
        yield made
    finally:
        await made.close()


async def write(target: Target, *ids: str) -> set[str]:
    """Write rows and tell what is there."""
    store = await EtcdStore.open(target, "swarm", "m0")
    try:
        for id in ids:
            await store.commit([put(id)])
        return {row.id for row in (await store.load())[1]}
    finally:
        await store.close()


async def wait_restarted(member: EtcdMember, pid: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while member.pid in (0, pid):  # noqa: ASYNC110 — a process tells nobody
            await asyncio.sleep(0.02)
    await member.wait_ready(LIMIT_S)


def is_alive(pid: int) -> bool:
    """Whether it runs; a process that has ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_it_keeps_what_was_written_over_a_graceful_end(managers: Managers) -> None:
    managers.describe("m0")
    first = await managers.run("m0")
    assert await write(first.target, "a") == {"a"}
    pid = first.pid
    await first.close()
    assert not is_alive(pid)
    second = await managers.run("m0")
    assert await write(second.target, "b") == {"a", "b"}
    assert (managers.settings["m0"].run_dir / "key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.soak)])
async def test_a_member_that_dies_or_hangs_is_started_again(managers: Managers, number: signal.Signals) -> None:
    managers.describe("m0")
    member = await managers.run("m0")
    await write(member.target, "a")
    pid = member.pid
    os.kill(pid, number)
    await wait_restarted(member, pid)
    assert not is_alive(pid)
    assert member.n_restarts == 1
    assert await write(member.target, "b") == {"a", "b"}


async def test_the_next_daemon_adopts_it_or_replaces_what_is_not_the_same(managers: Managers) -> None:
    settings = managers.describe("m0")
    first = await managers.run("m0")
    await write(first.target, "a")
    pid = first.pid
    await first.detach()  # All that a killed daemon leaves: the process and its pid file.
    second = await managers.run("m0")
    assert second.pid == pid
    await second.detach()
    managers.settings["m0"] = replace(settings, timing=Timing(heartbeat_ms=150, election_ms=1500))
    third = await managers.run("m0")
    assert third.pid != pid
    assert not is_alive(pid)
    assert await write(third.target) == {"a"}


async def test_a_pid_that_is_something_elses_by_now_is_left_alone(managers: Managers) -> None:
    settings = managers.describe("m0")
    settings.run_dir.mkdir(parents=True)
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        (settings.run_dir / "etcd.pid").write_text(str(bystander.pid))
        await managers.run("m0")
        assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


async def test_a_member_that_cannot_run_says_why(managers: Managers) -> None:
    settings = managers.describe("m0")
    with socket.create_server(("127.0.0.1", int(settings.peer_url.rpartition(":")[2]))):
        member = managers.member("m0")
        await member.start()
        async with asyncio.timeout(LIMIT_S):
            while not member.n_restarts:  # noqa: ASYNC110 — a process tells nobody
                await asyncio.sleep(0.02)
        with pytest.raises(StoreUnavailable, match="address already in use"):
            await member.wait_ready(0.01)
        await member.close()


@pytest.mark.parametrize("n_joining", [1, pytest.param(2, marks=pytest.mark.soak)])
async def test_members_join_as_learners_vote_and_go(managers: Managers, n_joining: int) -> None:
    managers.describe("m0")
    first = await managers.run("m0")
    await write(first.target, "a")
    membership = Membership(first.target)
    try:
        members = [first]
        for name in ("m1", "m2")[:n_joining]:
            settings = managers.describe(name, joins="m0")
            added = await membership.add(settings.peer_url)
            assert added.is_learner
            assert await membership.add(settings.peer_url) == added
            members.append(await managers.run(name))
            await membership.promote(added.id, limit_s=LIMIT_S)
            await membership.promote(added.id, limit_s=LIMIT_S)
        found = await membership.members()
        assert {(member.name, member.is_learner) for member in found} == {
            (f"m{n}", False) for n in range(n_joining + 1)
        }
        assert await write(members[-1].target, "b") == {"a", "b"}
        await _check_status(first, found[0].id, {member.id for member in found})

        leaver = next(member for member in found if member.name == "m1")
        await membership.remove(leaver.id)
        await membership.remove(leaver.id)
        await members[1].close()
        assert await write(members[0].target, "c") == {"a", "b", "c"}
        with pytest.raises(MemberRefused):
            await membership.promote(leaver.id, limit_s=LIMIT_S)
    finally:
        await membership.close()


async def _check_status(member: EtcdMember, some_id: int, ids: set[int]) -> None:
    membership = Membership(member.target)
    try:
        async with asyncio.timeout(LIMIT_S):
            while (status := await membership.status()).reachable != ids:  # noqa: ASYNC110 — nor does etcd
                await asyncio.sleep(0.05)
        assert status.leader_id in ids
        assert some_id in ids
        assert not status.is_learner
        assert status.size_bytes >= status.used_bytes > 0
        progress = await membership.progress()
        assert progress.member_id == status.id
        assert 0 <= progress.committed - progress.applied < 1000
        assert progress.applied > 0
        assert list(status.alarms) == []
    finally:
        await membership.close()


async def test_a_workers_certificate_opens_no_peer_port(managers: Managers) -> None:
    settings = managers.describe("m0")
    await managers.run("m0")
    assert await _peer_answers(settings.peer_url, managers.held["m0"])
    worker = managers.authorities.make("w1", Role.WORKER, address="127.0.0.1")
    assert not await _peer_answers(settings.peer_url, worker)
    stranger = Authorities().make("m1", Role.MANAGER, address="127.0.0.1")
    assert not await _peer_answers(settings.peer_url, replace_root(stranger, managers.held["m0"].root))


async def test_a_revoked_managers_certificate_opens_no_peer_port(managers: Managers) -> None:
    settings = managers.describe("m0")
    member = await managers.run("m0")
    former = managers.authorities.make("m1", Role.MANAGER, address="127.0.0.1")
    assert await _peer_answers(settings.peer_url, former)
    member.revoke([identity_of_pem(former.certificate).serial])
    assert not await _peer_answers(settings.peer_url, former)
    assert await _peer_answers(settings.peer_url, managers.held["m0"])


def replace_root(held: Credentials, root: str) -> Credentials:
    return Credentials(certificate=held.certificate, key=held.key, root=root)


async def _peer_answers(url: str, held: Credentials) -> bool:
    """Whether a peer port serves a request to who holds these credentials."""
    port = int(url.rpartition(":")[2])
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(held.root, held), server_hostname=MANAGER_NAME
        )
    except (ssl.SSLError, OSError):
        return False
    try:
        writer.write(b"GET /version HTTP/1.0\r\n\r\n")
        await writer.drain()
        return b"200" in await reader.readline()
    except (ssl.SSLError, OSError):
        return False
    finally:
        writer.close()


async def test_a_renewed_certificate_is_used_without_a_restart(managers: Managers) -> None:
    settings = managers.describe("m0")
    member = await managers.run("m0")
    pid = member.pid
    before = await _serial(settings.client_url, managers.held["m0"])
    managers.held["m0"] = managers.authorities.make("m0", Role.MANAGER, address="127.0.0.1")
    member.refresh()
    after = await _serial(settings.client_url, managers.held["m0"])
    assert before != after
    assert member.pid == pid
    assert await write(member.target, "a") == {"a"}


async def test_a_member_whose_certificate_had_ended_serves_once_it_is_renewed(managers: Managers) -> None:
    """Nobody tells it: the daemon is still waiting for it."""
    managers.describe("m0")
    managers.held["m0"] = managers.authorities.make("m0", Role.MANAGER, address="127.0.0.1", life_s=-1)
    member = managers.member("m0")
    await member.start()
    with pytest.raises(StoreUnavailable):
        await member.wait_ready(1)
    managers.held["m0"] = managers.authorities.make("m0", Role.MANAGER, address="127.0.0.1")
    await member.wait_ready(LIMIT_S)
    assert await write(member.target, "a") == {"a"}


async def _serial(url: str, held: Credentials) -> int:
    """The serial number of the certificate that a client is shown."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", int(url.rpartition(":")[2]), ssl=client_context(held.root, held), server_hostname=MANAGER_NAME
    )
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number
    finally:
        writer.close()


@pytest.mark.soak
async def test_without_a_quorum_the_member_is_not_restarted_and_tells_how_it_fares(managers: Managers) -> None:
    managers.describe("m0")
    first = await managers.run("m0")
    settings = managers.describe("m1", joins="m0")
    membership = Membership(replace(first.target, patience=BRISK))
    try:
        added = await membership.add(settings.peer_url)
        second = await managers.run("m1")
        await membership.promote(added.id, limit_s=LIMIT_S)
        pid = first.pid
        await second.close()
        async with asyncio.timeout(LIMIT_S):
            while added.id in (await membership.status()).reachable:  # noqa: ASYNC110 — nor does etcd
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)  # Several times as long as a hung member is given.
        assert (first.pid, first.n_restarts) == (pid, 0)
        with pytest.raises(StoreUnavailable):
            await EtcdStore.open(
                Target(first.target.endpoints, first.target.context, MANAGER_NAME, replace(BRISK, load_s=1)), "s", "m0"
            )
    finally:
        await membership.close()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("3.4.23", "advised"),
        ("3.5.9", "advised"),
        ("3.5.33", ""),
        ("3.6.0", "advised"),
        ("3.6.14", ""),
        ("3.7.0", ""),
        ("3.3.1", "too old"),
        ("nightly", "unknown way"),
    ],
)
def test_a_version_with_known_defects_is_named(version: str, says: str) -> None:
    assert (says in version_warning(version)) if says else version_warning(version) == ""
