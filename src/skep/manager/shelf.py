"""Gives a node the secrets, configs and registry credentials of the tasks it is told to run, and no others.

Edge: opens sealed values under the cluster's data key; otherwise a function of the state. A value is opened for one
answer and kept nowhere.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from skep.core.dispatch.items import is_present, is_wanted
from skep.model.errors import NotFound, SkepError
from skep.model.sealed import Sealed
from skep.model.service import ContainerSpec, registry_auth_purpose
from skep.model.session import FileKind, FileSent, FileWanted
from skep.model.task import Task
from skep.store.state import View


class Opener(Protocol):
    """Opens what was sealed under the cluster's data key."""

    def open(self, sealed: Sealed, purpose: str) -> bytes:
        """Raises `Unauthenticated`."""
        ...


class Shelf:
    """The swarm's secrets and configs as nodes may have them."""

    def __init__(self, view: Callable[[], View], opener: Opener) -> None:
        self._view = view
        self._opener = opener

    def answer(self, node_id: str, wanted: FileWanted) -> FileSent:
        """What to say to a node that asks for a file; a refusal is an answer too."""
        try:
            return self._find(node_id, wanted)
        except SkepError as refusal:
            return FileSent(wanted=wanted, error=str(refusal))

    def _find(self, node_id: str, wanted: FileWanted) -> FileSent:
        """Raises: NotFound: there is none, or not for this node. Unauthenticated: it cannot be opened."""
        view = self._view()
        task = view.tasks.get(wanted.task_id)
        missing = NotFound(f"{wanted.kind} {wanted.file_id} not found")
        if task is None or task.node_id != node_id or not (is_present(task) and is_wanted(task)):
            raise missing
        if wanted.kind is FileKind.REGISTRY_AUTH:
            return self._registry_auth(view, task, wanted)
        if wanted.file_id not in _used(task.spec.container_spec, wanted.kind):
            raise missing
        if wanted.kind is FileKind.SECRET:
            secret = view.secrets.get(wanted.file_id)
            if secret is None or secret.sealed is None:
                raise missing
            plain = self._opener.open(secret.sealed, f"secret/{secret.id}")
            driver = secret.spec.templating
        else:
            config = view.configs.get(wanted.file_id)
            if config is None:
                raise missing
            plain, driver = config.data, config.spec.templating
        return FileSent(wanted=wanted, payload=plain, templating=driver.name if driver else "")

    def _registry_auth(self, view: View, task: Task, wanted: FileWanted) -> FileSent:
        """The credentials as they are now, whenever the task was made."""
        service = view.services.get(task.service_id)
        if service is None or service.id != wanted.file_id or service.registry_auth is None:
            raise NotFound(f"service {wanted.file_id} has no registry credentials")
        plain = self._opener.open(service.registry_auth, registry_auth_purpose(service.id))
        return FileSent(wanted=wanted, payload=plain)


def _used(spec: ContainerSpec | None, kind: FileKind) -> Iterable[str]:
    if spec is None:
        return ()
    if kind is FileKind.SECRET:
        return [reference.secret_id for reference in spec.secrets or ()]
    return [reference.config_id for reference in spec.configs or ()]
