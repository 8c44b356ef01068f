"""`make demo`: a swarm of three nodes on this machine, each command shown as it is typed.

Everything is real: the daemons, mutual TLS, the container engine, the kernel's packets. The exit status is 0 only if
every step did what it says. `--keep` leaves the lab standing to explore.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from skep.lab import images
from skep.lab.layout import SUBNET

BOLD, DIM, RED, GREEN, PLAIN = ("\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[0m")
if not sys.stdout.isatty():
    BOLD = DIM = RED = GREEN = PLAIN = ""

WHO = """#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "$(hostname) answers, and sees you as $(echo "$REMOTE_ADDR" | tr -d '[]' | sed 's/^::ffff://')"
"""
PORTAL = """#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "portal $(hostname) asked http://search:9200 and was told:"
wget -qO- http://search:9200/cgi-bin/who
"""
NODES = [f"{SUBNET}.{number}" for number in (1, 2, 3)]
URL = "http://{}:9200/cgi-bin/who"


class StepFailed(Exception):
    """A step did not do what it says."""


class Demo:
    """One showing, in a lab of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checks = 0

    def say(self, text: str) -> None:
        print(f"\n{BOLD}# {text}{PLAIN}", flush=True)

    def type(self, command: str, *, shown: str = "", is_streamed: bool = False, where: str = "node1") -> str:
        """Show a command and run it; returns its output. `docker` talks to a node, other words run where it says."""
        print(f"{DIM}{where}$ {PLAIN}{shown or command}", flush=True)
        line = self.line(command.split(), where)
        if is_streamed:
            done = subprocess.run(line, check=False)
            output = ""
        else:
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            output = done.stdout
            print(output + done.stderr, end="", flush=True)
        if done.returncode != 0:
            raise StepFailed(f"`{command}` ended with status {done.returncode}")
        return output

    def line(self, words: Sequence[str], where: str) -> list[str]:
        if words[0] == "skep":
            return [sys.executable, "-m", "skep.cli", *words[1:], "--dir", str(self.root)]
        if words[0] == "docker":
            return ["docker", "-H", f"unix://{self.root}/{where}/docker.sock", *words[1:]]
        return [sys.executable, "-m", "skep.cli", "lab", "exec", where, "--dir", str(self.root), "--", *words]

    def ask(self, address: str, where: str = "client") -> str:
        """Ask a node's published port once; empty when it does not answer."""
        line = self.line(["curl", "-s", "-m", "4", URL.format(address)], where)
        return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()

    def check(self, is_so: bool, what: str) -> None:
        """Say whether something holds."""
        self.checks += 1
        if not is_so:
            raise StepFailed(what)
        print(f"{GREEN}✓ {what}{PLAIN}", flush=True)

    # --- the steps -----------------------------------------------------------------

    def build(self) -> None:
        self.say("An image, made on the spot from Debian's busybox; no registry is involved")
        root = images.busybox_root()
        for name, script in (("who", WHO), ("portal", PORTAL)):
            root[f"/www/cgi-bin/{name}"] = images.RootEntry(script.encode(), mode=0o755)
        config = images.ImageConfig(command=["httpd", "-f", "-p", "9200", "-h", "/www"])
        archive = self.root.parent / "search.tar"
        archive.write_bytes(images.image_archive("skep/search", root, config))
        for node in ("node1", "node2", "node3"):
            self.type(f"docker load -i {archive}", shown="docker load -i search.tar", where=node)

    def form(self) -> None:
        self.say("Three nodes: each has its own daemon, engine and network. One is a manager")
        self.type("skep lab up --nodes 3", where="host", is_streamed=True)
        listing = self.type("docker node ls")
        self.check(listing.count("Ready") == 3, "three nodes are ready")

    def serve(self) -> None:
        self.say("An overlay network and a service of three tasks, published on port 9200 of every node")
        self.type("docker network create --driver overlay backbone")
        create = "docker service create --name search --replicas 3 --network backbone -p 9200:9200"
        self.type(f"{create} --no-resolve-image --quiet skep/search", shown=f"{create} skep/search")
        self.type("docker service ps search")
        for address in NODES:
            answers = []
            for _ in range(3):
                answers.append(self.type(f"curl -s {URL.format(address)}", where="client").strip())
            self.check(len(set(answers)) == 3, f"{address} spread three requests over three tasks")
            self.check(all(f"{SUBNET}.250" in answer for answer in answers), "each saw the client's own address")
        answer = self.type(f"curl -s {URL.format('localhost')}", where="node2")
        self.check("answers" in answer, "localhost of a node answers, too")

    def connect(self) -> None:
        self.say("A second service reaches the first by its name, over the overlay")
        create = "docker service create --name portal --network backbone -p 8080:9200"
        self.type(f"{create} --no-resolve-image --quiet skep/search", shown=f"{create} skep/search")
        answer = self.type(f"curl -s http://{NODES[1]}:8080/cgi-bin/portal", where="client")
        self.check("was told" in answer and "answers" in answer, "search answered the portal by name")

    def grow(self) -> None:
        self.say("Five tasks instead of three")
        self.type("docker service scale --detach search=5")
        self.wait(lambda: self.running() == 5, "five tasks run")
        names = {self.ask(NODES[0]).partition(" ")[0] for _ in range(10)}
        self.check(len(names) == 5, "one node's port reaches all five")

    def lose(self) -> None:
        self.say("Pull the plug of node3, while the client goes on asking the other two")
        self.type("skep lab kill node3", where="host")
        asked, answers = time.monotonic(), Counter[str]()
        while time.monotonic() - asked < 9:
            for address in NODES[:2]:
                answers[self.ask(address).partition(" ")[0]] += 1
        lost = answers.pop("", 0)
        print(f"{sum(answers.values())} requests answered by {len(answers)} tasks, {lost} lost")
        self.check(lost <= 2, "the others kept answering (at most what was on its way to the dead node is lost)")
        self.type("docker node ls")
        self.wait(lambda: self.running() == 5, "its tasks run elsewhere")
        self.type("docker service ps --filter desired-state=running search")

    def return_(self) -> None:
        self.say("Plug it in again")
        self.type("skep lab start node3", where="host")
        self.check(self.type("docker node ls").count("Ready") == 3, "three nodes are ready again")
        self.check("answers" in self.ask(NODES[2]), "and its port answers")

    def running(self) -> int:
        line = self.line(["docker", "service", "ls", "-f", "name=search", "--format", "{{.Replicas}}"], "node1")
        text = subprocess.run(line, capture_output=True, text=True, check=False).stdout
        return int(text.partition("/")[0] or 0)

    def wait(self, condition: Callable[[], bool], what: str, deadline_s: float = 20) -> None:
        limit = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > limit:
                raise StepFailed(f"not within {deadline_s:g} s: {what}")
            time.sleep(0.1)
        self.check(True, what)

    def tear_down(self) -> None:
        subprocess.run(self.line(["skep", "lab", "down"], "host"), capture_output=True, check=False)


def main() -> int:
    is_kept = "--keep" in sys.argv[1:]
    base = Path(tempfile.mkdtemp(prefix="skep-demo-"))
    demo = Demo(base / "lab")
    began = time.monotonic()
    status = 0
    try:
        for step in (demo.form, demo.build, demo.serve, demo.connect, demo.grow, demo.lose, demo.return_):
            step()
    except (StepFailed, images.ImageNotMade, OSError) as failure:
        print(f"\n{RED}✗ the demo failed: {failure}{PLAIN}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    print(f"\n{demo.checks} checks held in {time.monotonic() - began:.0f} s.")
    if is_kept and status == 0:
        print(f"""The lab stands. Explore it:

  export SKEP_LAB={demo.root} DOCKER_HOST=unix://{demo.root}/node1/docker.sock
  docker service ps search
  .venv/bin/skep lab exec client -- curl http://{NODES[1]}:9200/cgi-bin/who
  .venv/bin/skep lab down                      # removes all of it""")
        return status
    demo.tear_down()
    shutil.rmtree(base, ignore_errors=True)
    print("Everything was removed again. `make demo KEEP=1` leaves the lab standing for you to explore.")
    return status


if __name__ == "__main__":
    sys.exit(main())
