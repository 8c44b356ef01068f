"""The registry and roles: what a node's certificate makes of it, and of those it had before."""

import msgspec
import pytest
from tests.factories import a_node
from tests.manager.test_control import a_control

from skep.model.errors import SkepError
from skep.model.identity import Identity
from skep.model.node import NodeSpec, Role

pytestmark = pytest.mark.anyio


def issued(serial: str, role: Role) -> Identity:
    return Identity(node_id="n1", role=role, cluster_id="cluster", serial=serial)


async def test_a_demoted_managers_certificates_count_no_more_once_it_has_a_workers() -> None:
    node = msgspec.structs.replace(a_node(id="n1"), role=Role.MANAGER)
    async with a_control(node) as control:
        for serial in ("1", "2"):
            await control.registry.certify(issued(serial, Role.MANAGER))
        assert control.cluster().revoked_certificates == {}
        await control.registry.certify(issued("3", Role.WORKER))
        assert set(control.cluster().revoked_certificates) == {"1", "2"}
        await control.registry.certify(issued("4", Role.WORKER))
        assert set(control.cluster().revoked_certificates) == {"1", "2"}


async def test_a_former_manager_that_never_asked_again_is_revoked_when_it_is_removed() -> None:
    node = msgspec.structs.replace(a_node(id="n1"), role=Role.MANAGER, spec=NodeSpec(role=Role.WORKER))
    async with a_control(node) as control:
        await control.registry.certify(issued("1", Role.MANAGER))
        await control.remove_node("n1", is_forced=True)
        assert set(control.cluster().revoked_certificates) == {"1"}
        assert "n1" in control.cluster().removed_nodes
        with pytest.raises(SkepError):
            control.find_node("n1")
