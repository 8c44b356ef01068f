"""`skep cluster store sqlite` on a manager's own files: every object is in a file again, or nothing was touched."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.daemon.test_store_switch import Machine

from skep.daemon import membership as memberships
from skep.daemon.store_commands import to_sqlite
from skep.edge.instance import InstanceLock
from skep.model.errors import Conflict, NotManager, Unavailable
from skep.model.node import Role


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    asyncio.run(made.found())
    try:
        yield made
    finally:
        made.close()


def moved(machine: Machine) -> str:
    """Run it; the run directory is the one whose `etcd` the machine's places name."""
    return to_sqlite(machine.directory, machine.places.run_dir.parent, machine.client)


def test_a_state_in_etcd_is_back_in_a_file_with_every_object(machine: Machine) -> None:
    machine.move()
    before = asyncio.run(machine.check())
    assert (
        moved(machine) == f"The state is in {machine.places.store_file} now, every object checked. Start skepd again."
    )
    assert machine.member.etcd is None
    assert asyncio.run(machine.check()) >= before
    assert moved(machine) == f"The state is in {machine.places.store_file} already."


def test_while_skepd_runs_nothing_is_moved(machine: Machine) -> None:
    with InstanceLock(machine.directory), pytest.raises(Unavailable, match="in use by another skepd"):
        moved(machine)


def test_only_a_settled_manager_has_a_state_to_move(machine: Machine, tmp_path: Path) -> None:
    member = machine.member
    for changed, refusal, words in (
        (msgspec.structs.replace(member, role=Role.WORKER), NotManager, "no manager"),
        (msgspec.structs.replace(member, is_entering=True), Conflict, "on its way"),
    ):
        memberships.save(machine.places.swarm_dir, changed)
        with pytest.raises(refusal, match=words):
            moved(machine)
    with pytest.raises(NotManager, match="no member of a swarm"):
        to_sqlite(tmp_path / "nowhere", tmp_path / "run")
