"""The underlay of a lab: a bridge in a namespace of its own, one link per node and one for the client.

Edge: network namespaces, through iproute2. Making a lab is rare, so clarity goes before the cost of a fork.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from skep.lab.layout import CLIENT, CLIENT_HOST, SUBNET, LabLayout, NodeLayout

NETNS_DIR = Path("/run/netns")
BRIDGE = "br0"


class LabFailure(Exception):
    """The machine did not do it; the text is a sentence with the command's own words."""


def run(command: Sequence[str], *, stdin: str = "") -> str:
    """Run a program of the machine and return what it printed.

    Raises:
        LabFailure: It is missing or failed.
    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabFailure(f"{command[0]} is not installed; on Debian, `apt install iproute2 util-linux`") from error
    if done.returncode != 0:
        raise LabFailure(f"`{' '.join(command)}` failed: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def batch(namespace: str, lines: Sequence[str]) -> None:
    """Run several `ip` commands in a namespace at once."""
    run(["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(lines) + "\n")


def has_namespace(name: str) -> bool:
    return (NETNS_DIR / name).exists()


def make_underlay(lab: LabLayout) -> None:
    """Make the bridge and the client's namespace."""
    run(["ip", "netns", "add", lab.fabric])
    batch(lab.fabric, ["link set lo up", f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up"])
    run(["ip", "netns", "add", lab.client])
    batch(lab.fabric, [f"link add {CLIENT} type veth peer name eth0 netns {lab.client}"])
    batch(lab.fabric, [f"link set {CLIENT} master {BRIDGE}", f"link set {CLIENT} up"])
    batch(lab.client, ["link set lo up", f"addr add {SUBNET}.{CLIENT_HOST}/24 dev eth0", "link set eth0 up"])


def plug_node(lab: LabLayout, node: NodeLayout, init_pid: int) -> None:
    """Give a node, known by the process id of its first process, its link to the underlay."""
    unplug_node(lab, node)
    batch(lab.fabric, [f"link add {node.device} type veth peer name eth0 netns {init_pid}"])
    batch(lab.fabric, [f"link set {node.device} master {BRIDGE}", f"link set {node.device} up"])
    lines = ["link set lo up", f"addr add {node.underlay}/24 dev eth0", "link set eth0 up"]
    run(["nsenter", "-t", str(init_pid), "--net", "ip", "-batch", "-"], stdin="\n".join(lines) + "\n")


def unplug_node(lab: LabLayout, node: NodeLayout) -> None:
    """Remove what an earlier life of the node left on the bridge."""
    if node.device in run(["ip", "-n", lab.fabric, "-o", "link"]).replace("@", " ").replace(":", " ").split():
        batch(lab.fabric, [f"link del {node.device}"])


def set_link(lab: LabLayout, node: NodeLayout, *, is_up: bool) -> None:
    """Cut or heal a node's underlay link."""
    batch(lab.fabric, [f"link set {node.device} {'up' if is_up else 'down'}"])


def cut_devices(lab: LabLayout) -> set[str]:
    """Names of fabric devices whose link is down."""
    down: set[str] = set()
    for line in run(["ip", "-n", lab.fabric, "-o", "link"]).splitlines():
        name = line.split(":")[1].split("@")[0].strip()
        flags = line[line.index("<") + 1 : line.index(">")].split(",")
        if "UP" not in flags:
            down.add(name)
    return down


def remove_underlay(lab: LabLayout) -> None:
    """Remove both namespaces, if they are there."""
    for name in (lab.client, lab.fabric):
        if has_namespace(name):
            run(["ip", "netns", "del", name])
