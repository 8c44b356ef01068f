"""What Docker's API says of a network or an endpoint and podman does not keep, kept beside it.

Edge: one small JSON file for endpoints; what belongs to a network is in a label of that network, which clients do not
see. Podman (4.3) refuses names with spaces, forgets address ranges and reserved addresses, and does not tell which
addresses, links and driver options a container's endpoint was asked to have.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from skep.api.wire import Document
from skep.model.base import Record
from skep.model.codec import MALFORMED
from skep.model.errors import InvalidSpec

LABEL: Final = "skep.network"
PODMAN_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
KEPT_OF_POOL: Final = ("IPRange", "AuxiliaryAddresses")
KEPT_OF_ENDPOINT: Final = ("IPAMConfig", "Links", "DriverOpts", "MacAddress")


class Kept(Record, frozen=True, kw_only=True):
    """What is in a network's label. Attributes: name: as its user wrote it. ipam: likewise; None if nothing is lost."""

    name: str
    ipam: dict[str, Any] | None = None


# --- networks ---------------------------------------------------------------------------


def for_engine(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body of POST /networks/create as podman takes it.

    Raises:
        InvalidSpec: In Docker's words.
    """
    name, ipam = str(body.get("Name") or ""), body.get("IPAM") or {}
    if not name.strip() or "/" in name:
        raise InvalidSpec(f"{name} is not a valid network name")
    pools = ipam.get("Config") or []
    is_lossy = any(pool.get(key) for pool in pools for key in KEPT_OF_POOL) or bool(ipam.get("Options"))
    if PODMAN_NAME.fullmatch(name) and not is_lossy:
        return dict(body)
    kept = Kept(name=name, ipam=dict(ipam) if is_lossy else None)
    labels = {**(body.get("Labels") or {}), LABEL: msgspec.json.encode(kept).decode()}
    return {**body, "Name": engine_name(name), "Labels": labels}


def engine_name(name: str) -> str:
    """What podman calls a network: its own name where podman takes that."""
    if PODMAN_NAME.fullmatch(name):
        return name
    return f"skep-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def shown(document: Mapping[str, Any]) -> Document:
    """Podman's description of a network with what the label keeps, and without podman's own options."""
    ipam = {**(document.get("IPAM") or {})}
    if (ipam.get("Options") or {}).get("driver") == "host-local":
        ipam["Options"] = None
    labels = dict(document.get("Labels") or {})
    kept = _read_label(labels.pop(LABEL, ""))
    changes: Document = {"IPAM": ipam, "Labels": labels}
    if kept is not None:
        changes["Name"] = kept.name
        if kept.ipam is not None:
            changes["IPAM"] = {**ipam, "Options": kept.ipam.get("Options"), "Config": kept.ipam.get("Config")}
    return {**document, **changes}


def _read_label(text: str) -> Kept | None:
    try:
        return msgspec.json.decode(text, type=Kept) if text else None
    except MALFORMED:
        return None  # Somebody else's label of that name.


# --- endpoints --------------------------------------------------------------------------

Endpoints = dict[str, dict[str, dict[str, Any]]]
"""By container id and network name: the endpoint's settings as asked for."""


class EndpointFile:
    """What endpoints of this machine's plain containers were asked to be; read anew for every request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Endpoints:
        """Everything kept; nothing if there is none or it is damaged: it is for show only."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Endpoints)
        except (FileNotFoundError, *MALFORMED):
            return {}

    def note(self, container_id: str, wanted: Mapping[str, Mapping[str, Any] | None], living: Collection[str]) -> None:
        """Keep what a container's endpoints were asked to be, by network name.

        Args:
            living: Ids of the containers there are; what is kept of others is dropped.
        """
        endpoints = {id: networks for id, networks in self.load().items() if id in living or id == container_id}
        of_this = endpoints.setdefault(container_id, {})
        for name, settings in wanted.items():
            kept = {key: settings[key] for key in KEPT_OF_ENDPOINT if settings and settings.get(key)}
            if kept:
                of_this[name] = kept
            else:
                of_this.pop(name, None)
        self._save({id: networks for id, networks in endpoints.items() if networks})

    def _save(self, endpoints: Endpoints) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(endpoints))
        draft.replace(self._path)


def is_worth_keeping(settings: Mapping[str, Any] | None) -> bool:
    """Whether an endpoint was asked to have something podman will not tell."""
    return settings is not None and any(settings.get(key) for key in KEPT_OF_ENDPOINT)


def link_names(endpoints: Endpoints, network: str, container: str) -> list[str]:
    """What containers on a network call another one there: their links to it, made before it was."""
    found: list[str] = []
    for networks in endpoints.values():
        for link in networks.get(network, {}).get("Links") or ():
            target, _, alias = str(link).partition(":")
            if target == container and alias:
                found.append(alias)
    return found


def merged(container: Mapping[str, Any], kept: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Document:
    """A container's description with what its endpoints were asked to be.

    Args:
        names: What users call networks, by what podman calls them; where that differs.
    """
    settings = {**(container.get("NetworkSettings") or {})}
    networks: dict[str, Any] = {}
    for name, endpoint in (settings.get("Networks") or {}).items():
        asked = dict(kept.get(names.get(name, name), {}))
        if (endpoint or {}).get("MacAddress"):
            asked.pop("MacAddress", None)
        networks[names.get(name, name)] = {**(endpoint or {}), **asked}
    settings["Networks"] = networks
    return {**container, "NetworkSettings": settings}
