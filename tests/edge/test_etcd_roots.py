"""etcd members while one root follows another: they find each other at every step, restarted or not."""

import time
from pathlib import Path

import msgspec
import pytest
from tests.edge.test_etcd_member import LIMIT_S, Managers, write
from tests.factories import a_cluster, a_state
from tests.identities import CLUSTER_ID

from skep.agent.identity import accept_issued, new_key_request
from skep.core import trust
from skep.core.identity import MOST_BRIDGES
from skep.daemon.etcd_trust import TURN, is_turn
from skep.edge.etcd.member import EtcdMember
from skep.edge.etcd.members import Membership
from skep.manager.ca import CertificateAuthority
from skep.manager.control.authority import changed
from skep.manager.seal import DataKey, Seal
from skep.model.cluster import Authority, CAConfig, Cluster
from skep.model.identity import Identity
from skep.model.node import Role
from skep.store.changes import Put

SEAL = Seal(DataKey.of(b"\x07" * 32))


def certify(managers: Managers, member: EtcdMember, name: str, authority: Authority) -> None:
    """Give a manager a certificate, and the roots, as of now."""
    request = new_key_request()
    holder = Identity(node_id=name, role=Role.MANAGER, cluster_id=CLUSTER_ID)
    issuer = CertificateAuthority.open(authority, SEAL)
    issued = issuer.issue(request.csr, holder, now=time.time_ns(), address="127.0.0.1")
    managers.held[name] = accept_issued(request, issued)
    member.refresh()


def followed(rotating: Authority) -> Authority:
    """The authority once its rotation is complete, as the leader decides."""
    state = a_state(msgspec.structs.replace(a_cluster(), authority=rotating))
    (change,) = trust.reconcile(state, lambda n: b"\x01" * n).changes
    assert isinstance(change, Put)
    assert isinstance(change.value, Cluster)
    assert change.value.authority is not None
    return change.value.authority


async def two_members(managers: Managers) -> tuple[EtcdMember, EtcdMember]:
    """Both with a vote, on the first root."""
    managers.describe("m0")
    first = await managers.run("m0")
    settings = managers.describe("m1", joins="m0")
    membership = Membership(first.target)
    added = await membership.add(settings.peer_url)
    second = await managers.run("m1")
    await membership.promote(added.id, limit_s=LIMIT_S)
    await membership.close()
    return first, second


async def restart(member: EtcdMember) -> None:
    assert member.has_other_roots
    await member.restart()
    await member.wait_ready(LIMIT_S)
    assert not member.has_other_roots


@pytest.mark.anyio
async def test_members_find_each_other_while_one_root_follows_another(tmp_path: Path) -> None:
    """A member that is restarted dials all others and is dialled by them; with two, both are needed for any write."""
    managers = Managers(tmp_path)
    old = managers.authorities.authority.sealed(SEAL)
    rotating = changed(old, CAConfig(force_rotate=1), 0, SEAL, time.time_ns())
    new = followed(rotating)
    try:
        first, second = await two_members(managers)
        assert not first.has_other_roots

        certify(managers, first, "m0", rotating)
        await restart(first)  # The other one trusts only the old root and has a certificate of it.
        assert await write(first.target, "a") == {"a"}
        certify(managers, second, "m1", rotating)  # Never restarted amid the rotation: it still trusts only the old.
        certify(managers, first, "m0", new)
        await restart(first)
        assert await write(second.target, "b") == {"a", "b"}
        certify(managers, second, "m1", new)
        await restart(second)
        assert await write(first.target, "c") == {"a", "b", "c"}
    finally:
        await managers.close()


@pytest.mark.anyio
async def test_a_member_that_missed_several_changes_of_the_root_still_knows_the_others(tmp_path: Path) -> None:
    """As where an operator changes the root again before it was the member's turn to restart."""
    managers = Managers(tmp_path)
    authority = managers.authorities.authority.sealed(SEAL)
    try:
        first, second = await two_members(managers)
        for n in range(1, MOST_BRIDGES + 1):
            authority = followed(changed(authority, CAConfig(force_rotate=n), n - 1, SEAL, time.time_ns()))
            certify(managers, first, "m0", authority)
            certify(managers, second, "m1", authority)
        await restart(first)  # The other one trusts only the very first root.
        assert await write(second.target, "a") == {"a"}
        assert await write(first.target, "b") == {"a", "b"}
        await restart(second)
        assert await write(first.target, "c") == {"a", "b", "c"}
    finally:
        await managers.close()


def test_turns_never_meet() -> None:
    members = [7, 8, 9]
    moments = range(0, 3 * TURN, TURN // 8)
    for now in moments:
        assert sum(is_turn(members, own, now) for own in members) == (now % TURN < TURN // 2)
    assert all(any(is_turn(members, own, now) for now in moments) for own in members)
    assert not is_turn(members, 5, 0)
