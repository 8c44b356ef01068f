"""skepd from start to end: lock, engine, node, API socket, and a clean stop on SIGTERM.

Edge: the process.
"""

import asyncio
import signal
import socket
from pathlib import Path

import structlog

from skep.api.server import ApiServer, SocketTaken
from skep.daemon import tcp
from skep.daemon.config import DaemonConfig, api_address, check_registry
from skep.daemon.manager import Means
from skep.daemon.membership import MembershipDamaged
from skep.daemon.node import Node
from skep.daemon.worker import make_runtime
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.instance import InstanceLock, InstanceRunning, notify_ready, raise_file_limit
from skep.edge.keyfile import KeyFileError
from skep.edge.registries import Registries
from skep.edge.registry_client import RegistryClient
from skep.model.errors import InvalidSpec
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.runtime import RuntimeFailure
from skep.ports.store import StoreError
from skep.ports.transport import ListenFailed

log = structlog.get_logger("skepd")
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class NoDirectory(Exception):
    """A directory the daemon needs cannot be made; the text says which and why."""


REFUSALS = (
    NoDirectory,
    InstanceRunning,
    MembershipDamaged,
    SocketTaken,
    KeyFileError,
    DataPlaneFailure,
    RuntimeFailure,
    StoreError,
    ListenFailed,
    InvalidSpec,
    LookupError,
    PermissionError,
)


async def run(config: DaemonConfig) -> int:
    """Run until told to stop.

    Returns:
        Exit status: 0 after SIGTERM or SIGINT, 1 where it could not start, with one line that says why.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[config.log_level]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
    )
    try:
        _make_directory(config.data_dir, 0o700)
        _make_directory(config.run_dir, 0o711)
        _make_directory(config.socket.parent, 0o711)
        raise_file_limit()
        with InstanceLock(config.data_dir):
            await _serve(config)
    except REFUSALS as refusal:
        log.error("skepd cannot run", reason=str(refusal))
        return 1
    return 0


def _make_directory(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise NoDirectory(f"{path} cannot be used as a directory: {error.strerror}; choose another") from error


async def _serve(config: DaemonConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    means = Means(SystemClock(), SystemDice(), config.min_certificate_life)
    failures: list[BaseException] = []

    def give_up(failure: BaseException) -> None:
        failures.append(failure)
        stop.set()

    for text in config.insecure_registries:
        check_registry(text)
    registries = Registries(config.insecure_registries)
    registry = RegistryClient(registries)
    node = Node(config, socket.gethostname(), make_runtime(config, registries), means, give_up)
    api = ApiServer(node, means.clock, registry)
    try:
        await node.start()
        await api.start_unix(config.socket, config.socket_group or None)
        if config.api_listen:
            await api.start_tls(*api_address(config.api_listen), tcp.context(node), tcp.trust(node))
        notify_ready()
        log.info("skepd is ready", socket=str(config.socket), engine=config.engine)
        await stop.wait()
    finally:
        await api.close()
        await node.close()
        await registry.close()
    if failures:
        raise failures[0]
