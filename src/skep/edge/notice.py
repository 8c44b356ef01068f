"""Tell which rtnetlink notifications are about something of ours.

Edge: reads messages. The kernel tells of every neighbour and route of the host; comparing all of ours at each would
cost a busy host dearly, so only what can have undone a fact counts.
"""

from typing import Final

from skep.core.mesh import facts as f
from skep.core.mesh import naming
from skep.core.mesh.facts import Facts
from skep.edge import rtnetlink
from skep.edge.netlink import Reply
from skep.edge.space import Space

OF_ROUTES: Final = frozenset({rtnetlink.RTM_NEWROUTE, rtnetlink.RTM_DELROUTE})
OF_ADDRESSES: Final = frozenset({rtnetlink.RTM_NEWADDR, rtnetlink.RTM_DELADDR})


def concerns(reply: Reply, space: Space, known: Facts) -> bool:
    """Whether something we made may be gone or changed.

    Args:
        reply: Not caused by a request of ours.
        known: What the kernel should hold; only looked up in.
    """
    if reply.kind in OF_ROUTES:
        route = rtnetlink.read_route(reply)
        return f.Route(space.name, route.table, route.destination) in known
    if reply.kind == rtnetlink.RTM_DELRULE:
        return rtnetlink.read_rule(reply).protocol == naming.ROUTE_PROTOCOL
    if reply.kind == rtnetlink.RTM_DELLINK:
        return naming.is_ours(space.name, rtnetlink.read_link(reply).name)
    if reply.kind == rtnetlink.RTM_NEWLINK:
        link = rtnetlink.read_link(reply)
        return naming.is_ours(space.name, link.name) and (reply.port != 0 or not link.is_up)
    if reply.kind in OF_ADDRESSES:
        return rtnetlink.read_address(reply)[0] in space.our_indexes()
    if reply.kind == rtnetlink.RTM_DELNEIGH or (reply.kind == rtnetlink.RTM_NEWNEIGH and reply.port != 0):
        # With port 0 the kernel tells of states of neighbours it found itself: ours are fixed.
        return rtnetlink.read_neighbour(reply).index in space.our_indexes()
    return False
