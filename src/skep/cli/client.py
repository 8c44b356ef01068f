"""Which daemon the command line talks to, and how its refusals reach the user.

Edge: sockets, through edge.unix_http.
"""

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote, urlencode

import click

from skep.cli.templates import TemplateError
from skep.edge.unix_http import EngineClient, EngineRefused, EngineUnreachable, StreamedReply

if TYPE_CHECKING:
    import ssl

DEFAULT_SOCKETS = ("/run/skep/docker.sock", "/var/run/docker.sock")
P = ParamSpec("P")
R = TypeVar("R")
Json = dict[str, Any]


def address(host: str | None) -> str:
    """`-H` or DOCKER_HOST if given, else the local socket, Skep's own before Docker's."""
    if host:
        return host
    found = next((path for path in DEFAULT_SOCKETS if Path(path).exists()), DEFAULT_SOCKETS[0])
    return f"unix://{found}"


class Refused(click.ClickException):
    """Ends the command with its text alone on stderr, as Docker's command does."""

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def tls_context() -> "ssl.SSLContext | None":
    """What DOCKER_TLS_VERIFY and DOCKER_CERT_PATH ask for, as docker reads them; None without the former."""
    if not os.environ.get("DOCKER_TLS_VERIFY"):
        return None
    import ssl  # Imported late: it is slow to load, and a unix socket needs none.

    place = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(place / "ca.pem"))
        context.load_cert_chain(place / "cert.pem", place / "key.pem")
    except (OSError, ssl.SSLError) as error:
        raise click.ClickException(
            f"DOCKER_TLS_VERIFY is set, but ca.pem, cert.pem and key.pem in {place} cannot be read: {error}"
        ) from error
    return context


def refusals(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command end with one line on stderr and exit status 1 when the daemon refuses or is not there."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except EngineRefused as error:
            raise Refused(f"Error response from daemon: {error.message}") from error
        except EngineUnreachable as error:
            raise click.ClickException(str(error)) from error
        except TemplateError as error:
            raise Refused(f"template parsing error: {error}") from error

    return run


class Engine:
    """The daemon's API in the few shapes the commands need."""

    def __init__(self, host: str | None) -> None:
        where = address(host)
        self.http = EngineClient(where, tls=None if where.startswith("unix:") else tls_context())

    def get(self, path: str, /, **query: object) -> Any:
        return self.http.json("GET", _with_query(path, query))

    def post(self, path: str, /, body: object = None, **query: object) -> Any:
        return self.http.json("POST", _with_query(path, query), body)

    def post_with_login(self, path: str, /, body: object, registry_auth: str, **query: object) -> Any:
        """POST with credentials for a registry, if there are any."""
        headers = {"X-Registry-Auth": registry_auth} if registry_auth else None
        return self.http.call("POST", _with_query(path, query), body, headers).json()

    def post_file(self, path: str, /, body: IO[bytes], headers: dict[str, str], **query: object) -> Any:
        """POST a file as it is, of the type and length in the headers."""
        return self.http.call("POST", _with_query(path, query), body, headers).json()

    def delete(self, path: str, /, **query: object) -> None:
        self.http.call("DELETE", _with_query(path, query))

    def stream(self, method: str, path: str, /, body: object = None, **query: object) -> StreamedReply:
        """An answer to be read as it comes; close it, or use it in a `with`."""
        return self.http.stream(method, _with_query(path, query), body)

    def list(self, path: str, /, filters: dict[str, list[str]] | None = None, **query: object) -> list[Json]:
        """GET a collection with Docker's filters."""
        if filters:
            query["filters"] = json.dumps(filters)
        return list(self.get(path, **query) or [])

    def names(self, kind: str, ids: set[str]) -> dict[str, Json]:
        """The objects of some ids, in one request for each id as there is no bulk form; missing ones are left out."""
        found: dict[str, Json] = {}
        for id in ids:
            try:
                found[id] = self.get(f"/{kind}/{quote(id)}")
            except EngineRefused as error:
                if error.status != 404:
                    raise
        return found


def _with_query(path: str, query: dict[str, object]) -> str:
    sent = {
        key: ("true" if value is True else str(value)) for key, value in query.items() if value not in (None, False)
    }
    return f"{path}?{urlencode(sent)}" if sent else path


def parse_filters(pairs: tuple[str, ...]) -> dict[str, list[str]]:
    """`--filter key=value`, repeatable, as Docker's filter object."""
    filters: dict[str, list[str]] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise click.UsageError(f'"{pair}" is no filter; write key=value')
        filters.setdefault(key.strip().lower(), []).append(value.strip())
    return filters


def confirm(warning: str, *, is_forced: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        click.Abort: The answer is not yes.
    """
    if not is_forced:
        click.confirm(f"WARNING! {warning}\nAre you sure you want to continue?", abort=True)
