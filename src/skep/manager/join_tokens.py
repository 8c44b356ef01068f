"""What a join token is good for: as what, until when, and for how many nodes.

Pure. Both tokens are always compared, in a time that tells nothing, and whatever is wrong has one answer.
"""

import msgspec

from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster, TokenLimit
from skep.model.errors import InvalidSpec
from skep.model.identity import REFUSED, is_same_token
from skep.model.node import Role


def role_of_token(token: str, cluster: Cluster) -> Role | None:
    """What a token lets its bearer become, if it is still good; None if it is none."""
    is_manager = is_same_token(token, cluster.join_tokens.manager)
    is_worker = is_same_token(token, cluster.join_tokens.worker)
    if is_manager:
        return Role.MANAGER
    return Role.WORKER if is_worker else None


def limit_of(cluster: Cluster, role: Role) -> TokenLimit | None:
    """What limits a role's token; None for nothing."""
    return cluster.token_limits.manager if role is Role.MANAGER else cluster.token_limits.worker


def is_good(limit: TokenLimit | None, now: Nanoseconds, *, has_joined: bool = False) -> bool:
    """Whether a token still lets a node in.

    Args:
        has_joined: The node is in already and only asks again, because the answer was lost: that is not another use.
    """
    if limit is None:
        return True
    if limit.ends_at and now >= limit.ends_at:
        return False
    return has_joined or limit.uses_left is None or limit.uses_left > 0


def charged(cluster: Cluster, token: str, now: Nanoseconds) -> Cluster | None:
    """The cluster once a token has let another node in; None if its uses are not counted.

    Raises:
        InvalidSpec: The token is no longer good: replaced, ended or used up since it was looked at.
    """
    role = role_of_token(token, cluster)
    limit = limit_of(cluster, role) if role is not None else None
    if role is None or not is_good(limit, now):
        raise InvalidSpec(REFUSED)
    if limit is None or limit.uses_left is None:
        return None
    rest = msgspec.structs.replace(limit, uses_left=limit.uses_left - 1)
    limits = msgspec.structs.replace(cluster.token_limits, **{role.value: rest})
    return msgspec.structs.replace(cluster, token_limits=limits)
