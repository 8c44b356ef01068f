"""nft text: what a namespace's table looks like, and the transaction from one program to the next.

Pure. One table per namespace, named `skep`. Its skeleton (sets, maps, base chains) changes with the node's surroundings
only; services are chains of their own reached through verdict maps, so that a packet's cost does not grow with them
and a change rewrites one chain. Base chains that forbid come before raw and filter priorities: a user's `accept`
elsewhere does not open them. Source: nft(8), netfilter hook priorities.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from skep.core.mesh import naming
from skep.core.mesh.facts import Balance, Chain, Edits, Element, Fact, Facts, Skeleton, Space, Value

# A client that reuses the port of a connection the task has reset: conntrack takes its SYN for a stray of that one and
# lets it follow to the task it had, which listens no more. So what was reset is followed for a second only, for packets
# still under way, and until then a SYN is dropped: the client sends it again, and that reaches a task that listens.
AFTER_RESET = """ct timeout after_reset {
    protocol tcp
    l3proto ip
    policy = { close : 1 }
  }"""
FORGET_RESET = 'meta l4proto tcp ct status dnat ct timeout set "after_reset"'
SYN_AFTER_RESET = (
    "tcp flags & (fin | syn | rst | ack) == syn ct state established ct status dnat ct expiration <= 1s drop"
)

MARK = f"{naming.MARK_TAG:#010x}"
MASK = f"{naming.MARK_MASK:#010x}"


def node_skeleton(*, port: int, mesh: str, ingress_subnets: Sequence[str]) -> str:
    """The table of the node's own namespace.

    Args:
        port: UDP port of VXLAN.
        mesh: The node's ingress address; empty without, then the address of the way out stands in for it.
        ingress_subnets: To tell whose connection an ICMP error is about.
    """
    as_node = f"snat to {mesh}" if mesh else "masquerade"
    about_tasks = "\n    ".join(
        # The quoted packet was going to a task, so the connection is this node's own, not one of the peer's zone.
        f'iifname "{naming.INGRESS_DEVICE}" icmp type {{ destination-unreachable, time-exceeded, parameter-problem }}'
        f" @th,192,32 & {_mask(subnet)} == {_network(subnet)} return"
        for subnet in ingress_subnets
    )
    return f"""
  {AFTER_RESET}
  set peers {{ type ipv4_addr; }}
  set nodes {{ type ipv4_addr; }}
  set pins {{ typeof iifname . ether saddr . ip saddr; }}
  set confined {{ type ifname; }}
  map zones {{ typeof ether saddr : ct zone; }}
  map marks {{ type ether_addr : mark; }}
  map published {{ type inet_proto . inet_service : verdict; }}
  chain guard {{
    type filter hook prerouting priority -350;
    iifname != "lo" ip saddr 127.0.0.0/8 drop
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    udp dport {port} fib daddr type local ip saddr != @peers drop
    iifname "{naming.GATEWAY_PREFIX}*" iifname . ether saddr . ip saddr != @pins drop
    {about_tasks}
    iifname "{naming.INGRESS_DEVICE}" ct original zone set ether saddr map @zones
  }}
  chain reopen {{
    type filter hook prerouting priority -150;
    {SYN_AFTER_RESET}
  }}
  chain reopen_own {{
    type filter hook output priority -150;
    {SYN_AFTER_RESET}
  }}
  chain remember {{
    type filter hook prerouting priority -150;
    iifname "{naming.INGRESS_DEVICE}" ct state new ct direction original ct mark set ether saddr map @marks
    iifname "{naming.GATEWAY_PREFIX}*" ct direction reply ct mark & {MASK} == {MARK} meta mark set ct mark
  }}
  chain translate {{
    type nat hook prerouting priority -100;
    fib daddr type local meta l4proto . th dport vmap @published
  }}
  chain translate_own {{
    type nat hook output priority -100;
    fib daddr type local meta l4proto . th dport vmap @published
  }}
  chain pass {{
    type filter hook forward priority -310;
    iifname "{naming.GATEWAY_PREFIX}*" goto from_task
    iifname "{naming.INGRESS_DEVICE}" goto from_peer
    oifname "{naming.GATEWAY_PREFIX}*" goto from_outside
    oifname "{naming.INGRESS_DEVICE}" goto from_outside
  }}
  chain from_task {{
    ct state invalid,untracked drop
    ct direction reply return
    iifname @confined drop
    ct status dnat return
    oifname "{naming.GATEWAY_PREFIX}*" drop
    oifname "{naming.INGRESS_DEVICE}" drop
  }}
  chain from_peer {{
    ct state invalid,untracked drop
    ct direction reply return
    oifname "{naming.GATEWAY_PREFIX}*" return
    drop
  }}
  chain from_outside {{
    ct state invalid,untracked drop
    ct direction reply return
    ct status dnat return
    drop
  }}
  chain depart {{
    type filter hook postrouting priority -150;
    oifname "{naming.INGRESS_DEVICE}" jump clamp
    oifname "{naming.GATEWAY_PREFIX}*" jump clamp
    iifname "{naming.GATEWAY_PREFIX}*" jump clamp
    oifname "{naming.INGRESS_DEVICE}" meta mark & {MASK} == {MARK} meta mark set 0
  }}
  chain clamp {{
    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  }}
  chain source {{
    type nat hook postrouting priority 100;
    {FORGET_RESET}
    iifname "{naming.GATEWAY_PREFIX}*" ct status dnat {as_node}
    oifname "{naming.GATEWAY_PREFIX}*" ct status dnat jump source_inward
    oifname "{naming.INGRESS_DEVICE}" ct status dnat jump source_inward
    oifname "{naming.GATEWAY_PREFIX}*" return
    oifname "{naming.INGRESS_DEVICE}" return
    iifname "{naming.GATEWAY_PREFIX}*" masquerade
  }}
  chain source_inward {{
    ip saddr 127.0.0.0/8 {as_node}
    ip saddr @nodes {as_node}
  }}
  chain no_redirects {{
    type filter hook output priority -310;
    oifname "{naming.GATEWAY_PREFIX}*" icmp type redirect drop
  }}
