"""Make the voting application's five images from Debian's own programs, as archives for `docker load`.

    python examples/voting-app/make_images.py DIRECTORY

Needs the packages busybox-static, redis-server and postgresql-15.
"""

import sys
from pathlib import Path

from skep.lab.images import (
    ACCOUNTS,
    ImageConfig,
    ImageNotMade,
    RootEntry,
    image_archive,
    program_root,
)

HERE = Path(__file__).parent / "programs"
SEARCH = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNNEEDED = ("*/man/*", "*/extension/[!p]*", "*/extension/p[!l]*")
POSTGRES_USER = b"postgres:x:70:70:postgres:/var/lib/postgresql:/bin/sh\n"


def postgres_home() -> Path:
    """Where Debian has PostgreSQL's programs.

    Raises:
        ImageNotMade: It is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        raise ImageNotMade("PostgreSQL is not installed here: install the package postgresql-15")
    return found[-1].parents[1]


def script(name: str) -> RootEntry:
    return RootEntry((HERE / name).read_bytes(), mode=0o755)


def web(name: str, *programs: str | Path) -> bytes:
    """A web server of one CGI program."""
    root = program_root(programs) | {f"/www/cgi-bin/{name}": script(name)}
    return archive(name, root, ("httpd", "-f", "-p", "80", "-h", "/www"))


def archive(name: str, root: dict[str, RootEntry], command: tuple[str, ...], *paths: Path) -> bytes:
    search = ":".join([SEARCH, *map(str, paths)])
    return image_archive(f"voting/{name}", root, ImageConfig(command=command, env=(search,)))


def with_link(root: dict[str, RootEntry], program: Path) -> dict[str, RootEntry]:
    return root | {f"/usr/local/bin/{program.name}": RootEntry(link=str(program), mode=0o777)}


def database(postgres: Path) -> bytes:
    programs = [postgres / "bin" / name for name in ("postgres", "initdb", "psql")]
    share = Path("/usr/share/postgresql") / postgres.name
    root = program_root(programs, directories=[share], left_out=UNNEEDED)
    for module in ("plpgsql.so", "dict_snowball.so"):
        path = postgres / "lib" / module
        root[str(path)] = RootEntry(path.read_bytes())
    root["/etc/passwd"] = RootEntry(ACCOUNTS["/etc/passwd"] + POSTGRES_USER)
    root["/etc/group"] = RootEntry(ACCOUNTS["/etc/group"] + b"postgres:x:70:\n")
    root["/usr/local/bin/db"] = script("db")
    root["/var/lib/postgresql/data/.keep"] = RootEntry(b"")
    return archive("db", root, ("db",), postgres / "bin")


def main(directory: Path) -> None:
    """Write one archive per image."""
    postgres = postgres_home()
    psql = postgres / "bin" / "psql"
    worker = with_link(program_root(["redis-cli", psql]), psql) | {"/usr/local/bin/worker": script("worker")}
    result = with_link(program_root([psql]), psql) | {"/www/cgi-bin/result": script("result")}
    made = {
        "vote": web("vote", "redis-cli"),
        "redis": archive(
            "redis",
            program_root(["redis-server", "redis-cli"]),
            ("redis-server", "--bind", "*", "--protected-mode", "no", "--save", ""),
        ),
        "worker": archive("worker", worker, ("worker",)),
        "result": archive("result", result, ("httpd", "-f", "-p", "80", "-h", "/www")),
        "db": database(postgres),
    }
    for name, content in made.items():
        (directory / f"{name}.tar").write_bytes(content)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ImageNotMade as error:
        sys.exit(str(error))
