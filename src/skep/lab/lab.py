"""A whole lab: made, joined into one swarm, listed and removed.

Edge: processes, namespaces and each node's own socket.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from skep.edge.engine_service import drop_stale_aliases
from skep.edge.unix_http import EngineClient
from skep.lab import cgroups, layout, nodes, underlay
from skep.lab.layout import LabLayout, NodeLayout
from skep.lab.underlay import LabFailure
from skep.model.errors import NotFound

Progress = Callable[[str], None]
READY_S = 30.0


def up(lab: LabLayout, *, is_joined: bool, say: Progress) -> None:
    """Make a lab; returns when every node is ready. What was made is removed again if any of it fails."""
    layout.save_lab(lab)
    try:
        say("underlay")
        underlay.make_underlay(lab)
        say(f"{lab.node_count} nodes with {lab.engine}")
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda node: nodes.boot_node(lab, node), lab.nodes))
        if is_joined:
            join_nodes(lab, say)
    except BaseException:
        keep_logs(lab)
        down(lab.root)
        raise


def keep_logs(lab: LabLayout) -> None:
    """Put the daemons' logs beside a lab that could not be made, for whoever has to find out why."""
    for node in lab.nodes:
        if node.log_file.exists():
            shutil.copy(node.log_file, lab.root.parent / f"{lab.root.name}-{node.name}.log")


def join_nodes(lab: LabLayout, say: Progress) -> None:
    """Make the first node a swarm and join the others to it."""
    first, *others = lab.nodes
    leader = client(first)
    say(f"swarm on {first.name}")
    leader.json("POST", "/swarm/init", {"AdvertiseAddr": first.underlay, "ListenAddr": "0.0.0.0:2377"})
    tokens = leader.json("GET", "/swarm")["JoinTokens"]
    for node in others:
        say(f"joining {node.name}")
        role = "Manager" if node.number <= lab.manager_count else "Worker"
        request = {
            "RemoteAddrs": [f"{first.underlay}:2377"],
            "JoinToken": tokens[role],
            "AdvertiseAddr": node.underlay,
            "ListenAddr": "0.0.0.0:2377",
        }
        client(node).json("POST", "/swarm/join", request)

    def all_ready() -> bool:
        states = [node["Status"]["State"] for node in leader.json("GET", "/nodes")]
        return states == ["ready"] * lab.node_count

    nodes.wait_until(all_ready, "not every node became ready", READY_S)


def client(node: NodeLayout) -> EngineClient:
    return EngineClient(f"unix://{node.socket}")


def listing(lab: LabLayout) -> Sequence[nodes.NodeReport]:
    """Every node as it is now."""
    cut = underlay.cut_devices(lab) if underlay.has_namespace(lab.fabric) else set()
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda node: nodes.report_node(node, cut), lab.nodes))


def down(root: Path) -> None:
    """Remove a lab with everything it made, whatever state it is in; nothing else is touched.

    Raises:
        NotFound: There is no lab in that directory.
        LabFailure: Something would not go; all the rest is gone, and it can be called again.
    """
    lab = layout.load_lab(root)
    failures: list[str] = []
    for node in lab.nodes:
        try:
            nodes.kill_node(lab, node)
            cgroups.remove_group(node.cgroup)
        except (LabFailure, OSError) as failure:
            failures.append(str(failure))
    try:
        cgroups.remove_group(lab.cgroup)
        underlay.remove_underlay(lab)
    except (LabFailure, OSError) as failure:
        failures.append(str(failure))
    if failures:
        raise LabFailure("; ".join(failures))
    for node in lab.nodes:
        if node.root.exists():
            shutil.rmtree(node.root)
    layout.lab_file(lab.root).unlink()
    drop_stale_aliases()
    if not any(lab.root.iterdir()):
        lab.root.rmdir()


def wait_ready(lab: LabLayout, node: NodeLayout) -> None:
    """Wait until a node that was started again is ready in its swarm, as a manager sees it."""
    info = client(node).json("GET", "/info")["Swarm"]
    if info["LocalNodeState"] == "inactive":
        return
    for other in lab.nodes:
        if nodes.daemon_pid(other) and client(other).json("GET", "/info")["Swarm"].get("ControlAvailable"):
            manager = client(other)
            break
    else:
        raise NotFound("no manager of this lab is running; start one first")

    def is_ready() -> bool:
        seen = manager.json("GET", f"/nodes/{quote(info['NodeID'])}")
        return bool(seen["Status"]["State"] == "ready")

    nodes.wait_until(is_ready, f"{node.name} did not become ready", READY_S)
