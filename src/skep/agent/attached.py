"""Plain containers that are on networks of the swarm, as the node remembers them.

Edge: one small file each among the node's records. What a user asked for stays until the container is gone; the ids of
its attachments are there only while it runs, so that a daemon that was killed knows which of them to keep.
"""

from collections.abc import Mapping, Sequence

import msgspec

from skep.agent.records import RecordStore
from skep.core.mesh import naming
from skep.model.base import Record
from skep.model.codec import MALFORMED

FILE = "container"
HOSTS, RESOLV_CONF = "hosts", "resolv.conf"


class ContainerEndpoint(Record, frozen=True, kw_only=True):
    """One network of a container.

    Attributes:
        network, network_id: Its name and id.
        aliases: What else the container is called there.
        address: The one asked for, without prefix; empty for any.
        number: Of its interface: 1 is eth1. Kept while the container lives, so that no interface is ever renamed.
        task_id: The attachment that holds its address; empty while there is none.
    """

    network: str
    network_id: str
    aliases: list[str] = []
    address: str = ""
    number: int = 0
    task_id: str = ""


class AttachedContainer(Record, frozen=True, kw_only=True):
    """A container and what it was asked to have.

    Attributes:
        sandbox_id: Names its sandbox and these records.
        container_id: Empty while the engine is asked to make it.
        name: As its user knows it; hostname: empty for the beginning of its id.
        hosts: Lines of its hosts file. nameservers: asked instead of the node's own.
        is_lasting: The engine starts it again by itself when it ends.
        first_number: Of the first interface that is ours.
        resolv_conf: Set where the engine made the namespace, for networks of its own: the file it gave the container.
        pid: Of the first process when such a namespace was taken over.
    """

    sandbox_id: str
    container_id: str = ""
    name: str = ""
    hostname: str = ""
    endpoints: list[ContainerEndpoint] = []
    hosts: list[str] = []
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    is_lasting: bool = False
    first_number: int = 0
    resolv_conf: str = ""
    pid: int = 0

    @property
    def is_borrowed(self) -> bool:
        """Whether its namespace is the engine's."""
        return bool(self.resolv_conf)

    @property
    def task_ids(self) -> Sequence[str]:
        """The attachments it holds."""
        return [endpoint.task_id for endpoint in self.endpoints if endpoint.task_id]

    def names(self, endpoint: ContainerEndpoint) -> tuple[str, ...]:
        """Every name it has on a network: Docker's, its own first."""
        found = (self.name, *endpoint.aliases, self.container_id[:12], self.hostname)
        return tuple(dict.fromkeys(name for name in found if name))

    def changed(self, endpoints: Mapping[int, ContainerEndpoint]) -> "AttachedContainer":
        """With some endpoints replaced, by number."""
        return msgspec.structs.replace(self, endpoints=[endpoints.get(each.number, each) for each in self.endpoints])


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AttachedContainer)


class AttachedBook:
    """What is remembered of them. Attributes: containers: by sandbox id."""

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self.containers: dict[str, AttachedContainer] = {}

    def load(self) -> None:
        """Read what an earlier daemon left; what was never bound to a container, or is damaged, goes."""
        self.containers = {}
        for sandbox_id in filter(naming.is_plain, self._records.task_ids()):
            container = self._read(sandbox_id)
            if container is None or not container.container_id:
                self._records.remove(sandbox_id)
            else:
                self.containers[sandbox_id] = container

    def _read(self, sandbox_id: str) -> AttachedContainer | None:
        try:
            return _decoder.decode((self._records.path(sandbox_id) / FILE).read_bytes())
        except (FileNotFoundError, *MALFORMED):
            return None

    def find(self, container_id: str) -> AttachedContainer | None:
        """By the container's full id."""
        return next((each for each in self.containers.values() if each.container_id == container_id), None)

    def save(self, container: AttachedContainer) -> None:
        """Remember it; after a power cut, too."""
        self.containers[container.sandbox_id] = container
        self._records.write(container.sandbox_id, FILE, _encoder.encode(container), sync=True)

    def remove(self, sandbox_id: str) -> None:
        self.containers.pop(sandbox_id, None)
        self._records.remove(sandbox_id)
