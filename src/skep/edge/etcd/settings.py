"""How a manager's own etcd member is run, as a command.

Pure. The member talks to its like over mutual TLS with the nodes' own certificates, and only to managers' (the name
`swarm-manager` in them). Its client side listens on loopback: etcd 3.4 cannot ask its clients for a name and serve its
JSON gateway at once, so it would let in any node of the cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skep.model.identity import MANAGER_NAME

CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
ROOT: Final = "root.pem"
REVOKED: Final = "revoked.pem"
QUOTA_BYTES: Final = 4 * 1024**3
PEER_PORT: Final = 2380
CLIENT_PORT: Final = 2378
"""On loopback; not 2379, where the service that comes with the Debian package of etcd listens."""
KEPT_REVISIONS: Final = 10_000
"""So far back a watch can resume; older revisions are compacted, checked every five minutes."""
KEPT_ENTRIES: Final = 10_000
"""Of its log, in memory, and to be read when a member starts: 3.4 would keep 100,000, which took half a minute on a
busy machine. 3.6 keeps as many as this by itself."""
OLD_WARNINGS: Final = {(3, 5): 33, (3, 6): 14}
"""First releases of each line without known defects in data or members; lines before them get no more mends."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Attributes: heartbeat_ms, election_ms: how soon a dead leader is noticed; the same on every member."""

    heartbeat_ms: int = 100
    election_ms: int = 600


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """One member.

    Attributes:
        name: The node's id.
        data_dir: The member's own; its contents outrank `initial`.
        run_dir: For its certificates, pid and log; on a file system in memory, because of the key.
        peer_url, client_url: Where it listens; `https://ADDRESS:PORT`.
        initial: Peer URLs by name, this one included: of all that begin together, or of those it joins.
        is_joining: It was added to a cluster that exists.
        token: Keeps the members of different swarms apart.
        is_alone: Begin anew with the data there is and without the other members; for one start only.
    """

    name: str
    data_dir: Path
    run_dir: Path
    peer_url: str
    client_url: str
    initial: Mapping[str, str]
    token: str
    is_joining: bool = False
    is_alone: bool = False
    program: str = "/usr/bin/etcd"
    timing: Timing = Timing()


def command(settings: MemberSettings) -> Sequence[str]:
    """The command of a member."""
    certificate, key, root, revoked = (str(settings.run_dir / name) for name in (CERTIFICATE, KEY, ROOT, REVOKED))
    return [
        settings.program,
        f"--name={settings.name}",
        f"--data-dir={settings.data_dir}",
        f"--listen-peer-urls={settings.peer_url}",
        f"--initial-advertise-peer-urls={settings.peer_url}",
        f"--listen-client-urls={settings.client_url}",
        f"--advertise-client-urls={settings.client_url}",
        "--initial-cluster=" + ",".join(f"{name}={url}" for name, url in sorted(settings.initial.items())),
        f"--initial-cluster-state={'existing' if settings.is_joining else 'new'}",
        f"--initial-cluster-token={settings.token}",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        f"--trusted-ca-file={root}",
        "--client-cert-auth",
        f"--peer-cert-file={certificate}",
        f"--peer-key-file={key}",
        f"--peer-trusted-ca-file={root}",
        "--peer-client-cert-auth",
        f"--peer-cert-allowed-hostname={MANAGER_NAME}",
        f"--peer-crl-file={revoked}",
        f"--heartbeat-interval={settings.timing.heartbeat_ms}",
        f"--election-timeout={settings.timing.election_ms}",
        "--pre-vote",  # A member that was cut off must not unseat the leader when it returns.
        f"--quota-backend-bytes={QUOTA_BYTES}",
        "--auto-compaction-mode=revision",
        f"--auto-compaction-retention={KEPT_REVISIONS}",
        f"--snapshot-count={KEPT_ENTRIES}",
        "--logger=zap",
        "--log-level=error",  # At `warn` 3.4 writes a line for every request that comes through the gateway.
        *(["--force-new-cluster"] if settings.is_alone else []),
    ]


def version_warning(version: str) -> str:
    """What is to be said of an etcd's version; "" where it is sound."""
    try:
        major, minor, patch = (int(part) for part in version.split("-")[0].split("."))
    except ValueError:
        return f"etcd {version} names its version in an unknown way; 3.4 and later are known to work"
    if (major, minor) < (3, 4):
        return f"etcd {version} is too old; install 3.5.33 or later"
    needed = OLD_WARNINGS.get((major, minor))
    if (major, minor) == (3, 4) or (needed is not None and patch < needed):
        return f"etcd {version} has known defects that later releases mend; 3.5.33, 3.6.14 or later are advised"
    return ""
