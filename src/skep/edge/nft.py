"""Hand nft text to the kernel and read tables back, in one namespace.

Edge: libnftables by ctypes where the library is there (0.2 ms a transaction), the `nft` program otherwise (17 ms, most
of it the fork). Both take the same text and both apply it as one transaction or not at all. To be used on the kernel
thread; a session belongs to the namespace it was opened for. Source: libnftables(3), libnftables-json(5).
"""

import ctypes
import ctypes.util
import functools
import json
import socket
import struct
import subprocess
from typing import Any, Final, Protocol

from skep.core.mesh import naming
from skep.edge import netlink
from skep.edge.namespaces import entered
from skep.edge.netlink import Request, attributes

OUTPUT_STATELESS: Final = 1 << 2
OUTPUT_JSON: Final = 1 << 4
OUTPUT_NUMERIC: Final = 0b1111 << 7

SUBSYSTEM: Final = 10 << 8
NFT_MSG_NEWGEN: Final = SUBSYSTEM | 15
NFT_MSG_GETGEN: Final = SUBSYSTEM | 16
NFNLGRP_NFTABLES: Final = 7
_OUR_NAME: Final = netlink.text(naming.TABLE)
_NFGENMSG: Final = struct.Struct("=BBH")


class NftRefused(Exception):
    """The kernel or the parser refused a transaction; nothing of it is in force."""


class NftSession(Protocol):
    """One namespace's nft."""

    def apply(self, text: str) -> None:
        """Apply a transaction.

        Raises:
            NftRefused: With nft's own words.
        """
        ...

    def read_table(self) -> list[dict[str, Any]]:
        """Skep's table as libnftables' JSON objects without counters; empty if there is none."""
        ...

    def close(self) -> None: ...


def open_session(descriptor: int, *, use_library: bool = True) -> NftSession:
    """A session for a namespace.

    Args:
        descriptor: Of the namespace; must stay open as long as the session.
    """
    library = _library() if use_library else None
    if library is None:
        return ProgramSession(descriptor)
    with entered(descriptor):
        return LibrarySession(library)


class LibrarySession:
    """nft through libnftables, in this process; of the namespace the thread was in when it was made."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._context = library.nft_ctx_new(0)
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def apply(self, text: str) -> None:
        self._run(text, 0)

    def read_table(self) -> list[dict[str, Any]]:
        try:
            output = self._run(f"list table ip {naming.TABLE}", OUTPUT_JSON | OUTPUT_STATELESS | OUTPUT_NUMERIC)
        except NftRefused as refused:
            if "No such file" in str(refused):
                return []
            raise
        return _objects(output)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def _run(self, text: str, flags: int) -> bytes:
        self._library.nft_ctx_output_set_flags(self._context, flags)
        result = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        # Reading a buffer is what empties it for the next command.
        error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if result != 0:
            raise NftRefused(_first_error(error.decode(errors="replace")))
        return output


class ProgramSession:
    """nft as a program, one process a transaction."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def apply(self, text: str) -> None:
        self._run(["nft", "-f", "-"], text)

    def read_table(self) -> list[dict[str, Any]]:
        try:
            output = self._run(["nft", "--json", "--stateless", "--numeric", "list", "table", "ip", naming.TABLE], "")
        except NftRefused as refused:
            if "No such file" in str(refused):
                return []
            raise
        return _objects(output)

    def close(self) -> None:
        """Nothing is held between calls."""

    def _run(self, command: list[str], text: str) -> bytes:
        try:
            with entered(self._descriptor):
                done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=60, check=False)
        except FileNotFoundError as error:
            raise NftRefused("neither libnftables nor the nft program is here: install nftables") from error
        if done.returncode != 0:
            raise NftRefused(_first_error(done.stderr.decode(errors="replace")))
        return done.stdout


class Generations:
    """The kernel's count of nft transactions in one namespace: it goes up by one with each, whoever makes it."""

    def __init__(self) -> None:
        self._socket = netlink.NetlinkSocket(netlink.NETLINK_NETFILTER)

    def current(self) -> int:
        body = _NFGENMSG.pack(0, 0, 0)
        for reply in self._socket.ask(Request(NFT_MSG_GETGEN, 0, body, "read the nft generation")):
            if reply.kind == NFT_MSG_NEWGEN:
                return int.from_bytes(attributes(reply.body[_NFGENMSG.size :])[1], "big")
        return 0

    def close(self) -> None:
        self._socket.close()


class GenerationWatch:
    """Tells as they happen which generations were not about our table.

    A host whose other programs edit their own tables all day must not make us read ours each time.

    Attributes:
        socket: Readable when something happened.
    """

    def __init__(self) -> None:
        self._watch = netlink.NetlinkWatch(netlink.NETLINK_NETFILTER, [NFNLGRP_NFTABLES])
        self.socket = self._watch.socket
        self._is_ours = False

    def innocent(self) -> set[int]:
        """The generations, since the last call, in which nothing of our table was touched."""
        replies = self._watch.drain()
        if replies is None:
            self._is_ours = True  # Some were lost: the next number is of a transaction not seen whole.
            return set()
        innocent: set[int] = set()
        for reply in replies:
            if reply.kind != NFT_MSG_NEWGEN:
                # The first attribute of every nftables message is the table's name; its number comes last of all.
                name = reply.body[8 : 8 + len(_OUR_NAME)]
                self._is_ours = self._is_ours or (reply.body[0] == socket.AF_INET and name == _OUR_NAME)
                continue
            if not self._is_ours:
                innocent.add(int.from_bytes(attributes(reply.body[_NFGENMSG.size :])[1], "big"))
            self._is_ours = False
        return innocent

    def close(self) -> None:
        self._watch.close()


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in ("libnftables.so.1", ctypes.util.find_library("nftables")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            return _declare(library)
    return None


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def _objects(output: bytes) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(output)["nftables"]
    return [item for item in objects if "metainfo" not in item]


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[:3]) or "nft failed without a word"