"""


def router_skeleton(subnets: Sequence[tuple[str, str]]) -> str:
    """The table of an overlay's router.

    Args:
        subnets: Each with the router's address in it.
    """
    hairpins = "\n    ".join(
        f"ip daddr {subnet} ct status dnat ip saddr . ip daddr @selves snat to {gateway}" for subnet, gateway in subnets
    )
    return f"""
  {AFTER_RESET}
  set pins {{ typeof iifname . ether saddr . ip saddr; }}
  set selves {{ type ipv4_addr . ipv4_addr; }}
  set remotes {{ type ipv4_addr; }}
  map vips {{ type ipv4_addr : verdict; }}
  chain guard {{
    type filter hook prerouting priority -350;
    iifname "{naming.PORT_PREFIX}*" iifname . ether saddr . ip saddr != @pins drop
  }}
  chain reopen {{
    type filter hook prerouting priority -150;
    {SYN_AFTER_RESET}
  }}
  chain translate {{
    type nat hook prerouting priority -100;
    ip daddr vmap @vips
  }}
  chain pass {{
    type filter hook forward priority -310;
    oifname "{naming.TUNNEL_DEVICE}" ip daddr != @remotes goto refuse
  }}
  chain refuse {{
    iifname "{naming.TUNNEL_DEVICE}" drop
    meta l4proto tcp reject with tcp reset
    reject with icmp port-unreachable
  }}
  chain source {{
    type nat hook postrouting priority 100;
    {FORGET_RESET}
    {hairpins}
  }}
"""


def sandbox_table() -> str:
    """The whole table of a sandbox: names are asked at 127.0.0.11:53, the agent's server listens above."""
    address, port = naming.DNS_ADDRESS, naming.DNS_PORT
    return f"""table ip {naming.TABLE} {{
  chain names {{
    type nat hook output priority -100;
    ip daddr {address} udp dport 53 dnat to {address}:{port}
    ip daddr {address} tcp dport 53 dnat to {address}:{port}
  }}
}}
"""


# --- services -------------------------------------------------------------------


def _round_robin(addresses: Sequence[str], match: str, port: str) -> tuple[str, ...]:
    """Take the backends in turn, exactly.

    A few are counted off rule by rule: the first takes every n-th connection, the next every (n-1)-th of the rest, and
    so on. A map would need one rule only, but as an anonymous set of its own, and the kernel walks all sets of a table
    to name a new one: 5,000 services of three took 2.6 s to load with maps and take 0.5 s without.
    """
    n = len(addresses)
    if n > MOST_COUNTED:
        choices = ", ".join(f"{number} : {address}" for number, address in enumerate(addresses))
        return (f"{match}dnat to numgen inc mod {n} map {{ {choices} }}{port}",)
    *counted, last = addresses
    turns = [f"{match}numgen inc mod {n - at} 0 dnat to {address}{port}" for at, address in enumerate(counted)]
    return (*turns, f"{match}dnat to {last}{port}")


