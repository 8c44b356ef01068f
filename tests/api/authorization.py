"""The page that says who may call what; `python -m tests.api.authorization` writes it anew from the routes."""

from pathlib import Path
from typing import Final

from skep.api import routes
from skep.api.authorize import CallerKind
from skep.api.call import Route

PAGE: Final = Path(__file__).parents[2] / "docs/reference/authorization.md"
COLUMNS: Final = {
    "local": CallerKind.LOCAL,
    "operator": CallerKind.OPERATOR,
    "manager": CallerKind.MANAGER,
    "worker": CallerKind.WORKER,
    "nobody": CallerKind.NOBODY,
}
HEAD: Final = """\
# Who may call what

Every route of the API with the callers it serves; all others get 403. The daemon does not start with a route that does
not say. `make test` calls every route as every kind of caller and compares with this table, which
`python -m tests.api.authorization` writes.

| caller | who that is |
|---|---|
| local | whoever may open the node's unix socket: root and the members of its group (`--group`) |
| operator | over TCP, with a certificate from `skep swarm client-cert NAME` |
| manager | over TCP, with the certificate of a manager of this swarm |
| worker | over TCP, with the certificate of a worker of this swarm |
| nobody | over TCP, without a certificate |

Whoever shows a certificate that is expired, of another authority, self-signed, of another swarm or of a node that was
removed is not let in at all: the connection ends in the handshake or right after it. A worker's TCP port knows the
managers only: it lets in no other node. A request over TCP has to name this node in its `Host` header (by address or by
host name), and a request with an `Origin` header is refused wherever it comes from.

The TCP port is off unless the daemon is started with `--api-listen tcp://ADDRESS:2376`; there is no way to open it
without mutual TLS. An operator's certificate cannot be taken back before it expires, so give it a short life
(`--expiry`).
"""


def render() -> str:
    """The page as it should be."""
    lines = [
        f"\n| method | path | {' | '.join(COLUMNS)} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
        *map(_row, routes.ALL),
    ]
    return HEAD + "\n".join(lines) + "\n"


def _row(route: Route) -> str:
    marks = ("yes" if kind in route.access else "no" for kind in COLUMNS.values())
    return f"| {route.method} | `{route.path}` | {' | '.join(marks)} |"


def stated() -> list[tuple[str, str, frozenset[CallerKind]]]:
    """What the page says: method, path and who may call it, row by row."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(COLUMNS) and cells[1].startswith("`"):
            served = (kind for kind, mark in zip(COLUMNS.values(), cells[2:], strict=True) if mark == "yes")
            found.append((cells[0], cells[1].strip("`"), frozenset(served)))
    return found


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render())
