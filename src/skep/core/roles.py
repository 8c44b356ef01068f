"""Which role a node's certificate is to have.

Pure. A manager that was demoted keeps its certificate until it is no longer one of those that keep the state: without
it, it could not even be taken out in order.
"""

from skep.model.node import Node, Role


def certified_role(node: Node) -> Role:
    """The role the node's next certificate is to have."""
    return Role.MANAGER if node.manager_status is not None else node.spec.role
