"""Network namespaces: making, entering and keeping them, and the one thread that may change its own.

Edge: setns(2), unshare(2), mount(2), /proc. A namespace lives as a bind mount of its nsfs file in a directory private
to the daemon, in the daemon's own mount namespace, so that a container engine there can join it by path and so that
it outlives the daemon. Entering changes the calling thread only: everything here runs on `KernelThread`.
"""

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

CLONE_NEWNET: Final = 0x40000000
MS_BIND: Final = 0x1000
MNT_DETACH: Final = 2
OWN_NAMESPACE: Final = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceFailure(Exception):
    """A namespace could not be made, entered or removed."""


class KernelThread:
    """Runs calls one after the other on one thread, which may visit other network namespaces."""

    def __init__(self, home: Path | None = None) -> None:
        """Args: home: The namespace the thread lives in; the process's own if None."""
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="skep-kernel", initializer=_move, initargs=(home,)
        )

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a call there. A caller that is cancelled stops waiting; the call itself runs to its end."""
        future = self._executor.submit(call, *args, **kwargs)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let what was submitted finish; the thread then ends."""
        self._executor.shutdown(wait=True)


def open_own() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def entered(descriptor: int) -> Iterator[None]:
    """Be in another network namespace for a while; only this thread is.

    Raises:
        NamespaceFailure: It is not one any more, or the process may not enter it.
    """
    home = open_own()
    try:
        _setns(descriptor)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def scratch_namespace() -> int:
    """A descriptor of a fresh namespace with no other name: it is gone when the descriptor is closed."""
    home = open_own()
    try:
        _check(_libc.unshare(CLONE_NEWNET), "make a network namespace")
        try:
            return open_own()
        finally:
            _setns(home)
    finally:
        os.close(home)


class NamespaceDirectory:
    """The namespaces of one daemon, by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / name

    def names(self) -> list[str]:
        """Names of the namespaces that exist, sorted. Files left by an earlier boot are not namespaces and go."""
        if not self.directory.is_dir():
            return []
        found = []
        for path in sorted(self.directory.iterdir()):
            if is_namespace(path):
                found.append(path.name)
            else:
                path.unlink(missing_ok=True)
        return found

    def exists(self, name: str) -> bool:
        return is_namespace(self.path(name))

    def open(self, name: str) -> int:
        """A descriptor of it; the caller closes it.

        Raises:
            NamespaceFailure: There is none of that name.
        """
        if not self.exists(name):
            raise NamespaceFailure(f"there is no network namespace at {self.path(name)}")
        return os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)

    def make(self, name: str) -> bool:
        """Make it unless it exists; returns whether it was made."""
        if self.exists(name):
            return False
        path = self.path(name)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        home = open_own()
        try:
            _check(_libc.unshare(CLONE_NEWNET), "make a network namespace")
            try:
                source, target = OWN_NAMESPACE.encode(), os.fsencode(path)
                _check(_libc.mount(source, target, None, MS_BIND, None), f"keep a namespace at {path}")
            finally:
                _setns(home)
        except NamespaceFailure:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(home)
        return True

    def keep(self, name: str, source: Path) -> None:
        """Give a namespace that someone else made a name here, unless it has that name.

        Raises:
            NamespaceFailure: It is gone, or the name is another's.
        """
        path = self.path(name)
        try:
            wanted = source.stat()
        except OSError as error:
            raise NamespaceFailure(f"there is no network namespace at {source}") from error
        if self.exists(name):
            found = path.stat()
            if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                raise NamespaceFailure(f"{path} is another namespace than {source}")
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        try:
            _check(_libc.mount(os.fsencode(source), os.fsencode(path), None, MS_BIND, None), f"keep {source} at {path}")
        except NamespaceFailure:
            path.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Let go of it; the kernel frees it with its last process. No error if it is gone."""
        path = self.path(name)
        if is_namespace(path):
            _check(_libc.umount2(os.fsencode(path), MNT_DETACH), f"unmount {path}")
        path.unlink(missing_ok=True)


def is_namespace(path: Path) -> bool:
    """Whether a path is a mounted namespace, not the plain file below one."""
    try:
        status, parent = path.stat(), path.parent.stat()
    except FileNotFoundError:
        return False
    return status.st_dev != parent.st_dev


def write_sysctl(name: str, value: str) -> None:
    """Set a kernel parameter of the current namespace. Args: name: with slashes: `net/ipv4/ip_forward`.

    Raises:
        NamespaceFailure: The kernel refused it.
    """
    path = f"/proc/sys/{name}"
    try:
        with open(path, "w") as file:  # Written at its start or not at all: see sysctl_writes_strict.
            file.write(value)
    except FileNotFoundError:
        # A kernel built without IPv6 has nothing of it to turn off.
        if not name.startswith("net/ipv6/"):
            raise NamespaceFailure(f"{path} does not exist: the kernel lacks what it controls") from None
    except OSError as error:
        raise NamespaceFailure(f"{path} cannot be set to {value}: {error.strerror}") from error


def read_sysctl(name: str) -> str:
    """A kernel parameter of the current namespace; empty if there is none of that name."""
    try:
        return Path(f"/proc/sys/{name}").read_text().strip()
    except FileNotFoundError:
        return ""


def _move(home: Path | None) -> None:
    if home is not None:
        descriptor = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(descriptor)
        finally:
            os.close(descriptor)


def _setns(descriptor: int) -> None:
    _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter a network namespace on {threading.current_thread().name}")


def _check(result: int, doing: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise NamespaceFailure(f"cannot {doing}: {os.strerror(code)} (it needs root and CAP_SYS_ADMIN)")
