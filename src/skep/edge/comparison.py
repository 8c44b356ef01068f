"""Compare a namespace with the facts it should hold, and say for each difference how to mend it.

Edge: reads and, where asked to, writes namespaces, on the kernel thread. nft is compared by what nft itself says of a
table: the wanted one is loaded into a scratch namespace and both are listed, so that no wording of any nft version is
mistaken for drift.
"""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from skep.core.mesh import facts as f
from skep.core.mesh import naming
from skep.core.mesh import nft as nft_text
from skep.core.mesh.facts import Fact, Facts, Value
from skep.edge import nft, rtnetlink
from skep.edge.namespaces import entered, scratch_namespace, write_sysctl
from skep.edge.space import Space, is_entry

Index = dict[tuple[str, str], object]
"""A table by (kind, name): of chains their settings and rules, of sets their type and elements."""

MakeDevice = Callable[[Space, str, f.TunnelSpec | f.CableSpec], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference. Attributes: what: one sentence; mend: makes it right."""

    what: str
    mend: Callable[[], object]


class Mirror:
    """A scratch namespace in which a table shows what it looks like once loaded."""

    def __init__(self) -> None:
        self.descriptor = scratch_namespace()
        self.session = nft.open_session(self.descriptor)

    def index(self, text: str) -> Index:
        """What nft lists after loading a table. Args: text: as from `nft.reload`."""
        self.session.apply(text)
        try:
            return index_of(self.session.read_table())
        finally:
            self.session.apply(nft_text.removal())

    def close(self) -> None:
        self.session.close()
        os.close(self.descriptor)


def index_of(objects: list[dict[str, Any]]) -> Index:
    """Sort what libnftables lists by name, leaving out handles, which differ from load to load."""
    rules: dict[str, list[str]] = defaultdict(list)
    for item in objects:
        if "rule" in item:
            rules[item["rule"]["chain"]].append(json.dumps(item["rule"]["expr"], sort_keys=True))
    index: Index = {}
    for item in objects:
        for kind, content in item.items():
            if kind == "chain":
                settings = {key: value for key, value in content.items() if key != "handle"}
                index[kind, content["name"]] = (json.dumps(settings, sort_keys=True), tuple(rules[content["name"]]))
            elif kind in ("set", "map"):
                settings = {key: value for key, value in content.items() if key not in ("handle", "elem")}
                elements = frozenset(json.dumps(element, sort_keys=True) for element in content.get("elem", []))
                index[kind, content["name"]] = (json.dumps(settings, sort_keys=True), elements)
            elif kind == "ct timeout":
                settings = {key: value for key, value in content.items() if key != "handle"}
                index[kind, content["name"]] = json.dumps(settings, sort_keys=True)
    return index


def nft_findings(space: Space, known: Facts, mirror: Mirror) -> list[Finding]:
    """How a space's table differs; the first finding's mending reloads all of it, in one transaction."""
    drift = _nft_drift(space, known, mirror)
    if not drift:
        return []
    first, *others = drift
    reload = Finding(first, lambda: space.apply_nft(nft_text.reload(space.name, known)))
    return [reload, *(Finding(what, lambda: None) for what in others)]


def _nft_drift(space: Space, known: Facts, mirror: Mirror) -> list[str]:
    actual = index_of(space.nft.read_table())
    if not actual:
        return [f"the nft table {naming.TABLE} is gone"]
    wanted = mirror.index(nft_text.reload(space.name, known))
    gone = [f"the nft {kind} {name} is gone" for kind, name in wanted if (kind, name) not in actual]
    added = [f"an nft {kind} {name} was added" for kind, name in actual if (kind, name) not in wanted]
    edited = [
        f"the nft {kind} {name} was edited"
        for (kind, name), content in wanted.items()
        if actual.get((kind, name), content) != content
    ]
    return gone + added + edited


def device_findings(space: Space, known: Facts, make: MakeDevice) -> Iterator[Finding]:
    """Devices that are missing, wrong or too many."""
    wanted = {
        fact.device: value
        for fact, value in known.items()
        if fact.space == space.name
        and isinstance(fact, f.Tunnel | f.Cable)
        and isinstance(value, f.TunnelSpec | f.CableSpec)
    }
    links = space.links()
    for device in links:
        if naming.is_ours(space.name, device) and device not in wanted:
            yield Finding(f"the device {device} should not be there", partial(space.delete_links, [device]))
    for device, spec in wanted.items():
        yield from _one_device(space, device, spec, links.get(device), make)


def _one_device(
    space: Space, device: str, spec: f.TunnelSpec | f.CableSpec, link: rtnetlink.Link | None, make: MakeDevice
) -> Iterator[Finding]:
    def remake() -> None:
        space.delete_links([device])
        make(space, device, spec)

    if link is None:
        yield Finding(f"the device {device} is gone", lambda: make(space, device, spec))
    elif isinstance(spec, f.TunnelSpec) and space.tunnel_of(device) != spec:
        yield Finding(f"the VXLAN device {device} has other settings", remake)
    else:
        if link.mtu != spec.mtu:
            right_mtu = rtnetlink.set_mtu(link.index, spec.mtu)
            yield Finding(f"the MTU of {device} is not {spec.mtu}", lambda: space.route.send([right_mtu]))
        if not link.is_up:
            yield Finding(f"the device {device} is down", lambda: space.route.send([rtnetlink.set_up(link.index)]))


def sysctl_findings(space: Space, known: Facts) -> Iterator[Finding]:
    """Kernel parameters of the space and of its devices that are not as they should be."""
    links = space.links()
    devices = [fact.device for fact in known if fact.space == space.name and isinstance(fact, f.Tunnel | f.Cable)]

    def write(name: str, value: str) -> None:
        with entered(space.descriptor):
            write_sysctl(name, value)

    for name, value in space.wrong_sysctls([device for device in devices if device in links]).items():
        yield Finding(f"{name} is not {value}", partial(write, name, value))


def entry_findings(space: Space, known: Facts) -> Iterator[Finding]:
    """Neighbours, forwarding entries, routes and rules that are missing, wrong or too many."""
    wanted = {fact: value for fact, value in known.items() if fact.space == space.name and is_entry(fact)}
    ours = {link.index: name for name, link in space.links().items() if naming.is_ours(space.name, name)}
    actual = space.read_entries(ours)
    for fact, value in actual.items():
        if fact not in wanted:
            extra = {fact: value}
            yield Finding(f"{_words(fact)} should not be there", partial(space.remove_entries, extra))
    missing: dict[Fact, Value] = {fact: value for fact, value in wanted.items() if actual.get(fact) != value}
    for number, fact in enumerate(missing):
        # One mending for all of them: they are sent in one go.
        mend: Callable[[], object] = (lambda: space.put_entries(missing)) if number == 0 else (lambda: None)
        yield Finding(f"{_words(fact)} is {'wrong' if fact in actual else 'gone'}", mend)


def _words(fact: Fact) -> str:
    match fact:
        case f.Route(_, table, destination):
            return f"the route to {destination} in table {table}"
        case f.Neighbour(_, device, address):
            return f"the neighbour {address} on {device}"
        case f.Forwarding(_, device, mac):
            return f"the forwarding entry {mac} on {device}"
        case f.Steering(_, mark):
            return f"the rule for mark {mark:#x}"
        case _:
            return str(fact)
