"""A web server that stops as a good program does, so that every request that fails was failed by the swarm.

Debian's nginx on busybox: told to QUIT it takes no new connection, finishes the requests it has, and closes kept
connections between two requests.
"""

from pathlib import Path

from skep.lab import images

NAME = "skep/graceful"
PORT = 9300
CONFIGURATION = f"""
daemon off;
user root;
pid /run/nginx.pid;
worker_processes 1;
error_log stderr warn;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path /tmp; proxy_temp_path /tmp; fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; scgi_temp_path /tmp;
    keepalive_requests 100000;
    server {{
        listen {PORT} backlog=4096;
        location / {{ return 200 "$hostname\\n"; }}
    }}
}}
"""
STOPPING = ("--stop-signal", "SIGQUIT")


def write_archive(directory: Path) -> Path:
    """Write the image for `docker load`."""
    root = images.program_root(["nginx"], {"/etc/nginx/nginx.conf": CONFIGURATION.encode()})
    archive = directory / "graceful.tar"
    command = ("nginx", "-c", "/etc/nginx/nginx.conf")
    root |= {"/var/log/nginx/.keep": images.RootEntry(b""), "/var/lib/nginx/.keep": images.RootEntry(b"")}
    archive.write_bytes(images.image_archive(NAME, root, images.ImageConfig(command=command)))
    return archive
