"""`skep swarm`: make, join, leave and change a swarm.

Edge: the terminal.
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from skep.cli.client import Engine, Json, refusals
from skep.cli.options import DURATION


@click.group()
def swarm() -> None:
    """Make, join, leave and change a swarm.

    \b
    skep swarm init --advertise-addr 192.168.1.10
    skep swarm join-token worker
    """


@swarm.command()
@click.option("--advertise-addr", default="", help="Address others reach this node at (host[:port] or interface).")
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, help="Where to listen for nodes.")
@click.option("--data-path-addr", default="", help="Address for VXLAN, if another one.")
@click.option("--data-path-port", default=0, help="UDP port for VXLAN; 4789 if not given.")
@click.option("--default-addr-pool", multiple=True, help="CIDR to cut overlay subnets from; may be repeated.")
@click.option("--default-addr-pool-mask-length", default=0, help="Prefix length of each subnet; 24 if not given.")
@click.option("--availability", default="active", type=click.Choice(["active", "pause", "drain"]))
@click.pass_obj
@refusals
def init(host: str | None, /, **options: Any) -> None:
    """Make this node the first manager of a new swarm."""
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
            "Spec": {},
        },
    )
    click.echo(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    click.echo("To add a worker to this swarm, run the following command:\n")
    click.echo(f"    {_join_line(engine, 'Worker')}\n")
    click.echo("To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n")


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
    """Join a swarm as what the token says, worker or manager. REMOTE is HOST:PORT of a manager."""
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
    """Leave the swarm; this node's tasks are stopped."""
    Engine(host).post("/swarm/leave", force=force)
    click.echo("Node left the swarm.")


@swarm.command("join-token")
@click.argument("role", type=click.Choice(["worker", "manager"]))
@click.option("--rotate", is_flag=True, help="Make a new token; the old one is refused from now on.")
@click.option("-q", "--quiet", is_flag=True, help="The token only.")
@click.pass_obj
@refusals
def join_token(host: str | None, role: str, rotate: bool, quiet: bool) -> None:
    """Show, or replace, the token that lets nodes join."""
    engine = Engine(host)
    if rotate:
        cluster = engine.get("/swarm")
        flag = {"worker": "rotateWorkerToken", "manager": "rotateManagerToken"}[role]
        engine.post("/swarm/update", cluster["Spec"], version=cluster["Version"]["Index"], **{flag: True})
        if not quiet:
            click.echo(f"Successfully rotated {role} join token.\n")
    if quiet:
        click.echo(engine.get("/swarm")["JoinTokens"][role.capitalize()])
        return
    click.echo(f"To add a {role} to this swarm, run the following command:\n")
    click.echo(f"    {_join_line(engine, role.capitalize())}\n")


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
@click.option("--task-history-limit", type=int, help="How many ended tasks are kept per slot.")
@click.option("--dispatcher-heartbeat", type=DURATION, help="How often nodes say that they live.")
@click.option("--cert-expiry", type=DURATION, help="Life of node certificates.")
@click.option(
    "--rebalance",
    type=click.Choice(["auto", "manual"]),
    help="auto: services are evened out when nodes were added or came back (label skep.rebalance).",
)
@click.pass_obj
@refusals
def update(host: str | None, /, rebalance: str | None, **options: int | None) -> None:
    """Change the swarm's settings."""
    engine = Engine(host)
    cluster = engine.get("/swarm")
    spec: Json = cluster["Spec"]
    places = {
        "task_history_limit": ("Orchestration", "TaskHistoryRetentionLimit"),
        "dispatcher_heartbeat": ("Dispatcher", "HeartbeatPeriod"),
        "cert_expiry": ("CAConfig", "NodeCertExpiry"),
    }
    for option, value in options.items():
        if value is not None:
            group, name = places[option]
            spec.setdefault(group, {})[name] = value
    if rebalance:
        spec["Labels"] = {**(spec.get("Labels") or {}), "skep.rebalance": rebalance}
    engine.post("/swarm/update", spec, version=cluster["Version"]["Index"])
    click.echo("Swarm updated.")
