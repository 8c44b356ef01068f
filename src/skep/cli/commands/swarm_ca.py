"""`skep swarm ca`: show the swarm's root certificate, or go over to another one.

Edge: the terminal, the clock.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from skep.cli.client import Engine, Json, refusals
from skep.cli.options import DURATION

LOOK_S: Final = 0.5
FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--rotate", is_flag=True, help="Go over to another root; a new one is made if none is given.")
@click.option("--ca-cert", type=FILE, help="PEM file with the root to go over to.")
@click.option("--ca-key", type=FILE, help="PEM file with its key, without a pass phrase.")
@click.option("--cert-expiry", type=DURATION, help="Life of node certificates from now on.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until every node has followed.")
@click.option("-q", "--quiet", is_flag=True, help="Wait without a word.")
@click.pass_obj
@refusals
def ca(
    host: str | None,
    /,
    rotate: bool,
    ca_cert: Path | None,
    ca_key: Path | None,
    cert_expiry: int | None,
    detach: bool,
    quiet: bool,
) -> None:
    """Show the swarm's root certificate, or go over to another one.

    Every node gets another certificate at once. Until each has it, the old root is trusted, too; a node that is down
    is waited for, unless it is removed.

    \b
    Examples:
      skep swarm ca
      skep swarm ca --rotate
      skep swarm ca --rotate --ca-cert root.pem --ca-key root-key.pem
    """
    engine = Engine(host)
    if not rotate:
        if ca_cert or ca_key or cert_expiry is not None:
            raise click.UsageError("--ca-cert, --ca-key and --cert-expiry change the root; give --rotate, too")
        click.echo(engine.get("/swarm")["TLSInfo"]["TrustRoot"].strip())
        return
    if (ca_cert is None) != (ca_key is None):
        raise click.UsageError("a root is its certificate and its key; give both --ca-cert and --ca-key")
    swarm = engine.get("/swarm")
    config = dict(swarm["Spec"].get("CAConfig") or {})
    if cert_expiry is not None:
        config["NodeCertExpiry"] = cert_expiry
    if ca_cert is not None and ca_key is not None:
        config |= {"SigningCACert": _read(ca_cert), "SigningCAKey": _read(ca_key)}
    else:
        config["ForceRotate"] = config.get("ForceRotate", 0) + 1
    engine.post("/swarm/update", {**swarm["Spec"], "CAConfig": config}, version=swarm["Version"]["Index"])
    if not detach:
        _follow(engine, is_quiet=quiet)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read ({error}); name a PEM file") from error


def _follow(engine: Engine, *, is_quiet: bool) -> None:
    """Wait until every node has followed; say whenever another one has."""
    said = ""
    while True:
        swarm, nodes = engine.get("/swarm"), engine.get("/nodes")
        behind = [node for node in nodes if not _has_followed(node, swarm["TLSInfo"])]
        if not behind and not swarm["RootRotationInProgress"]:
            break
        text = f"{len(nodes) - len(behind)} of {len(nodes)} nodes have followed{waits_for(behind)}"
        if text != said and not is_quiet:
            click.echo(text, err=True)
        said = text
        time.sleep(LOOK_S)
    if not is_quiet:
        click.echo(swarm["TLSInfo"]["TrustRoot"].strip())


def _has_followed(node: Json, wanted: Json) -> bool:
    held = (node.get("Description") or {}).get("TLSInfo") or {}
    return all(held.get(field) == wanted[field] for field in ("CertIssuerPublicKey", "CertIssuerSubject"))


def waits_for(behind: Sequence[Json]) -> str:
    """Which nodes have not followed yet, as the end of a sentence."""
    named = ", ".join(f"{node['Description']['Hostname']} ({node['Status']['State']})" for node in behind[:5])
    if not named:
        return ""
    return f"; waiting for {named}{' and others' if len(behind) > 5 else ''}"
