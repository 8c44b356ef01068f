"""`python -m tests.docker_py TREE`: docker-py's own integration tests of the swarm side, against a node of ours.

Edge: a lab of one node in no swarm, on podman, with images made on the spot; all of it is removed whatever happens.
The work tree of docker-py is brought by whoever runs this, for its public repository is not ours to copy: get it with
`git clone --branch 7.2.0 https://github.com/docker/docker-py`. What counts as right is what Docker 20.10 gives on the
same kind of machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.conftest import Lab, make_lab

from skep.lab import nodes
from skep.lab.images import RootEntry, busybox_root, root_tar

FILES = (
    *(f"api_{name}_test.py" for name in ("swarm", "service", "secret", "config", "network", "volume")),
    *(f"models_{name}_test.py" for name in ("services", "swarm", "nodes", "networks", "volumes")),
)
# Docker 20.10's. Of its two expected failures one is the log driver of `swarm init`, which it ignores and Skep refuses;
# the other asks for the address of eth0, and passes wherever there is just one, as in a lab (xpassed).
EXPECTED = {"passed": 158, "skipped": 1, "xfailed": 2, "xpassed": 1}
LIMIT_S = 100.0
IMAGES = ("alpine:3.10", "alpine:latest", "busybox:latest", "hello-world:latest")
HELLO = RootEntry(b"#!/bin/sh\necho Hello from the swarm\n", mode=0o755)


def main(arguments: Sequence[str]) -> int:
    """Run them; 0 if the outcome is the expected one, 1 if not, 2 if it could not be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.docker_py", description=__doc__)
    parser.add_argument("tree", type=Path, help="a work tree of docker-py 7.2")
    parser.add_argument("words", nargs="*", help="further words for pytest, such as -k NAME: then nothing is compared")
    asked = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("a lab needs root; run this with sudo", file=sys.stderr)
        return 2
    if not (asked.tree / "tests/integration/api_swarm_test.py").is_file():
        print(f"{asked.tree} is no work tree of docker-py: there is no tests/integration in it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="skep-docker-py-") as directory, a_node(Path(directory)) as lab:
        import_images(lab)
        began = time.monotonic()
        counts = run_tests(lab, asked.tree.resolve(), asked.words, Path(directory) / "outcomes.json")
        took_s = time.monotonic() - began
        if counts["failed"] or counts["error"]:
            print(lab.logs(), file=sys.stderr)
        print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), f"in {took_s:.0f} s")
        if asked.words:
            return 1 if counts["failed"] or counts["error"] else 0
        return compare(counts, took_s)


@contextmanager
def a_node(directory: Path) -> Iterator[Lab]:
    """A lab of one podman node in no swarm."""
    made = contextmanager(make_lab)
    with made(directory / "l", node_count=1, engine="podman", is_joined=False) as lab:
        yield lab


def import_images(lab: Lab) -> None:
    """Import the images the tests name, each a root of busybox."""
    root = root_tar(busybox_root() | {"/hello": HELLO})
    for name in IMAGES:
        command = 'CMD ["/hello"]' if name.startswith("hello") else 'CMD ["/bin/sh"]'
        done = lab.docker_process("import", "--change", command, "-", name, stdin=root)
        assert done.returncode == 0, done.stderr


def run_tests(lab: Lab, tree: Path, words: Sequence[str], result: Path) -> Counter[str]:
    """Run the tests inside the node, so that what they say of its addresses holds; count their outcomes."""
    files = [f"tests/integration/{name}" for name in FILES]
    options = ["-q", "-p", "no:cacheprovider", "-p", "skep_outcomes", "--rootdir", str(tree), "-c", "pytest.ini"]
    command = [sys.executable, "-m", "pytest", *options, *files, *words]
    line = nodes.exec_command(lab.layout, "node1", ["env", f"--chdir={tree}", *command])
    env = {
        **os.environ,
        "DOCKER_HOST": f"unix://{lab.layout.node('node1').socket}",
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SKEP_OUTCOMES": str(result),
    }
    env.pop("DOCKER_TEST_API_VERSION", None)
    subprocess.run(line, env=env, check=False)
    return Counter(json.loads(result.read_text())) if result.exists() else Counter(error=1)


def compare(counts: Counter[str], took_s: float) -> int:
    """Say how the outcome differs from the expected one; a test expected to fail may pass."""
    found = Counter(counts)
    better = min(max(found["xpassed"] - EXPECTED["xpassed"], 0), EXPECTED["xfailed"])
    found["xpassed"] -= better
    found["xfailed"] += better
    wrong = [
        f"{EXPECTED.get(key, 0)} {key} expected, {counts[key]} found"
        for key in sorted({*EXPECTED, *found})
        if found[key] != EXPECTED.get(key, 0)
    ]
    if took_s >= LIMIT_S:
        wrong.append(f"it took {took_s:.0f} s, {LIMIT_S:.0f} s is the limit")
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
