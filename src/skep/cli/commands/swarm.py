"""`skep swarm`: make, join, leave and change a swarm.

Edge: the terminal.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from skep.cli.client import Engine, Json, refusals
from skep.cli.commands.swarm_ca import ca
from skep.cli.options import DURATION

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def swarm() -> None:
    """Make, join, leave and change a swarm.

    \b
    Examples:
      skep swarm init --advertise-addr 192.168.1.10
      skep swarm join-token worker
    """


swarm.add_command(ca)

PLACES = {
    "task_history_limit": ("Orchestration", "TaskHistoryRetentionLimit"),
    "dispatcher_heartbeat": ("Dispatcher", "HeartbeatPeriod"),
    "cert_expiry": ("CAConfig", "NodeCertExpiry"),
    "autolock": ("EncryptionConfig", "AutoLockManagers"),
    "max_snapshots": ("Raft", "KeepOldSnapshots"),
    "snapshot_interval": ("Raft", "SnapshotInterval"),
}


def _spec_options(command: F) -> F:
    for option in (
        click.option("--task-history-limit", type=int, help="How many ended tasks are kept per slot."),
        click.option("--dispatcher-heartbeat", type=DURATION, help="How often nodes say that they live."),
        click.option("--cert-expiry", type=DURATION, help="Life of node certificates."),
        click.option(
            "--autolock", type=bool, is_flag=False, flag_value=True, help="Ask for a key when a manager restarts."
        ),
        click.option("--max-snapshots", type=int, help="Kept for docker's sake; the store needs none."),
        click.option("--snapshot-interval", type=int, help="Kept for docker's sake; the store needs none."),
    ):
        command = option(command)
    return command


def _changed(spec: Json, options: Mapping[str, Any]) -> Json:
    """A swarm's spec with the options of `_spec_options` written into it."""
    for option, (group, name) in PLACES.items():
        if options[option] is not None:
            spec[group] = {**(spec.get(group) or {}), name: options[option]}
    return spec


@swarm.command()
@click.option("--advertise-addr", default="", help="Address others reach this node at (host[:port] or interface).")
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, help="Where to listen for nodes.")
@click.option("--data-path-addr", default="", help="Address for VXLAN, if another one.")
@click.option("--data-path-port", default=0, help="UDP port for VXLAN; 4789 if not given.")
@click.option("--default-addr-pool", multiple=True, help="CIDR to cut overlay subnets from; may be repeated.")
@click.option("--default-addr-pool-mask-length", default=0, help="Prefix length of each subnet; 24 if not given.")
@click.option("--availability", default="active", type=click.Choice(["active", "pause", "drain"]))
@click.option("--force-new-cluster", is_flag=True, help="Begin anew with this manager's state.")
@_spec_options
@click.pass_obj
@refusals
def init(host: str | None, /, **options: Any) -> None:
    """Make this node the first manager of a new swarm.

    \b
    Examples:
      skep swarm init --advertise-addr 192.168.1.10
      skep swarm init --advertise-addr eth1 --default-addr-pool 10.20.0.0/16 --autolock
    """
    engine = Engine(host)
    node_id = engine.post(
        "/swarm/init",
        {
            "AdvertiseAddr": options["advertise_addr"],
            "ListenAddr": options["listen_addr"],
            "DataPathAddr": options["data_path_addr"],
            "DataPathPort": options["data_path_port"],
            "DefaultAddrPool": list(options["default_addr_pool"]) or None,
            "SubnetSize": options["default_addr_pool_mask_length"],
            "Availability": options["availability"],
            "ForceNewCluster": options["force_new_cluster"],
            "Spec": _changed({}, options),
        },
    )
    click.echo(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    click.echo("To add a worker to this swarm, run the following command:\n")
    click.echo(f"    {_join_line(engine, 'Worker')}\n")
    click.echo("To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n")
    if options["autolock"]:
        show_unlock_key(engine)


def _join_line(engine: Engine, role: str) -> str:
    token = engine.get("/swarm")["JoinTokens"][role]
    node = engine.get(f"/nodes/{quote(engine.get('/info')['Swarm']['NodeID'])}")
    return f"skep swarm join --token {token} {node['ManagerStatus']['Addr']}"


@swarm.command()
@click.argument("remote")
@click.option("--token", required=True, help="As printed by `skep swarm join-token`.")
@click.option("--advertise-addr", default="")
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True)
@click.option("--data-path-addr", default="")
@click.option("--availability", default="active", type=click.Choice(["active", "pause", "drain"]))
@click.pass_obj
@refusals
def join(host: str | None, /, remote: str, token: str, **options: str) -> None:
    """Join a swarm as what the token says, worker or manager. REMOTE is HOST:PORT of a manager.

    \b
    Examples:
      skep swarm join --token SWMTKN-1-… 192.168.1.10:2377
    """
    engine = Engine(host)
    request = {
        "RemoteAddrs": [remote],
        "JoinToken": token,
        "AdvertiseAddr": options["advertise_addr"],
        "ListenAddr": options["listen_addr"],
        "DataPathAddr": options["data_path_addr"],
        "Availability": options["availability"],
    }
    engine.post("/swarm/join", request)
    is_manager = engine.get("/info")["Swarm"]["ControlAvailable"]
    click.echo(f"This node joined a swarm as a {'manager' if is_manager else 'worker'}.")


