"""The one-manager store's file: opened, checked, read and written by one thread.

Edge: sqlite3, flock, fsync. WAL with `synchronous=FULL`: what a commit returned for survives a power cut (with NORMAL
it does not). Exclusive locking keeps SQLite's shared-memory file away, so a full disk is an error, never a SIGBUS.

SQLite's own check sees broken pages, not changed bytes inside a value; so every row carries a checksum of its key,
version and value, and one row holds the revision, the number of rows and the exclusive or of all checksums.
A row that changed, vanished or came back from the past is found when the file is opened, before anything is served.
"""

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skep.ports.store import Row, StaleVersion, StoreDamaged, StoreLocked, StoreUnavailable, Write

APPLICATION_ID: Final = 0x534B4550
"""SQLite's mark of whose file it is: `SKEP`."""
FORMAT: Final = 1
SCHEMA: Final = (
    "CREATE TABLE object (kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, checksum INTEGER NOT NULL,"
    " value BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID",
    "CREATE TABLE summary (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, n_rows INTEGER NOT NULL,"
    " checksum INTEGER NOT NULL)",
    "INSERT INTO summary VALUES (1, 0, 0, 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
PUT: Final = "INSERT OR REPLACE INTO object (kind, id, version, checksum, value) VALUES (?, ?, ?, ?, ?)"
RESTORE: Final = "restore it from a backup, or remove this manager and join it again"
UNSYNCED: Final = {"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"}
BROKEN: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def checksum_of(kind: str, id: str, version: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(f"{kind}\0{id}\0{version}\0".encode()))


class StoreFile:
    """An open database file. Not for more than one thread."""

    def __init__(self, path: Path, *, create: bool = True, begin_at: int = 0) -> None:
        """Open and check a file, or make one.

        Args:
            create: Whether a missing file is made; otherwise it is damage.
            begin_at: Revision of one that is made: for a state whose numbers have to go on rising.
        Raises:
            StoreLocked, StoreDamaged, StoreUnavailable.
        """
        self.path = path
        self._damage = ""
        self._lock = self._take_lock()
        try:
            self._look_at_files(create)
            self._database = self._connect(begin_at)
            try:
                self.revision, self._n_rows, self._total = self._check()
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as error:
            os.close(self._lock)
            raise self._failure(error) from error
        except OSError as error:
            os.close(self._lock)
            raise StoreUnavailable(f"{path} cannot be opened: {error.strerror}") from error
        except BaseException:
            os.close(self._lock)
            raise

    def version(self, kind: str, id: str) -> int:
        """The version of a row; 0 if there is none."""
        found = self._database.execute("SELECT version FROM object WHERE kind = ? AND id = ?", (kind, id)).fetchone()
        return int(found[0]) if found else 0

    def load(self) -> tuple[int, list[Row]]:
        """Read everything.

        Raises:
            StoreDamaged: A row is not what was written.
        """
        rows: list[Row] = []
        total = 0
        try:
            found = self._database.execute("SELECT kind, id, version, checksum, value FROM object").fetchall()
        except sqlite3.OperationalError as error:
            if "UTF-8" in str(error):
                raise self._damaged("a stored text is not text") from error
            raise self._failure(error) from error
        except sqlite3.Error as error:
            raise self._failure(error) from error
        for kind, id, version, checksum, value in found:
            if not isinstance(value, bytes) or checksum_of(kind, id, version, value) != checksum:
                raise self._damaged(f"the stored {kind} {id} is not what was written")
            total ^= checksum
            rows.append(Row(kind, id, value, version))
        if (len(rows), total) != (self._n_rows, self._total):
            raise self._damaged("objects are missing or from another time")
        return self.revision, rows

    def write(self, group: Sequence[Sequence[Write]]) -> list[int | StaleVersion]:
        """Write several transactions with one sync; each takes place whole, as its own revision, or not at all.

        Returns:
            For each its revision, or why it was refused. All are durable.
        Raises:
            StoreUnavailable, StoreDamaged: Nothing of the group was written.
        """
        if self._damage:
            raise StoreDamaged(self._damage)
        before = (self.revision, self._n_rows, self._total)
        try:
            self._database.execute("BEGIN IMMEDIATE")
            outcomes = [self._apply(writes) for writes in group]
            self._database.execute(
                "UPDATE summary SET revision = ?, n_rows = ?, checksum = ?", (self.revision, self._n_rows, self._total)
            )
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self.revision, self._n_rows, self._total = before
            self._roll_back()
            raise self._failure(error) from error
        return outcomes

    def copy(self, path: Path) -> None:
        """Write a consistent copy to a new file, durably."""
        try:
            with contextlib.closing(sqlite3.connect(path)) as target:
                self._database.backup(target)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        try:
            self._database.close()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        finally:
            os.close(self._lock)

    def _take_lock(self) -> int:
        """Keep every other process away for as long as this one lives: a flock ends with its holder."""
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{lock} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StoreLocked(f"{self.path} is in use by another daemon: stop that one first") from error
        return descriptor

    def _look_at_files(self, create: bool) -> None:
        """Refuse what SQLite would take for an empty database, throwing the log away."""
        log = self.path.with_name(self.path.name + "-wal")
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == 0 and log.exists() and log.stat().st_size:
            raise self._damaged("it is empty but its log is not")
        if size == 0 and not create:
            raise self._damaged("it is empty or gone")
        if size == 0:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _connect(self, begin_at: int) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None, cached_statements=32)
        try:
            for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                database.execute(f"PRAGMA {setting}").fetchall()
            if not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                database.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    database.execute(statement)
                database.execute("UPDATE summary SET revision = ?", (begin_at,))
                database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    def _check(self) -> tuple[int, int, int]:
        """Read the summary after SQLite's own check of its pages."""
        application = self._database.execute("PRAGMA application_id").fetchone()[0]
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID:
            raise self._damaged("it is not a file of Skep")
        if version != FORMAT:
            raise self._damaged(f"its format is {version}, and this Skep reads {FORMAT}")
        verdict = self._database.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise self._damaged(str(verdict).replace("\n", " "))
        summary = self._database.execute("SELECT revision, n_rows, checksum FROM summary").fetchone()
        if summary is None or not all(isinstance(number, int) for number in summary):
            raise self._damaged("its summary is missing")
        revision, n_rows, total = summary
        return revision, n_rows, total

    def _apply(self, writes: Sequence[Write]) -> int | StaleVersion:
        """Check every row of a transaction, then write them; a refused one has touched nothing."""
        n_rows, total = self._n_rows, self._total
        for write in writes:
            found = self._database.execute(
                "SELECT version, checksum FROM object WHERE kind = ? AND id = ?", (write.kind, write.id)
            ).fetchone()
            if (found[0] if found else 0) != write.expected_version:
                return StaleVersion(write.kind, write.id)
            if found:
                n_rows -= 1
                total ^= found[1]
        revision = self.revision + 1
        for write in writes:
            if write.value is None:
                self._database.execute("DELETE FROM object WHERE kind = ? AND id = ?", (write.kind, write.id))
                continue
            checksum = checksum_of(write.kind, write.id, revision, write.value)
            self._database.execute(PUT, (write.kind, write.id, revision, checksum, write.value))
            n_rows += 1
            total ^= checksum
        self.revision, self._n_rows, self._total = revision, n_rows, total
        return revision

    def _roll_back(self) -> None:
        """Undo; SQLite has done so by itself after some errors."""
        if self._database.in_transaction:
            try:
                self._database.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._damage = f"{self.path} cannot be written any more ({error}): restart the daemon"

    def _damaged(self, what: str) -> StoreDamaged:
        return StoreDamaged(f"{self.path} is damaged: {what}; {RESTORE}")

    def _failure(self, error: sqlite3.Error) -> StoreUnavailable | StoreDamaged:
        name = getattr(error, "sqlite_errorname", "")
        if name in UNSYNCED:
            # The kernel drops pages it failed to write: a second sync would lie. Only a restart reads what is there.
            self._damage = f"the disk under {self.path} failed to keep a write: restart the daemon"
        elif name.startswith(BROKEN):
            self._damage = str(self._damaged(str(error)))
        if self._damage:
            return StoreDamaged(self._damage)
        if name == "SQLITE_FULL":
            return StoreUnavailable(f"no space left for {self.path}: free some; writing resumes by itself")
        return StoreUnavailable(f"{self.path} cannot be used at present ({error})")
