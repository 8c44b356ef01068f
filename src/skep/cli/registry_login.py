"""What `docker login` left for a registry, and the digest an image has there.

Edge: reads docker's config.json, runs its credential helpers. Source: docker/cli's cli/config/configfile and
docker-credential-helpers' protocol.
"""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from skep.cli.client import Engine, Json
from skep.edge.unix_http import EngineRefused
from skep.model.registry import HUB, ImageName

HUB_LOGIN: Final = "https://index.docker.io/v1/"
"""Docker Hub's name in config.json."""
HELPER_LIMIT_S: Final = 30
TOKEN_USER: Final = "<token>"  # noqa: S105  # what helpers say instead of a user's name
NOT_RESOLVED: Final = (
    "image {image} could not be accessed on a registry to record\nits digest. "
    "Each node will access {image} independently,\n"
    "possibly leading to different nodes running different\nversions of the image.\n"
)


def auth_header(image: str) -> str:
    """X-Registry-Auth for an image's registry; empty for one nobody has logged in to."""
    registry = ImageName.parse(image).registry
    server = HUB_LOGIN if registry == HUB else registry
    config = _config()
    helper = (config.get("credHelpers") or {}).get(server) or config.get("credsStore")
    found = _asked_of(helper, server) if helper else _kept(config, server)
    return base64.urlsafe_b64encode(json.dumps(found | {"serveraddress": server}).encode()).decode() if found else ""


def pinned(engine: Engine, spec: Json, header: str) -> None:
    """Write the digest that a spec's image has now into the spec, and the platforms it runs on.

    Where the registry cannot be asked the tag stays, with Docker's warning: an image may be on the nodes only.
    """
    container = spec["TaskTemplate"]["ContainerSpec"]
    image = container["Image"]
    if "@" in image or not image:
        return
    headers = {"X-Registry-Auth": header} if header else None
    try:
        found = engine.http.call("GET", f"/distribution/{quote(image, safe='/:')}/json", headers=headers).json()
    except EngineRefused:
        click.echo(NOT_RESOLVED.format(image=image), err=True)
        return
    tagged = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
    container["Image"] = f"{tagged}@{found['Descriptor']['digest']}"
    placement = spec["TaskTemplate"].setdefault("Placement", {})
    placement["Platforms"] = [
        {"Architecture": each.get("architecture", ""), "OS": each.get("os", "")} for each in found["Platforms"] or []
    ]


def _config() -> dict[str, Any]:
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        found = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{folder / 'config.json'} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _kept(config: dict[str, Any], server: str) -> dict[str, str]:
    """Credentials that are in the file itself."""
    entry = (config.get("auths") or {}).get(server) or {}
    if entry.get("identitytoken"):
        return {"identitytoken": entry["identitytoken"]}
    try:
        username, _, password = base64.b64decode(entry.get("auth") or "", validate=True).decode().partition(":")
    except ValueError as error:
        raise click.ClickException(f"docker's login for {server} is damaged: log in again") from error
    return {"username": username, "password": password} if username else {}


def _asked_of(helper: str, server: str) -> dict[str, str]:
    """Credentials that a helper keeps, such as the desktop's keyring."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=HELPER_LIMIT_S, check=False
        )
        found = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise click.ClickException(f"{program}, which keeps docker's logins, does not work: {error}") from error
    username, secret = found.get("Username", ""), found.get("Secret", "")
    if username == TOKEN_USER:
        return {"identitytoken": secret}
    return {"username": username, "password": secret} if username else {}
