"""`skep network`: overlay networks.

Edge: the terminal.
"""

import json
from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, parse
from skep.cli.client import Engine, Json, confirm, parse_filters, refusals
from skep.cli.complete import live
from skep.cli.options import (
    filter_option,
    force_option,
    format_option,
    long_filter_option,
    no_trunc_option,
    quiet_option,
    short_format_option,
)

COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}
SHORT_ID = 12


@click.group()
def network() -> None:
    """Manage networks.

    \b
    Examples:
      skep network create --driver overlay backbone
      skep network ls
    """


@network.command()
@filter_option
@format_option
@quiet_option
@no_trunc_option
@click.pass_obj
@refusals
def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool, no_trunc: bool) -> None:
    """List the networks.

    \b
    Examples:
      skep network ls
      skep network ls --filter driver=overlay --format 'table {{.Name}}\\t{{.Scope}}'
    """
    found = sorted(Engine(host).list("/networks", parse_filters(filters)), key=lambda n: n["Name"])
    objects.show_list([_row(each, is_whole=no_trunc) for each in found], COLUMNS, template, is_quiet=quiet)


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
        "Labels": objects.labels_text(found.get("Labels")),
        "CreatedAt": f"{day} {moment} +0000 UTC",
    }


@network.command()
@click.argument("name")
@click.option("-d", "--driver", default="overlay", show_default=True)
@click.option("--subnet", multiple=True, help="CIDR; cut from the swarm's pools if not given.")
@click.option("--gateway", multiple=True, help="Of the subnet it is in.")
@click.option("--ip-range", multiple=True, help="Give tasks addresses from this part of the subnet only.")
@click.option("--aux-address", multiple=True, help="name=address that no task gets; may be repeated.")
@click.option("--ipam-driver", default="default", show_default=True)
@click.option("--ipam-opt", multiple=True, help="Option of that driver, key=value.")
@click.option("--label", multiple=True, help="key=value; may be repeated.")
@click.option("-o", "--opt", multiple=True, help="Driver option, key=value.")
@click.option("--scope", default="", help="swarm or local; follows from the driver if not given.")
@click.option("--ipv6", is_flag=True, help="Also IPv6 addresses.")
@click.option("--attachable", is_flag=True, help="Let plain containers join.")
@click.option("--internal", is_flag=True, help="No way out.")
@click.option("--ingress", is_flag=True, help="Make it the swarm's routing mesh.")
@click.pass_obj
@refusals
def create(host: str | None, /, name: str, driver: str, scope: str, **options: Any) -> None:
    """Make a network; prints its id.

    \b
    Examples:
      skep network create backbone
      skep network create --subnet 10.20.0.0/16 --gateway 10.20.0.1 --internal vault
    """
    from skep.cli import ipam  # Imported late: completing a network's name needs no addresses.

    try:
        pools = ipam.pools(options["subnet"], options["ip_range"], options["gateway"], options["aux_address"])
    except parse.BadNotation as error:
        raise click.UsageError(str(error)) from error
    body = {
        "Name": name,
        "Driver": driver,
        "Scope": scope,
        "IPAM": {"Driver": options["ipam_driver"], "Options": parse.pairs(options["ipam_opt"]), "Config": pools},
        "Labels": parse.pairs(options["label"]),
        "Options": parse.pairs(options["opt"]),
        "EnableIPv6": options["ipv6"],
        "Attachable": options["attachable"],
        "Internal": options["internal"],
        "Ingress": options["ingress"],
    }
    click.echo(Engine(host).post("/networks/create", body)["Id"])


@network.command()
@click.argument("networks", nargs=-1, required=True, shell_complete=live("network"))
@short_format_option
@click.option("-v", "--verbose", is_flag=True, help="With services and tasks.")
@click.pass_obj
@refusals
def inspect(host: str | None, networks: tuple[str, ...], template: str, verbose: bool) -> None:
    """Show everything known of networks, as JSON or by template.

    \b
    Examples:
      skep network inspect backbone
      skep network inspect --verbose --format '{{json .Services}}' backbone
    """
    paths = (f"/networks/{quote(reference)}" for reference in networks)
    objects.show(Engine(host), paths, template, verbose=verbose)


@network.command()
@click.argument("networks", nargs=-1, required=True, shell_complete=live("network"))
@force_option("Do not mind a network that is not there.")
@click.pass_obj
@refusals
def rm(host: str | None, networks: tuple[str, ...], force: bool) -> None:
    """Remove networks that no service uses.

    \b
    Examples:
      skep network rm backbone vault
    """
    paths = {reference: f"/networks/{quote(reference)}" for reference in networks}
    objects.remove(Engine(host), paths, is_missing_fine=force)


@network.command()
@click.argument("name", metavar="NETWORK", shell_complete=live("network"))
@click.argument("container")
@click.option("--alias", multiple=True, help="Further name of the container on this network.")
@click.option("--ip", default="", help="IPv4 address it is to have.")
@click.option("--ip6", default="", help="IPv6 address it is to have.")
@click.option("--link", multiple=True, help="CONTAINER:ALIAS; may be repeated.")
@click.option("--driver-opt", multiple=True, help="key=value; may be repeated.")
@click.pass_obj
@refusals
def connect(host: str | None, /, name: str, container: str, **options: Any) -> None:
    """Let a plain container of this node join a network.

    \b
    Examples:
      skep network connect --alias db --ip 172.18.0.9 local-net my-container
    """
    endpoint: Json = {
        "Aliases": list(options["alias"]),
        "Links": list(options["link"]),
        "DriverOpts": parse.pairs(options["driver_opt"]),
    }
    if options["ip"] or options["ip6"]:
        endpoint["IPAMConfig"] = {"IPv4Address": options["ip"], "IPv6Address": options["ip6"]}
    Engine(host).post(f"/networks/{quote(name)}/connect", {"Container": container, "EndpointConfig": endpoint})


@network.command()
@click.argument("name", metavar="NETWORK", shell_complete=live("network"))
@click.argument("container")
@force_option("Also a container that is gone or does not answer.")
@click.pass_obj
@refusals
def disconnect(host: str | None, name: str, container: str, force: bool) -> None:
    """Let a plain container of this node leave a network.

    \b
    Examples:
      skep network disconnect local-net my-container
    """
    Engine(host).post(f"/networks/{quote(name)}/disconnect", {"Container": container, "Force": force})


@network.command()
@long_filter_option
@force_option("Do not ask first.")
@click.pass_obj
@refusals
def prune(host: str | None, filters: tuple[str, ...], force: bool) -> None:
    """Remove networks that nothing uses.

    \b
    Examples:
      skep network prune
      skep network prune --force --filter until=24h
    """
    confirm("This removes all networks that no service and no container uses.", is_forced=force)
    answer = Engine(host).post("/networks/prune", filters=json.dumps(parse_filters(filters)))
    objects.say("\n".join(answer.get("NetworksDeleted") or ()))
