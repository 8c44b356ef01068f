"""A manager's own etcd member, as a child of the daemon that outlives it.

Edge: a process, files with the node's credentials, the gateway. etcd reads certificate and key anew for each handshake,
so a renewed certificate needs a new file and nothing else; only another root needs a restart.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from skep.edge.etcd.gateway import Away, Gateway, Patience, Target
from skep.edge.etcd.revocations import revocation_list
from skep.edge.etcd.settings import CERTIFICATE, KEY, REVOKED, ROOT, MemberSettings, command
from skep.edge.kept_process import KeepingLimits, KeptProcess, Program, ProgramFailed
from skep.edge.tls_context import LiveContext, client_context
from skep.model.identity import MANAGER_NAME, Credentials
from skep.ports.store import StoreUnavailable

START_S = 30.0
LOADED_ROOT = "root.loaded.pem"
PING_S = 1.0


class EtcdMember:
    """One supervised member. Made in a running event loop."""

    def __init__(
        self,
        settings: MemberSettings,
        credentials: Callable[[], Credentials],
        patience: Patience | None = None,
        limits: KeepingLimits | None = None,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            credentials: The node's, as in force; call `refresh` when they have changed.
        """
        self._settings = settings
        self._credentials = credentials
        self._handed: Credentials | None = None
        self._revoked: frozenset[str] | None = None
        context = LiveContext(credentials, lambda held: client_context(held.root, held))
        self.target = Target([settings.client_url], context, MANAGER_NAME, patience or Patience())
        self._gateway = Gateway(self.target)
        program = Program(
            name="etcd",
            command=command(settings),
            run_dir=settings.run_dir,
            answers=self._answers,
            mark=f"--data-dir={settings.data_dir}",
            environment={"PATH": os.defpath},
            prepare=self._note_roots,
        )
        self._process = KeptProcess(program, limits)

    @property
    def pid(self) -> int:
        """Of the process, 0 while there is none."""
        return self._process.pid

    @property
    def n_restarts(self) -> int:
        """How often it was started anew since `start`."""
        return self._process.n_restarts

    async def start(self) -> None:
        """Adopt or start the member and keep it running; idempotent. It answers once there is a quorum."""
        for folder in (self._settings.data_dir, self._settings.run_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        self.refresh()
        if not (self._settings.run_dir / REVOKED).exists():
            self.revoke([])
        await self._process.start()

    async def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until it answers.

        Raises:
            StoreUnavailable: Not in time, with its own last words.
        """
        try:
            await self._process.wait_ready(timeout_s)
        except ProgramFailed as error:
            raise StoreUnavailable(str(error)) from error

    def refresh(self) -> None:
        """Hand it the credentials in force; connections that exist stay."""
        self._handed = held = self._credentials()
        for name, text in ((ROOT, held.root), (KEY, held.key), (CERTIFICATE, held.certificate)):
            _replace(self._settings.run_dir / name, text)

    def revoke(self, serials: Collection[str]) -> None:
        """Let no peer in that shows one of these certificates, by serial number; etcd looks for each connection."""
        if self._revoked != (wanted := frozenset(serials)):
            _replace(self._settings.run_dir / REVOKED, revocation_list(sorted(wanted)))
            self._revoked = wanted

    @property
    def has_other_roots(self) -> bool:
        """Whether it was started with other roots than those in force; it reads them only then."""
        loaded = self._settings.run_dir / LOADED_ROOT
        return not loaded.exists() or loaded.read_text() != self._credentials().root

    async def restart(self) -> None:
        """End it gracefully and start it anew; it is away for about a second."""
        self.refresh()
        await self._process.close()
        await self._process.start()

    async def _note_roots(self) -> None:
        _replace(self._settings.run_dir / LOADED_ROOT, (self._settings.run_dir / ROOT).read_text())

    async def detach(self) -> None:
        """Leave it running for the next daemon."""
        await self._process.detach()
        await self._gateway.close()

    async def close(self) -> None:
        """End it gracefully."""
        await self._process.close()
        await self._gateway.close()

    async def _answers(self) -> bool:
        """Whether it speaks; a member without a quorum does, and must not be restarted for that.

        It may be waited for just because its certificate has ended, and has been renewed meanwhile.
        """
        if self._handed is not self._credentials():
            self.refresh()
        try:
            await self._gateway.get(self._settings.client_url, "/version", limit_s=PING_S)
        except Away:
            return False
        return True


def _replace(path: Path, text: str) -> None:
    """Write a file of credentials whole: a handshake reads the old or the new."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.rename(path)
