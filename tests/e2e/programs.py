"""The program that end-to-end services run: it answers over HTTP with its own name and the caller's address.

Made from Debian's static busybox, so that the same image runs on every engine.
"""

from pathlib import Path

from skep.lab import images

NAME = "skep/who"
COMMAND = ("httpd", "-f", "-p", "9200", "-h", "/www")
PATH = "/cgi-bin/who"
WHO = b"""#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
echo "$(hostname) $(echo "$REMOTE_ADDR" | tr -d '[]' | sed 's/^::ffff://')"
"""
ENVIRONMENT = b"""#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
tr '\\0' '\\n' </proc/1/environ
cat /proc/mounts
"""


def write_archive(directory: Path) -> Path:
    """Write the image for `docker load`."""
    root = images.busybox_root()
    root["/www/cgi-bin/who"] = images.RootEntry(WHO, mode=0o755)
    root["/www/cgi-bin/environment"] = images.RootEntry(ENVIRONMENT, mode=0o755)
    archive = directory / "who.tar"
    archive.write_bytes(images.image_archive(NAME, root, images.ImageConfig(command=COMMAND)))
    return archive


def process_words(directory: Path) -> tuple[list[str], list[str]]:
    """The same program for the process engine, which runs it from the host's own file system.

    Returns:
        Options for `service create`, and the command.
    """
    script = directory / "www" / PATH.lstrip("/")
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_bytes(WHO)
    script.chmod(0o755)
    mount = f"type=bind,source={directory / 'www'},target=/mnt,readonly"
    return ["--mount", mount], ["busybox", "httpd", "-f", "-p", "9200", "-h", "/mnt"]
