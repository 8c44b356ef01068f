"""The managers of a lab as a test sees them: who leads, whether all is well, and whether anybody decides.

Edge: each manager's own socket, also while others are gone.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.e2e.conftest import Lab, wait_until

from skep.edge.unix_http import EngineClient, EngineRefused, EngineUnreachable
from skep.lab.layout import NodeLayout

ASK_S = 5.0
PAUSE_S = 0.01
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Managers:
    """Of one lab."""

    lab: Lab

    @property
    def nodes(self) -> list[NodeLayout]:
        return self.lab.nodes[: self.lab.layout.manager_count]

    def leader(self) -> NodeLayout:
        """The manager that leads, as all of them see it; waits until they agree."""
        names: set[str] = set()

        def agree() -> bool:
            names.clear()
            for node in self.nodes:
                names.update(_leaders(_nodes_at(node)))
            return len(names) == 1

        wait_until(agree, "the managers do not agree who leads", LIMIT_S)
        return self.lab.layout.node(names.pop())

    def wait_whole(self) -> None:
        """Wait until every node is ready and every manager reachable, as each manager sees it."""
        wait_until(lambda: all(map(self._is_whole, self.nodes)), "the swarm is not whole", LIMIT_S)

    def _is_whole(self, node: NodeLayout) -> bool:
        found = _nodes_at(node)
        managers = [each["ManagerStatus"]["Reachability"] for each in found if each.get("ManagerStatus")]
        return (
            {each["Status"]["State"] for each in found} == {"ready"}
            and managers == ["reachable"] * len(self.nodes)
            and len(_leaders(found)) == 1
        )

    def wait_decision(self, name: str, asked: Sequence[NodeLayout]) -> None:
        """Make a service of that name that no node may run, and wait for its task: only a leader makes one.

        Args:
            asked: The managers that are there to be asked.
        """
        until = time.monotonic() + LIMIT_S
        is_made, turn = False, 0
        while time.monotonic() < until:
            turn += 1
            client = client_of(asked[turn % len(asked)])
            try:
                is_made = is_made or _make_probe(client, name)
                if client.json("GET", tasks_path(service=name)):
                    return
            except (EngineRefused, EngineUnreachable):
                pass  # Whoever was asked knows of no leader yet.
            time.sleep(PAUSE_S)
        raise AssertionError(f"{name}: nobody decided within {LIMIT_S:g} s")

    def remove(self, name: str, asked: NodeLayout) -> None:
        """Remove what `wait_decision` made."""
        wait_until(lambda: _is_removed(client_of(asked), name), f"{name} is not removed", LIMIT_S)


def client_of(node: NodeLayout) -> EngineClient:
    return EngineClient(f"unix://{node.socket}", timeout_s=ASK_S)


def tasks_path(**filters: str) -> str:
    return "/tasks?filters=" + quote(json.dumps({name: [value] for name, value in filters.items()}))


def _nodes_at(node: NodeLayout) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = client_of(node).json("GET", "/nodes")
    except (EngineRefused, EngineUnreachable):
        return []
    return found


def _leaders(found: list[dict[str, Any]]) -> set[str]:
    return {each["Description"]["Hostname"] for each in found if each.get("ManagerStatus", {}).get("Leader")}


def _make_probe(client: EngineClient, name: str) -> bool:
    spec = {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "none", "Command": ["true"]},
            "Placement": {"Constraints": ["node.labels.trial==none"]},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
    }
    try:
        client.json("POST", "/services/create", spec)
    except EngineRefused as refusal:
        if refusal.status != 409:  # An answer that did not come in time was stored all the same.
            raise
    return True


def _is_removed(client: EngineClient, name: str) -> bool:
    try:
        client.call("DELETE", f"/services/{name}")
    except EngineRefused as refusal:
        return refusal.status == 404
    except EngineUnreachable:
        return False
    return True
