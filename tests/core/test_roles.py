"""Which role a node's certificate is to have."""

import msgspec
import pytest
from tests.factories import a_node

from skep.core.roles import certified_role
from skep.model.node import ManagerStatus, NodeSpec, Role

KEPT = ManagerStatus(addr="192.0.2.1:2377")


@pytest.mark.parametrize(
    ("wanted", "status", "certified"),
    [
        pytest.param(Role.WORKER, None, Role.WORKER, id="a worker"),
        pytest.param(Role.MANAGER, None, Role.MANAGER, id="promoted"),
        pytest.param(Role.MANAGER, KEPT, Role.MANAGER, id="a manager"),
        pytest.param(Role.WORKER, KEPT, Role.MANAGER, id="demoted and not taken out yet"),
    ],
)
def test_a_certificate_follows_the_wanted_role_but_not_ahead_of_the_store(
    wanted: Role, status: ManagerStatus | None, certified: Role
) -> None:
    node = msgspec.structs.replace(a_node(), spec=NodeSpec(role=wanted), manager_status=status)
    assert certified_role(node) is certified
