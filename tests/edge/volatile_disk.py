"""A disk with a volatile write cache, for trials of power cuts: what was not flushed may be lost, in any part.

Edge: /dev/fuse, mount(2), one thread. It is a file system with one file, `disk`, held in memory and meant to be mounted
through a loop device: the kernel's own file system on it then sends the writes and flushes that a real disk would get.
A write reaches the cache; a flush makes what the cache holds durable. `cut` answers what a power cut would leave at
this moment: all that was flushed, and of the rest whichever sectors the disk had happened to write.
Source: linux/fuse.h, protocol 7.31.
"""

import contextlib
import ctypes
import errno
import os
import random
import stat
import struct
import subprocess
import threading
from pathlib import Path
from typing import Final

SECTOR: Final = 512
NAME: Final = "disk"
ROOT_ID, FILE_ID = 1, 2
LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, RELEASE, FSYNC = 1, 2, 3, 14, 15, 16, 18, 20
FLUSH, INIT, INTERRUPT, DESTROY, BATCH_FORGET = 25, 26, 36, 38, 42
UNANSWERED: Final = {FORGET, INTERRUPT, BATCH_FORGET}
MAX_WRITE: Final = 1 << 17
ASYNC_READ, BIG_WRITES = 1 << 0, 1 << 5
FOREVER_S: Final = 1 << 31
IN_HEADER, OUT_HEADER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
ATTRIBUTES, TRANSFER = struct.Struct("<6Q10I"), struct.Struct("<QQIIQII")

_libc = ctypes.CDLL(None, use_errno=True)


class VolatileDisk:
    """Its content is given and taken as bytes. Mount `path` through a loop device while it is attached."""

    def __init__(self, image: bytes, *, is_lying: bool = False) -> None:
        """Args: is_lying: It answers a flush without doing it, as some cheap disks do."""
        self._now = bytearray(image)
        self._durable = bytearray(image)
        self._cache: list[tuple[int, bytes]] = []
        self._is_lying = is_lying
        self._requests_left: int | None = None
        self._may_serve = threading.Event()
        self._may_serve.set()
        self.frozen = threading.Event()
        self._device = -1
        self._thread: threading.Thread | None = None
        self._directory = Path()

    @property
    def path(self) -> Path:
        return self._directory / NAME

    def attach(self, directory: Path) -> None:
        """Mount the one file's directory and begin to serve."""
        self._directory = directory
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0".encode()
        if _libc.mount(b"volatile", os.fsencode(directory), b"fuse", 0, options):
            code = ctypes.get_errno()
            os.close(self._device)
            raise OSError(code, os.strerror(code), str(directory))
        self._thread = threading.Thread(target=self._serve, name="volatile-disk", daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """Serve what is left and be gone; to be unmounted before."""
        self._may_serve.set()
        subprocess.run(["umount", str(self._directory)], check=True)
        if self._thread is not None:
            self._thread.join()
        os.close(self._device)

    def freeze_after(self, n_requests: int) -> None:
        """Answer no write and no flush any more after so many; `frozen` tells when it has come to that."""
        self._requests_left = n_requests

    def thaw(self) -> None:
        self._requests_left = None
        self._may_serve.set()

    def cut(self, dice: random.Random) -> bytes:
        """What a power cut leaves now: of what no flush covered all, nothing, or any sectors. To be frozen."""
        kept = bytearray(self._durable)
        share = dice.choice([0.0, 1.0, dice.random()])
        for offset, written in self._cache:
            for start in range(0, len(written), SECTOR):
                if dice.random() < share:
                    piece = written[start : start + SECTOR]
                    kept[offset + start : offset + start + len(piece)] = piece
        return bytes(kept)

    @property
    def n_unflushed(self) -> int:
        return len(self._cache)

    # --- in the thread ---

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, MAX_WRITE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # Unmounted.
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                raise
            _, operation, unique, node, *_ = IN_HEADER.unpack_from(request)
            if operation in UNANSWERED:
                continue
            code, answer = self._answer(operation, node, request[IN_HEADER.size :])
            with contextlib.suppress(FileNotFoundError):  # Who asked has been interrupted.
                os.writev(self._device, [OUT_HEADER.pack(OUT_HEADER.size + len(answer), -code, unique), answer])

    def _answer(self, operation: int, node: int, body: bytes) -> tuple[int, bytes]:
        match operation:
            case _ if operation == INIT:
                return 0, struct.pack(
                    "<4I2H2I2HI28x", 7, 31, MAX_WRITE, ASYNC_READ | BIG_WRITES, 16, 12, MAX_WRITE, 1, 0, 0, 0
                )
            case _ if operation == LOOKUP and body.rstrip(b"\0") == NAME.encode():
                return 0, struct.pack("<4Q2I", FILE_ID, 0, FOREVER_S, FOREVER_S, 0, 0) + self._attributes(FILE_ID)
            case _ if operation == LOOKUP:
                return errno.ENOENT, b""
            case _ if operation == GETATTR:
                return 0, struct.pack("<QII", FOREVER_S, 0, 0) + self._attributes(node)
            case _ if operation == OPEN:
                return 0, struct.pack("<QII", 0, 0, 0)
            case _ if operation == READ:
                _, offset, size, *_ = TRANSFER.unpack_from(body)
                return 0, bytes(self._now[offset : offset + size])
            case _ if operation == WRITE:
                return self._write(body)
            case _ if operation == FSYNC:
                return self._flush()
            case _ if operation in (FLUSH, RELEASE, DESTROY):
                return 0, b""
            case _:
                return errno.ENOSYS, b""

    def _write(self, body: bytes) -> tuple[int, bytes]:
        self._count()
        _, offset, size, *_ = TRANSFER.unpack_from(body)
        written = body[TRANSFER.size : TRANSFER.size + size]
        self._now[offset : offset + size] = written
        self._cache.append((offset, written))
        return 0, struct.pack("<II", size, 0)

    def _flush(self) -> tuple[int, bytes]:
        self._count()
        if not self._is_lying:
            for offset, written in self._cache:
                self._durable[offset : offset + len(written)] = written
            self._cache.clear()
        return 0, b""

    def _count(self) -> None:
        if self._requests_left is None:
            return
        self._requests_left -= 1
        if self._requests_left <= 0:
            self._may_serve.clear()
            self.frozen.set()
            self._may_serve.wait()

    def _attributes(self, node: int) -> bytes:
        size = len(self._now) if node == FILE_ID else 0
        mode = stat.S_IFREG | 0o600 if node == FILE_ID else stat.S_IFDIR | 0o700
        return ATTRIBUTES.pack(node, size, size // SECTOR, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