@swarm.command()
@click.option("-f", "--force", is_flag=True, help="Also as the last manager, which ends the swarm.")
@click.pass_obj
@refusals
def leave(host: str | None, force: bool) -> None:
    """Leave the swarm; this node's tasks are stopped.

    \b
    Examples:
      skep swarm leave
    """
    Engine(host).post("/swarm/leave", force=force)
    click.echo("Node left the swarm.")


@swarm.command("join-token")
@click.argument("role", type=click.Choice(["worker", "manager"]))
@click.option("--rotate", is_flag=True, help="Make a new token; the old one is refused from now on.")
@click.option("--expires", type=DURATION, help="Make a new token that is good for so long.")
@click.option("--uses", type=click.IntRange(min=1), help="Make a new token that lets in so many nodes.")
@click.option("-q", "--quiet", is_flag=True, help="The token only.")
@click.pass_obj
@refusals
def join_token(host: str | None, role: str, rotate: bool, expires: int | None, uses: int | None, quiet: bool) -> None:
    """Show, or replace, the token that lets nodes join.

    \b
    Examples:
      skep swarm join-token worker
      skep swarm join-token --rotate --quiet manager
      skep swarm join-token --expires 1h --uses 3 worker
    """
    engine = Engine(host)
    if rotate or expires is not None or uses is not None:
        token = engine.post("/skep/join-tokens", {"Role": role, "Expiry": expires or 0, "Uses": uses or 0})
        if not quiet:
            click.echo(f"Successfully rotated {role} join token.\n")
    else:
        token = engine.get("/skep/join-tokens")[role.capitalize()]
    if quiet:
        click.echo(token["Token"])
        return
    click.echo(f"To add a {role} to this swarm, run the following command:\n")
    click.echo(f"    {_join_line(engine, role.capitalize())}\n")
    if limits := _limits(token):
        click.echo(f"The token is good {limits}; `skep swarm join-token --rotate {role}` makes one without limits.\n")


def _limits(token: Json) -> str:
    ends_at, uses_left = token["EndsAt"], token["UsesLeft"]
    parts = [f"until {ends_at}"] if ends_at else []
    if uses_left is not None:
        parts.append("for no more nodes" if not uses_left else f"for {uses_left} more node{'s' * (uses_left != 1)}")
    return " and ".join(parts)


