"""Where everything of a lab is and what it is called.

Pure but for reading and writing one JSON file. Every name carries the lab's own mark, a digest of its directory, so
that two labs never touch each other and `down` can tell what is its own after any crash.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from skep.model.errors import Conflict, InvalidSpec, NotFound

SUBNET = "192.168.77"
CLIENT = "client"
CLIENT_HOST = 250
MAX_NODES = 200
SOCKET_PATH_LIMIT = 104  # A unix socket's path has room for 108 bytes.
ENGINES = ("podman", "docker", "process")


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """One node's places.

    Attributes:
        number: 1 for the first; also the last part of its underlay address.
        device: Its end of the underlay link as the fabric sees it.
    """

    name: str
    number: int
    root: Path
    mark: str

    @property
    def underlay(self) -> str:
        return f"{SUBNET}.{self.number}"

    @property
    def socket(self) -> Path:
        return self.root / "docker.sock"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def run_dir(self) -> Path:
        """Wiped by a reboot: inside the node it is a tmpfs."""
        return self.root / "run"

    @property
    def init_file(self) -> Path:
        """Process id and start time of the node's first process."""
        return self.root / "init.json"

    @property
    def daemon_pid_file(self) -> Path:
        return self.root / "skepd.pid"

    @property
    def log_file(self) -> Path:
        return self.root / "skepd.log"

    @property
    def device(self) -> str:
        return f"n{self.number}"

    @property
    def cgroup(self) -> str:
        return f"/skep-{self.mark}/{self.name}"


@dataclass(frozen=True, slots=True)
class LabLayout:
    """A lab as it was asked for; written to DIR/lab.json before anything is made."""

    root: Path
    node_count: int = 3
    manager_count: int = 1
    engine: str = "podman"
    daemon_options: list[str] = field(default_factory=list)

    @property
    def mark(self) -> str:
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:8]

    @property
    def fabric(self) -> str:
        """Network namespace with the bridge that is the underlay."""
        return f"skep-{self.mark}-fabric"

    @property
    def client(self) -> str:
        """Network namespace outside the swarm, on the same underlay."""
        return f"skep-{self.mark}-client"

    @property
    def client_address(self) -> str:
        return f"{SUBNET}.{CLIENT_HOST}"

    @property
    def cgroup(self) -> str:
        return f"/skep-{self.mark}"

    @property
    def nodes(self) -> list[NodeLayout]:
        return [
            NodeLayout(f"node{number}", number, self.root / f"node{number}", self.mark)
            for number in range(1, self.node_count + 1)
        ]

    def node(self, name: str) -> NodeLayout:
        """Find a node by name.

        Raises:
            NotFound: naming those there are.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise NotFound(f'the lab has no node "{name}"; it has {names} (and "{CLIENT}" for exec)')


def plan_lab(root: Path, *, node_count: int, manager_count: int, engine: str, options: list[str]) -> LabLayout:
    """Check what `lab up` was asked for.

    Raises:
        InvalidSpec: A number or the directory cannot be.
    """
    if not 1 <= node_count <= MAX_NODES:
        raise InvalidSpec(f"--nodes {node_count}: a lab has between 1 and {MAX_NODES} nodes")
    if not 1 <= manager_count <= node_count:
        raise InvalidSpec(f"--managers {manager_count}: choose between 1 and the number of nodes, {node_count}")
    if engine not in ENGINES:
        raise InvalidSpec(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
    lab = LabLayout(root.resolve(), node_count, manager_count, engine, options)
    longest = max(len(str(node.socket)) for node in lab.nodes)
    if longest > SOCKET_PATH_LIMIT:
        raise InvalidSpec(
            f"--dir {root} is too long: a socket's path may have {SOCKET_PATH_LIMIT} characters and "
            f"{lab.nodes[-1].socket} has {longest}; choose a shorter directory"
        )
    return lab


def lab_file(root: Path) -> Path:
    return root / "lab.json"


def save_lab(lab: LabLayout) -> None:
    """Write DIR/lab.json, which makes DIR a lab.

    Raises:
        Conflict: DIR is a lab already, or holds something else.
    """
    if lab_file(lab.root).exists():
        raise Conflict(f"there is a lab in {lab.root} already; `skep lab down --dir {lab.root}` removes it")
    draft = lab_file(lab.root).with_suffix(".new")
    if lab.root.exists() and any(path != draft for path in lab.root.iterdir()):
        raise Conflict(f"{lab.root} holds other files; choose an empty or new directory for the lab")
    lab.root.mkdir(parents=True, exist_ok=True)
    lab.root.chmod(0o711)
    record = {key: value for key, value in asdict(lab).items() if key != "root"}
    draft.write_text(json.dumps(record, indent=2) + "\n")
    draft.rename(lab_file(lab.root))  # In one step: killed before, there is no lab; after, one that can be removed.


def load_lab(root: Path) -> LabLayout:
    """Read DIR/lab.json.

    Raises:
        NotFound: DIR is no lab.
    """
    root = root.resolve()
    try:
        record = json.loads(lab_file(root).read_text())
    except FileNotFoundError as error:
        raise NotFound(f"there is no lab in {root}; `skep lab up --dir {root}` makes one") from error
    return LabLayout(root=root, **record)
