"""What is on disk of each container, and what follows from it about its state.

Edge: small files and /proc. Nothing is kept in memory that a killed daemon would lose: who runs, who ended and how is
read from the files that conmon and the OCI runtime write.
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skep.edge import oci_state
from skep.edge.oci_state import UNSEEN_END, UNSEEN_EXIT_CODE
from skep.model.base import Labels, Nanoseconds
from skep.model.codec import MALFORMED
from skep.ports.runtime import Container, ContainerState


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A container as it was asked for.

    Attributes:
        stop_signal: A number. anonymous_volumes: names of those that go with it.
    """

    id: str
    name: str
    image: str
    labels: Labels
    created_at: Nanoseconds
    stop_signal: int
    tty: bool = False
    open_stdin: bool = False
    anonymous_volumes: list[str] = []


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one container are."""

    folder: Path
    run_folder: Path
    runtime_folder: Path

    @property
    def rootfs(self) -> Path:
        return self.folder / "rootfs"

    @property
    def bundle(self) -> Path:
        return self.folder / "config.json"

    @property
    def log(self) -> Path:
        return self.folder / "ctr.log"

    @property
    def exit_folder(self) -> Path:
        return self.folder / "exit"

    @property
    def launched(self) -> Path:
        """Written before its supervisor is started, so that it never runs twice."""
        return self.folder / "launched"

    @property
    def started(self) -> Path:
        """Holds when its program was let go."""
        return self.folder / "started"

    @property
    def conmon_pid(self) -> Path:
        return self.run_folder / "conmon.pid"


class Records:
    """The containers under one root."""

    def __init__(self, root: Path, run_dir: Path) -> None:
        self._folder = root / "containers"
        self._run_dir = run_dir
        self._records: dict[str, Record] = {}

    @property
    def runtime_root(self) -> Path:
        return self._run_dir / "oci"

    def load(self) -> None:
        """Read all records; what was half made or half removed goes."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._records.clear()
        for folder in self._folder.iterdir():
            try:
                record = msgspec.json.decode((folder / "record.json").read_bytes(), type=Record)
            except (OSError, *MALFORMED):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if folder.name == record.id:
                self._records[record.id] = record
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def get(self, container_id: str) -> Record | None:
        return self._records.get(container_id)

    def by_name(self, name: str) -> Record | None:
        return next((record for record in self._records.values() if record.name == name), None)

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._records.values()))

    def places(self, container_id: str) -> Places:
        return Places(self._folder / container_id, self._run_dir / container_id[:16], self.runtime_root / container_id)

    def staging(self, container_id: str) -> Path:
        """A folder to make a container in; it counts only after `add`."""
        folder = self._folder / f".new-{container_id}"
        folder.mkdir()
        return folder

    def add(self, record: Record, staging: Path) -> None:
        """Make a container exist, at once and whole."""
        (staging / "record.json").write_bytes(msgspec.json.encode(record))
        staging.rename(self._folder / record.id)
        self._records[record.id] = record

    def drop(self, record: Record) -> None:
        """Forget a container with all its files; the OCI runtime must have let go of it."""
        places = self.places(record.id)
        doomed = self._folder / f".removed-{record.id}"
        with suppress(FileNotFoundError):
            places.folder.rename(doomed)
        self._records.pop(record.id, None)
        for folder in (doomed, places.run_folder):
            shutil.rmtree(folder, ignore_errors=True)

    def observe(self, record: Record) -> Container:
        """Say what state a container is in now."""
        places = self.places(record.id)
        exit_code = _read_number(places.exit_folder / record.id)
        process = oci_state.first_process(places.runtime_folder)
        has_launched = places.launched.exists()
        supervisor = _read_number(places.conmon_pid) or 0
        is_over = has_launched and not process.pid and not oci_state.is_supervisor(supervisor, record.id)
        if exit_code is None and is_over:
            exit_code = _read_number(places.exit_folder / record.id)  # Written between our two looks?
            exit_code = UNSEEN_EXIT_CODE if exit_code is None else exit_code
        if exit_code is not None:
            return self._ended(record, places, exit_code)
        is_running = has_launched and places.started.exists() and not process.is_waiting
        return Container(
            id=record.id,
            name=record.name,
            labels=record.labels,
            state=ContainerState.RUNNING if is_running else ContainerState.CREATED,
            pid=process.pid if is_running else 0,
            started_at=_started_at(places) if is_running else 0,
        )

    def _ended(self, record: Record, places: Places, exit_code: int) -> Container:
        exit_file = places.exit_folder / record.id
        was_seen = exit_file.exists()
        started_at = _started_at(places)
        return Container(
            id=record.id,
            name=record.name,
            labels=record.labels,
            state=ContainerState.EXITED,
            exit_code=exit_code,
            is_oom_killed=(places.folder / "oom").exists(),
            started_at=started_at,
            finished_at=max(exit_file.stat().st_mtime_ns, started_at) if was_seen else started_at,
            error="" if was_seen else UNSEEN_END,
        )


def _started_at(places: Places) -> Nanoseconds:
    moment = _read_number(places.started)
    if moment:
        return moment
    with suppress(FileNotFoundError):
        return places.launched.stat().st_mtime_ns
    return 0


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