@swarm.command("client-cert")
@click.argument("name")
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Where to write; ./NAME if not given."
)
@click.option("--expiry", type=DURATION, default=0, help="Life of the certificate; 90 days if not given.")
@click.pass_obj
@refusals
def client_cert(host: str | None, name: str, directory: Path | None, expiry: int) -> None:
    """Issue an operator's certificate for the API on TCP: ca.pem, cert.pem and key.pem, as docker wants them.

    \b
    Examples:
      skep swarm client-cert alice --directory ~/.docker
      docker --tlsverify -H tcp://192.168.1.10:2376 node ls
    """
    from skep.agent.identity import new_key_request  # Imported late: cryptography is slow to load.

    request = new_key_request()
    answer = Engine(host).post("/swarm/operators", {"Name": name, "CSR": request.csr, "Expiry": expiry})
    place = directory or Path(name)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file, text, mode in (
        ("ca.pem", answer["CA"], 0o644),
        ("cert.pem", answer["Certificate"], 0o644),
        ("key.pem", request.key, 0o600),
    ):
        _write(place / file, text, mode)
    click.echo(f"Wrote ca.pem, cert.pem and key.pem to {place}. On a node started with --api-listen:\n")
    click.echo(f"    DOCKER_CERT_PATH={place.absolute()} docker --tlsverify -H tcp://ADDRESS:2376 node ls\n")


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file that never was readable by more than `mode` says."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)


@swarm.command()
@_spec_options
@click.option(
    "--rebalance",
    type=click.Choice(["auto", "manual"]),
    help="auto: services are evened out when nodes were added or came back (label skep.rebalance).",
)
@click.pass_obj
@refusals
def update(host: str | None, /, rebalance: str | None, **options: Any) -> None:
    """Change the swarm's settings.

    \b
    Examples:
      skep swarm update --cert-expiry 720h --task-history-limit 3
      skep swarm update --autolock
    """
    engine = Engine(host)
    cluster = engine.get("/swarm")
    was_locked = bool((cluster["Spec"].get("EncryptionConfig") or {}).get("AutoLockManagers"))
    spec = _changed(cluster["Spec"], options)
    if rebalance:
        spec["Labels"] = {**(spec.get("Labels") or {}), "skep.rebalance": rebalance}
    engine.post("/swarm/update", spec, version=cluster["Version"]["Index"])
    click.echo("Swarm updated.")
    if options["autolock"] and not was_locked:
        show_unlock_key(engine)


def show_unlock_key(engine: Engine) -> None:
    """Print the key that a restarted manager asks for."""
    key = engine.get("/swarm/unlockkey")["UnlockKey"]
    click.echo("To unlock a swarm manager after it restarts, run the `skep swarm unlock`")
    click.echo(f"command and provide the following key:\n\n    {key}\n")
    click.echo("Remember to store this key in a password manager, since without it you")
    click.echo("will not be able to restart the manager.")


@swarm.command("unlock-key")
@click.option("--rotate", is_flag=True, help="Make a new key; the old one opens nothing from now on.")
@click.option("-q", "--quiet", is_flag=True, help="The key only.")
@click.pass_obj
@refusals
def unlock_key(host: str | None, rotate: bool, quiet: bool) -> None:
    """Show, or replace, the key that opens a locked manager.

    \b
    Examples:
      skep swarm unlock-key
      skep swarm unlock-key --rotate --quiet
    """
    engine = Engine(host)
    if rotate:
        cluster = engine.get("/swarm")
        version = cluster["Version"]["Index"]
        engine.post("/swarm/update", cluster["Spec"], version=version, rotateManagerUnlockKey=True)
        if not quiet:
            click.echo("Successfully rotated manager unlock key.\n")
    key = engine.get("/swarm/unlockkey")["UnlockKey"]
    if not key:
        raise click.ClickException("no unlock key is set; `skep swarm update --autolock` makes one")
    if quiet:
        click.echo(key)
    else:
        show_unlock_key(engine)


@swarm.command()
@click.pass_obj
@refusals
def unlock(host: str | None) -> None:
    """Open a manager that is locked after a restart; asks for the key, or reads it from standard input.

    \b
    Examples:
      skep swarm unlock
      skep swarm unlock < key.txt
    """
    engine = Engine(host)
    state = engine.get("/info")["Swarm"]["LocalNodeState"]
    if state != "locked":
        raise click.ClickException(f"this manager is not locked (its state is {state}); there is nothing to unlock")
    is_asked = sys.stdin.isatty()
    key = click.prompt("Enter unlock key", hide_input=True) if is_asked else sys.stdin.readline()
    engine.post("/swarm/unlock", {"UnlockKey": key.strip()})
