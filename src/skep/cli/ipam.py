"""The address pools of a new network, from options that name their parts in any order.

Pure. A range, gateway or auxiliary address belongs to the subnet it is in. Source: docker/cli, network/create.go.
"""

import ipaddress
from collections.abc import Sequence
from typing import Any

from skep.cli.parse import BadNotation

Json = dict[str, Any]


def pools(
    subnets: Sequence[str], ranges: Sequence[str], gateways: Sequence[str], auxiliary: Sequence[str]
) -> list[Json]:
    """Put every address to the subnet it is in.

    Args:
        auxiliary: `name=address`.
    Returns:
        A pool for each subnet; without subnets one pool with what else there is, for the daemon to judge.
    Raises:
        BadNotation: An address is in no subnet, cannot be read, or comes twice.
    """
    if not subnets and not (ranges or gateways or auxiliary):
        return []
    found: list[Json] = [{"Subnet": subnet, "IPRange": "", "Gateway": ""} for subnet in subnets]
    found = found or [{"Subnet": "", "IPRange": "", "Gateway": ""}]
    for field, values in (("IPRange", ranges), ("Gateway", gateways)):
        for value in values:
            pool = _pool_of(value, found, field)
            if pool[field]:
                raise BadNotation(f"subnet {pool['Subnet']} has two: {pool[field]} and {value}; give each subnet one")
            pool[field] = value
    for pair in auxiliary:
        name, separator, address = pair.partition("=")
        if not separator:
            raise BadNotation(f'"{pair}" is no auxiliary address; write name=address')
        _pool_of(address, found, "auxiliary address").setdefault("AuxiliaryAddresses", {})[name] = address
    return found


def _pool_of(value: str, found: Sequence[Json], field: str) -> Json:
    try:
        first = ipaddress.ip_network(value, strict=False)
        for pool in found:
            subnet = ipaddress.ip_network(pool["Subnet"], strict=False) if pool["Subnet"] else None
            if subnet is None or (first.version == subnet.version and first[0] in subnet and first[-1] in subnet):
                return pool
    except ValueError as error:
        raise BadNotation(f"{error}; write an address like 10.1.0.1 or a subnet like 10.1.0.0/24") from error
    raise BadNotation(f"no matching subnet for {field.lower()} {value}; name its subnet with --subnet")
