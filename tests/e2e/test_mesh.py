"""The routing mesh on a whole lab: exact spread, the client's own address, localhost, names between services."""

from collections import Counter
from collections.abc import Iterator

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, serve_who, wait_until, who_urls

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]
ASK = "for n in $(seq {}); do curl -s -m 5 {}; done"


@pytest.fixture(scope="module")
def lab(podman_lab: Lab) -> Iterator[Lab]:
    serve_who(podman_lab)
    yield podman_lab
    podman_lab.docker("service", "rm", "who")


def ask(lab: Lab, where: str, times: int, url: str) -> tuple[Counter[str], set[str]]:
    """Who answered how often, and which addresses they saw."""
    lines = lab.run(where, "sh", "-c", ASK.format(times, url)).splitlines()
    assert len(lines) == times
    return Counter(line.split()[0] for line in lines), {line.split()[1] for line in lines}


@pytest.mark.parametrize("node", ["node1", "node2", "node3"])
def test_300_requests_to_a_node_are_spread_exactly_and_show_the_client(lab: Lab, node: str) -> None:
    names, seen = ask(lab, "client", 300, who_urls(lab, node)[0])
    assert sorted(names.values()) == [100, 100, 100]
    assert seen == {lab.layout.client_address}


@pytest.mark.parametrize("node", ["node1", "node3"])
def test_localhost_of_a_node_is_spread_exactly_too(lab: Lab, node: str) -> None:
    names, seen = ask(lab, node, 300, f"http://localhost:9200{programs.PATH}")
    assert sorted(names.values()) == [100, 100, 100]
    assert len(seen) == 1  # The node's own address in the mesh: 127.0.0.1 means nothing elsewhere.


def test_a_service_without_tasks_refuses_at_once(lab: Lab) -> None:
    lab.docker("service", "scale", "--detach", "who=0")
    url = who_urls(lab, "node2")[0]
    wait_until(lambda: "7" in lab.run("client", "sh", "-c", f"curl -s -m 2 {url}; echo $?"), "it did not refuse")
    lab.docker("service", "scale", "who=3")


def test_services_find_each_other_by_name_and_not_across_networks(lab: Lab) -> None:
    for network in ("red", "green"):
        lab.docker("network", "create", "-d", "overlay", network)
        create = ["service", "create", "--quiet", "--no-resolve-image", "--update-monitor", "100ms", "--mode", "global"]
        lab.docker(*create, "--name", f"{network}web", "--network", network, "--stop-grace-period", "0s", programs.NAME)
    try:
        container = lab.docker("ps", "-q", "-f", "name=redweb", node="node3").strip()
        inside = ("exec", container, "sh", "-c")
        same = lab.docker(*inside, f"timeout 4 wget -qO- http://redweb:9200{programs.PATH}", node="node3")
        assert len(same.split()) == 2
        listed = lab.docker(*inside, "nslookup tasks.redweb", node="node3")
        assert listed.count("Address") == 1 + 3
        other = lab.docker_process(*inside, "nslookup greenweb", node="node3")
        assert other.returncode != 0
        [green] = lab.api("GET", '/services?filters={"name":["greenweb"]}')
        addresses = [virtual["Addr"] for virtual in green["Endpoint"]["VirtualIPs"]]
        for task in lab.api("GET", '/tasks?filters={"service":["greenweb"]}'):
            addresses += task["NetworksAttachments"][0]["Addresses"]
        assert len(addresses) == 1 + 3
        tries = " & ".join(f"timeout 3 wget -qO- http://{each.partition('/')[0]}:9200/" for each in addresses)
        assert lab.docker(*inside, f"{tries} & wait", node="node3") == ""
        reached = f"timeout 3 wget -qO- http://redweb:9200{programs.PATH} & wait"
        assert lab.docker(*inside, reached, node="node3"), "the way of asking proves nothing"
    finally:
        lab.docker("service", "rm", "redweb", "greenweb")
        wait_until(lambda: len(lab.api("GET", "/tasks")) <= 6, "their tasks did not go")
        lab.docker("network", "rm", "red", "green")
