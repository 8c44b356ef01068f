"""Objects by what users call them: a full id, a full name, or the start of an id if only one begins so.

Pure. Source: moby/daemon/cluster/helpers.go, also for the sentences.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from skep.core import containers
from skep.model.base import Object
from skep.model.cluster import Cluster
from skep.model.errors import InvalidSpec, NotFound, NotManager
from skep.model.network import Network
from skep.model.node import Node
from skep.model.secret import Config, Secret
from skep.model.service import Service
from skep.model.task import Task
from skep.store.state import TableView, View

T = TypeVar("T", bound=Object)


def find_service(view: View, reference: str) -> Service:
    """A service that is not being removed.

    Raises:
        NotFound, InvalidSpec: None, or several begin so.
    """
    named = [service for service in view.services.where("name", reference) if not service.removing]
    service = _find("service", view.services, reference, named)
    if service.removing:
        raise _missing("service", reference)
    return service


def find_task(view: View, reference: str) -> Task:
    """A task by its id, the beginning of it, its name, or the place it fills, such as `web.1`."""
    return _find("task", view.tasks, reference, containers.find_tasks(view, reference) if "." in reference else ())


def find_node(view: View, reference: str) -> Node:
    return _find("node", view.nodes, reference, view.nodes.where("hostname", reference))


def find_network(view: View, reference: str) -> Network:
    return _find("network", view.networks, reference, view.networks.where("name", reference))


def find_secret(view: View, reference: str) -> Secret:
    return _find("secret", view.secrets, reference, view.secrets.where("name", reference))


def find_config(view: View, reference: str) -> Config:
    return _find("config", view.configs, reference, view.configs.where("name", reference))


def the_cluster(view: View) -> Cluster:
    """The cluster object.

    Raises:
        NotManager: There is none yet.
    """
    if view.cluster is None:
        raise NotManager("This node is not a swarm manager. Its state is not loaded yet; try again.")
    return view.cluster


def _find(kind: str, table: TableView[T], reference: str, named: Sequence[T]) -> T:
    exact = table.get(reference)
    if exact is not None:
        return exact
    found = _only(kind, reference, named) or _only(kind, reference, _beginning(table, reference))
    if found is None:
        raise _missing(kind, reference)
    return found


def _beginning(table: TableView[T], reference: str) -> Iterable[T]:
    return (value for value in table.values() if value.id.startswith(reference)) if reference else ()


def _only(kind: str, reference: str, found: Iterable[T]) -> T | None:
    matches = list(found)
    if len(matches) > 1:
        raise InvalidSpec(f"{kind} {reference} is ambiguous ({len(matches)} matches found)")
    return matches[0] if matches else None


def _missing(kind: str, reference: str) -> NotFound:
    return NotFound(f"{kind} {reference} not found")
