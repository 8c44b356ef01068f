"""`skep network`: overlay networks.

Edge: the terminal.
"""

from urllib.parse import quote

import click

from skep.cli import render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.options import filter_option, format_option, parse_labels, quiet_option

COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}
SHORT_ID = 12


@click.group()
def network() -> None:
    """Manage networks.

    \b
    skep network create --driver overlay backbone
    skep network ls
    """


@network.command()
@filter_option
@format_option
@quiet_option
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.pass_obj
@refusals
def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool, no_trunc: bool) -> None:
    """List the networks."""
    found = sorted(Engine(host).list("/networks", parse_filters(filters)), key=lambda n: n["Name"])
    rows = [_row(each, is_whole=no_trunc) for each in found]
    click.echo("\n".join(row["ID"] for row in rows) if quiet else render.listing(rows, COLUMNS, template))


def _row(found: Json, *, is_whole: bool) -> Json:
    """One network by Docker's names for `--format`. Source: docker/cli, command/network/formatter.go."""
    day, _, moment = found["Created"].removesuffix("Z").partition("T")
    return {
        "ID": found["Id"] if is_whole else found["Id"][:SHORT_ID],
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Scope": found["Scope"],
        "IPv4": str(found.get("EnableIPv4", True)).lower(),
        "IPv6": str(found.get("EnableIPv6", False)).lower(),
        "Internal": str(found.get("Internal", False)).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted((found.get("Labels") or {}).items())),
        "CreatedAt": f"{day} {moment} +0000 UTC",
    }


@network.command()
@click.argument("name")
@click.option("-d", "--driver", default="overlay", show_default=True)
@click.option("--subnet", multiple=True, help="CIDR; cut from the swarm's pools if not given.")
@click.option("--gateway", multiple=True)
@click.option("--ip-range", multiple=True)
@click.option("--label", multiple=True)
@click.option("-o", "--opt", multiple=True, help="Driver option, key=value.")
@click.option("--attachable", is_flag=True, help="Let plain containers join.")
@click.option("--internal", is_flag=True, help="No way out.")
@click.option("--ingress", is_flag=True, help="Make it the swarm's routing mesh.")
@click.pass_obj
@refusals
def create(
    host: str | None,
    /,
    name: str,
    driver: str,
    subnet: tuple[str, ...],
    gateway: tuple[str, ...],
    ip_range: tuple[str, ...],
    label: tuple[str, ...],
    opt: tuple[str, ...],
    **flags: bool,
) -> None:
    """Make a network; prints its id."""
    longest = max(len(subnet), len(gateway), len(ip_range))

    def nth(values: tuple[str, ...], n: int) -> str:
        return values[n] if n < len(values) else ""

    pools = [
        {"Subnet": nth(subnet, n), "Gateway": nth(gateway, n), "IPRange": nth(ip_range, n)} for n in range(longest)
    ]
    body = {
        "Name": name,
        "Driver": driver,
        "IPAM": {"Driver": "default", "Config": pools},
        "Labels": parse_labels(label),
        "Options": parse_labels(opt),
        "Attachable": flags["attachable"],
        "Internal": flags["internal"],
        "Ingress": flags["ingress"],
    }
    click.echo(Engine(host).post("/networks/create", body)["Id"])


@network.command()
@click.argument("networks", nargs=-1, required=True)
@format_option
@click.option("-v", "--verbose", is_flag=True, help="With services and tasks.")
@click.pass_obj
@refusals
def inspect(host: str | None, networks: tuple[str, ...], template: str, verbose: bool) -> None:
    """Show everything known of networks, as JSON or by template."""
    engine = Engine(host)
    found = [engine.get(f"/networks/{quote(reference)}", verbose=verbose) for reference in networks]
    click.echo(render.inspect(found, template))


@network.command()
@click.argument("networks", nargs=-1, required=True)
@click.pass_obj
@refusals
def rm(host: str | None, networks: tuple[str, ...]) -> None:
    """Remove networks that no service uses."""
    engine = Engine(host)
    for reference in networks:
        engine.delete(f"/networks/{quote(reference)}")
        click.echo(reference)
