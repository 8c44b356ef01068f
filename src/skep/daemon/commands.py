"""`skep daemon`: the daemon's command line.

Edge: the terminal.
"""

import asyncio
from pathlib import Path

import click

from skep.daemon.config import (
    DEFAULT_DATA_DIR,
    DEFAULT_RUN_DIR,
    DEFAULT_SOCKET,
    ENGINES,
    DaemonConfig,
    ExternalEtcd,
    external_etcd,
)
from skep.lib.durations import SECOND, parse_duration
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec

SHORTEST_CERTIFICATE_LIFE = 10 * SECOND
path_type = click.Path(path_type=Path)


@click.command()
@click.option("--data-dir", type=path_type, default=DEFAULT_DATA_DIR, show_default=True, help="What must survive.")
@click.option("--run-dir", type=path_type, default=DEFAULT_RUN_DIR, show_default=True, help="What a reboot clears.")
@click.option("--socket", type=path_type, default=DEFAULT_SOCKET, show_default=True, help="The Engine API's socket.")
@click.option("--api-listen", default="", help="tcp://ADDRESS:2376, the Engine API for holders of a certificate.")
@click.option("--group", default="", help="Group that may use the socket.")
@click.option("--engine", type=click.Choice(ENGINES), default="podman", show_default=True)
@click.option("--cgroup-parent", default="", help="Control group the containers go below.")
@click.option("--image-store", type=path_type, multiple=True, help="Further image store to read; may be repeated.")
@click.option("--insecure-registry", multiple=True, help="HOST[:PORT] or network to pull from without a trusted TLS.")
@click.option(
    "--min-certificate-life",
    default="1h",
    show_default=True,
    help="Shortest life users may give nodes' certificates; less is for labs only.",
)
@click.option("--etcd", multiple=True, help="https://HOST:2379 of an etcd to keep the state in; may be repeated.")
@click.option("--etcd-ca", type=path_type, help="Root certificate of that etcd.")
@click.option("--etcd-cert", type=path_type, help="Certificate to show to it.")
@click.option("--etcd-key", type=path_type, help="Key of that certificate.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def daemon(
    data_dir: Path,
    run_dir: Path,
    socket: Path,
    api_listen: str,
    group: str,
    engine: str,
    cgroup_parent: str,
    image_store: tuple[Path, ...],
    insecure_registry: tuple[str, ...],
    min_certificate_life: str,
    etcd: tuple[str, ...],
    etcd_ca: Path | None,
    etcd_cert: Path | None,
    etcd_key: Path | None,
    log_level: str,
) -> None:
    """Run the daemon that makes this machine a node; it ends on SIGTERM and touches no container then.

    \b
    Examples:
      skep daemon
      skep daemon --api-listen tcp://0.0.0.0:2376 --group docker
      skep daemon --etcd https://etcd1:2379,https://etcd2:2379 --etcd-ca ca.pem --etcd-cert cert.pem --etcd-key key.pem
    """
    from skep.daemon.main import run  # Imported late: it brings the whole daemon along.

    config = DaemonConfig(
        data_dir=data_dir.absolute(),
        run_dir=run_dir.absolute(),
        socket=socket.absolute(),
        socket_group=group,
        api_listen=api_listen,
        engine=engine,
        cgroup_parent=cgroup_parent,
        image_stores=tuple(image_store),
        insecure_registries=insecure_registry,
        min_certificate_life=_certificate_life(min_certificate_life),
        external_etcd=_external_etcd(etcd, etcd_ca, etcd_cert, etcd_key),
        log_level=log_level,
    )
    raise SystemExit(asyncio.run(run(config)))


def _external_etcd(
    endpoints: tuple[str, ...], root: Path | None, certificate: Path | None, key: Path | None
) -> ExternalEtcd | None:
    try:
        return external_etcd(endpoints, root, certificate, key)
    except InvalidSpec as error:
        raise click.UsageError(str(error)) from error


def _certificate_life(text: str) -> Nanoseconds:
    try:
        life = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write one such as 1h or 60s") from error
    if life < SHORTEST_CERTIFICATE_LIFE:
        raise click.BadParameter("a certificate has to outlast a few renewals: 10s is the least")
    return life
