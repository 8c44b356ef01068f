"""Real etcd for tests: members on loopback, each on ports of its own, or each on a machine of a segment.

They are ended with the test process at the latest.
"""

import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.identities import Authorities

from skep.edge.etcd.gateway import Patience, Target
from skep.edge.etcd.revocations import revocation_list
from skep.edge.etcd.settings import CERTIFICATE, KEY, REVOKED, ROOT, MemberSettings, Timing, command
from skep.edge.tls_context import client_context
from skep.model.identity import MANAGER_NAME, Credentials
from skep.model.node import Role

START_S = 60.0
CALM = Patience(attempt_s=10, commit_s=60, load_s=60)
"""For tests that break nothing: a slow machine is no failure."""
BRISK = Patience(attempt_s=0.5, commit_s=1.5, load_s=20)
"""For tests that do."""


def free_ports(n: int) -> list[int]:
    """Ports nobody listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


class Place(Protocol):
    """Where a member can run. Attributes: address: of its own, which others reach."""

    @property
    def address(self) -> str: ...

    def command(self, words: Sequence[str]) -> Sequence[str]:
        """What runs a program there."""
        ...


class Members:
    """A cluster of etcd members with the flags a manager gives them; `n` 0 to 2 name them."""

    def __init__(
        self,
        directory: Path,
        n_members: int,
        *,
        is_plain: bool = False,
        timing: Timing | None = None,
        flags: Sequence[str] = (),
        machines: Sequence[Place] = (),
    ) -> None:
        """Prepare.

        Args:
            is_plain: Without TLS, as an external cluster may be.
            flags: Further ones, which outrank the usual.
            machines: Where each is to run; on this one's loopback if none are given.
        """
        self._flags = flags
        self._machines = machines
        self._directory = directory
        self._is_plain = is_plain
        self._timing = timing or Timing(heartbeat_ms=50, election_ms=500)
        self.authorities = Authorities()
        self.credentials: list[Credentials] = []
        self.settings: list[MemberSettings] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._prepare(n_members)

    def target(self, *numbers: int, patience: Patience = CALM) -> Target:
        """How a manager reaches these members, or all; the first is its own."""
        urls = [self.settings[n].client_url for n in numbers or range(len(self.settings))]
        if self._is_plain:
            return Target(urls, patience=patience)
        held = self.credentials[numbers[0] if numbers else 0]
        context = client_context(held.root, held)
        return Target(urls, lambda: context, MANAGER_NAME, patience)

    def start(self) -> None:
        """Start all, again on other ports if one was taken meanwhile."""
        for _ in range(3):
            for n in range(len(self.settings)):
                self.launch(n)
            if self._wait_healthy():
                return
            self.stop()
            self._prepare(len(self.settings))
        raise AssertionError(f"etcd does not start: {self.last_words()}")

    def launch(self, n: int) -> None:
        settings = self.settings[n]
        with (settings.run_dir / "log").open("ab") as log:
            # Ended by the kernel with the test process, however that ends.
            words = ["setpriv", "--pdeathsig", "KILL", *self._command(settings)]
            line = self._machines[n].command(words) if self._machines else words
            self._processes[n] = subprocess.Popen(line, stdout=log, stderr=log)

    def kill(self, n: int) -> None:
        self.signal(n, signal.SIGKILL)
        self._processes.pop(n).wait()

    def signal(self, n: int, number: signal.Signals) -> None:
        os.kill(self._processes[n].pid, number)

    def stop(self) -> None:
        for n in list(self._processes):
            self.kill(n)

    def leader(self) -> int:
        """Which member leads now."""
        for n in self._processes:
            status = json.loads(self._ask(n, "/v3/maintenance/status", b"{}"))
            if status.get("leader") == status["header"]["member_id"]:
                return n
        raise AssertionError("no member leads")

    def last_words(self) -> Sequence[str]:
        return [(settings.run_dir / "log").read_text()[-500:] for settings in self.settings]

    def _prepare(self, n_members: int) -> None:
        ports = free_ports(2 * n_members)
        scheme = "http" if self._is_plain else "https"
        addresses = [each.address for each in self._machines] or ["127.0.0.1"] * n_members
        peers = {f"m{n}": f"{scheme}://{addresses[n]}:{ports[n]}" for n in range(n_members)}
        self.settings.clear()
        self.credentials.clear()
        for n in range(n_members):
            folder = self._directory / f"{ports[n]}"
            folder.mkdir(parents=True)
            held = self.authorities.make(f"m{n}", Role.MANAGER, address=addresses[n])
            for name, text in ((CERTIFICATE, held.certificate), (KEY, held.key), (ROOT, held.root)):
                (folder / name).write_text(text)
            (folder / REVOKED).write_text(revocation_list([]))
            self.credentials.append(held)
            client = f"{scheme}://{addresses[n]}:{ports[n_members + n]}"
            self.settings.append(
                MemberSettings(
                    f"m{n}", folder / "etcd", folder, peers[f"m{n}"], client, peers, "tests", timing=self._timing
                )
            )

    def _command(self, settings: MemberSettings) -> Sequence[str]:
        words = [*command(settings), *self._flags]
        if not self._is_plain:
            return words
        return [word for word in words if not any(part in word for part in ("cert", "-key-file", "trusted", "crl"))]

    def _wait_healthy(self) -> bool:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if any(process.poll() is not None for process in self._processes.values()):
                return False
            try:
                for n in self._processes:
                    self._ask(n, "/v3/kv/range", b'{"key":"AA=="}')
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
                continue
            return True
        return False

    def _ask(self, n: int, path: str, body: bytes) -> bytes:
        context: ssl.SSLContext | None = None
        if not self._is_plain:
            context = client_context(self.credentials[n].root, self.credentials[n])
        request = urllib.request.Request(self.settings[n].client_url + path, data=body)  # noqa: S310 — loopback
        with urllib.request.urlopen(request, timeout=5, context=context) as response:  # noqa: S310 — loopback
            return bytes(response.read())


@contextmanager
def running(
    directory: Path,
    n_members: int,
    *,
    is_plain: bool = False,
    timing: Timing | None = None,
    flags: Sequence[str] = (),
    machines: Sequence[Place] = (),
) -> Iterator[Members]:
    """A cluster that is up; gone at the end. Arguments: of `Members`."""
    members = Members(directory, n_members, is_plain=is_plain, timing=timing, flags=flags, machines=machines)
    try:
        members.start()
        yield members
    finally:
        members.stop()