MOST_COUNTED = 8
POLICIES = {"round-robin": _round_robin}
"""How `skep.lb.policy` chooses among several addresses: from addresses, a match and a port to rules."""


def chain_rules(balance: Balance) -> tuple[str, ...]:
    """The rules of a service's chain. A policy this node does not know is served round robin."""
    if not balance.addresses:
        # Rejecting a datagram of this node itself fails its send with EPERM; let through, it finds no listener.
        own = 'oifname "lo" meta l4proto != tcp return'
        return (own, "meta l4proto tcp reject with tcp reset", "reject with icmp port-unreachable")
    choose = POLICIES.get(balance.policy, _round_robin)
    if balance.port:
        return choose(balance.addresses, f"meta l4proto {balance.protocol} ", f":{balance.port}")
    return choose(balance.addresses, "", "")


# --- transactions -----------------------------------------------------------------


def reload(space: Space, facts: Facts) -> str:
    """Replace a space's whole table in one transaction, whatever it holds now.

    Args:
        space: The namespace it is for.
        facts: May hold other spaces' facts too.
    """
    name = naming.TABLE
    own = {fact: value for fact, value in facts.items() if fact.space == space}
    skeleton = own[Skeleton(space)]
    services = "".join(
        f"  chain {fact.name} {{\n{_indent(chain_rules(value))}  }}\n"
        for fact, value in own.items()
        if isinstance(fact, Chain) and isinstance(value, Balance)
    )
    table = f"table ip {name} {{\n{services}{skeleton}}}\n"
    return f"table ip {name}\ndelete table ip {name}\n{table}{_put_elements(own.items())}"


def amend(space: Space, edits: Edits, known: Facts) -> str:
    """One transaction that makes the difference; empty if nothing of it is nft's.

    Args:
        space: The namespace it is for; the skeleton itself must not be among the edits.
        edits: May hold other spaces' facts too.
        known: What was programmed before, for the values of changed elements.
    """
    put = {fact: value for fact, value in edits.put.items() if fact.space == space}
    gone = {fact: value for fact, value in edits.remove.items() if fact.space == space}
    changed = {fact: known[fact] for fact in put if isinstance(fact, Element) and fact in known}
    lines: list[str] = []
    for fact, value in put.items():
        if isinstance(fact, Chain) and isinstance(value, Balance):
            lines.append(f"add chain ip {naming.TABLE} {fact.name}\nflush chain ip {naming.TABLE} {fact.name}\n")
            lines += [f"add rule ip {naming.TABLE} {fact.name} {rule}\n" for rule in chain_rules(value)]
    lines.append(_elements("delete", [*gone.items(), *changed.items()]))
    lines.append(_put_elements(put.items()))
    for fact in gone:
        if isinstance(fact, Chain):
            lines.append(f"flush chain ip {naming.TABLE} {fact.name}\ndelete chain ip {naming.TABLE} {fact.name}\n")
    return "".join(lines)


def removal() -> str:
    """Remove the table, whether it is there or not."""
    return f"table ip {naming.TABLE}\ndelete table ip {naming.TABLE}\n"


def _put_elements(facts: Iterable[tuple[Fact, Value]]) -> str:
    return _elements("add", facts)


def _elements(verb: str, facts: Iterable[tuple[Fact, Value]]) -> str:
    by_collection: Mapping[str, list[str]] = defaultdict(list)
    for fact, value in facts:
        if isinstance(fact, Element):
            by_collection[fact.collection].append(f"{fact.key} : {value}" if value else fact.key)
    return "".join(
        f"{verb} element ip {naming.TABLE} {collection} {{ {', '.join(keys)} }}\n"
        for collection, keys in by_collection.items()
    )


def _indent(rules: Iterable[str]) -> str:
    return "".join(f"    {rule}\n" for rule in rules)


def _mask(subnet: str) -> str:
    return f"{(0xFFFFFFFF << (32 - int(subnet.partition('/')[2]))) & 0xFFFFFFFF:#010x}"


def _network(subnet: str) -> str:
    octets = [int(part) for part in subnet.partition("/")[0].split(".")]
    return f"{int.from_bytes(bytes(octets)):#010x}"
