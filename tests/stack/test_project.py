"""Whole projects: merge, extends, profiles, sections, and what is refused."""

import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.files import project_of, service_of, source_of

from skep.model.service import Healthcheck, Limits, PortConfig, Protocol, PublishMode, ResolutionMode, RestartCondition
from skep.stack.compose import Condition
from skep.stack.document import compose
from skep.stack.errors import ComposeError
from skep.stack.project import load, start_order
from skep.stack.show import as_yaml

INGRESS, HOST, TCP, UDP = PublishMode.INGRESS, PublishMode.HOST, Protocol.TCP, Protocol.UDP


def port(published: int, target: int, protocol: Protocol = TCP, mode: PublishMode = INGRESS) -> PortConfig:
    return PortConfig(target_port=target, published_port=published, protocol=protocol, publish_mode=mode)


@pytest.mark.parametrize(
    ("written", "ports"),
    [
        ('"8080:80"', [port(8080, 80)]),
        ("80", [port(0, 80)]),
        ("22:22", [port(22, 22)]),
        ("53:53/udp", [port(53, 53, UDP)]),
        ("9000-9002:80-82", [port(9000, 80), port(9001, 81), port(9002, 82)]),
        ("127.0.0.1:80:81", [port(80, 81)]),
        ('"[::1]:80:81"', [port(80, 81)]),
        ("{target: 80, published: 8080, mode: host}", [port(8080, 80, mode=HOST)]),
        ('{target: 80, published: "8080", protocol: udp}', [port(8080, 80, UDP)]),
        ("{target: 80}", [port(0, 80)]),
        ('"${P:-81}:80"', [port(81, 80)]),
    ],
)
def test_ports(written: str, ports: list[PortConfig]) -> None:
    assert service_of(f"ports: [{written}]").endpoint.ports == ports


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ("command: sh -c 'echo hi'", "args", ["sh", "-c", "echo hi"]),
        ("command: [a, 1, true]", "args", ["a", "1", "true"]),
        ("entrypoint: /bin/x -y", "command", ["/bin/x", "-y"]),
        ("environment: [A=1, B, C=x=y]", "env", ["A=1", "B=from outside", "C=x=y"]),
        ("environment: {A: 1.10, B: , Z: yes, N: 022}", "env", ["A=1.10", "B=from outside", "N=022", "Z=yes"]),
        ("environment: [GONE]", "env", None),
        ("init: true", "init", True),
        ("stop_grace_period: 1m30s", "stop_grace_period", 90_000_000_000),
        ("extra_hosts: ['a:1.2.3.4', b=::1]", "hosts", ["1.2.3.4 a", "::1 b"]),
        ("extra_hosts: {a: 1.2.3.4}", "hosts", ["1.2.3.4 a"]),
        ("read_only: ${RO:-yes}", "read_only", True),
        ("cap_add: [net_admin, CAP_KILL]", "capability_add", ["CAP_KILL", "CAP_NET_ADMIN"]),
        ("cap_drop: [ALL]", "capability_drop", ["ALL"]),
        ("labels: [a, b=c]", "labels", {"a": "", "b": "c"}),
        ("healthcheck: {test: curl x, interval: 1s, retries: 3}", "healthcheck",
         Healthcheck(test=["CMD-SHELL", "curl x"], interval=10**9, retries=3)),
        ("healthcheck: {test: [CMD, x]}", "healthcheck", Healthcheck(test=["CMD", "x"])),
        ("healthcheck: {disable: true}", "healthcheck", Healthcheck(test=["NONE"])),
    ],
)  # fmt: skip
def test_container(body: str, field: str, expected: object) -> None:
    assert getattr(service_of(body, B="from outside").container, field) == expected


def test_deploy() -> None:
    found = service_of(
        "deploy: {replicas: '3', endpoint_mode: dnsrr, labels: {a: b},"
        " resources: {limits: {cpus: 0.25, memory: 1.5gb, pids: 9}, reservations: {memory: 64M,"
        " generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}},"
        " restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 1m},"
        " update_config: {parallelism: 2, order: start-first, failure_action: rollback, monitor: 1s,"
        " max_failure_ratio: 0.3},"
        " placement: {constraints: [node.role==worker], preferences: [{spread: node.labels.z}],"
        " max_replicas_per_node: 1}}"
    )
    deploy = found.deploy
    assert deploy.mode.replicated is not None
    assert deploy.mode.replicated.replicas == 3
    assert found.endpoint.mode is ResolutionMode.DNSRR
    assert deploy.resources is not None
    assert deploy.resources.limits == Limits(nano_cpus=250_000_000, memory_bytes=3 << 29, pids=9)
    assert deploy.restart is not None
    assert (deploy.restart.condition, deploy.restart.window) == (RestartCondition.ON_FAILURE, 60 * 10**9)
    assert deploy.update is not None
    assert (deploy.update.parallelism, deploy.update.order, deploy.update.max_failure_ratio) == (2, "start-first", 0.3)
    assert deploy.placement is not None
    assert deploy.placement.constraints == ["node.role==worker"]


@pytest.mark.parametrize(
    ("body", "condition", "attempts"),
    [
        ('restart: "no"', RestartCondition.NONE, None),
        ("restart: unless-stopped", RestartCondition.ANY, None),
        ("restart: on-failure:3", RestartCondition.ON_FAILURE, 3),
        ("restart: always\ndeploy: {restart_policy: {condition: none}}", RestartCondition.NONE, None),
    ],
)
def test_restart_beside_deploy(body: str, condition: RestartCondition, attempts: int | None) -> None:
    restart = service_of(body).deploy.restart
    assert restart is not None
    assert (restart.condition, restart.max_attempts) == (condition, attempts)


@pytest.mark.parametrize(
    ("written", "mode"),
    [("0440", 0o440), ("0o440", 0o440), ('"0440"', 0o440), ('"440"', 0o440), ("288", 0o440), ('"${M:-0400}"', 0o400)],
)
def test_modes_of_files(written: str, mode: int) -> None:
    found = service_of(f"secrets: [{{source: x, mode: {written}}}]", "secrets: {x: {external: true}}")
    assert found.secrets[0].target.mode == mode


@pytest.mark.parametrize(
    ("written", "kind", "source", "target", "is_read_only"),
    [
        ("data:/d", "volume", "data", "/d", False),
        ("/d", "volume", "", "/d", False),
        ("./x:/d:ro", "bind", "/p/x", "/d", True),
        ("../x:/d", "bind", "/x", "/d", False),
        ("~/x:/d", "bind", "/home/me/x", "/d", False),
        ("'/a:/d:rslave,ro'", "bind", "/a", "/d", True),
        ("{type: bind, source: x, target: /d}", "bind", "/p/x", "/d", False),
        ("{type: tmpfs, target: /d, tmpfs: {size: 64m, mode: 01777}}", "tmpfs", "", "/d", False),
        ("{type: volume, source: data, target: /d, volume: {nocopy: true}}", "volume", "data", "/d", False),
    ],
)
def test_volumes(written: str, kind: str, source: str, target: str, is_read_only: bool) -> None:
    mount = service_of(f"volumes: [{written}]", "volumes: {data: }", HOME="/home/me").mounts[0].mount
    assert (mount.type, mount.source, mount.target, mount.read_only) == (kind, source, target, is_read_only)


def test_files_are_merged() -> None:
    base = """
services:
  web:
    image: web:1
    command: [a]
    ports: ["80:80"]
    environment: {A: 1, B: 2}
    volumes: [data:/d, logs:/l]
    networks: [front]
    dns: [1.1.1.1]
    deploy: {replicas: 1, labels: {x: y}}
    labels: {gone: 1}
  old: {image: o}
networks: {front: , back: }
volumes: {data: , logs: , fast: }
"""
    over = """
services:
  web:
    image: web:2
    command: [b, c]
    ports: ["81:81", "80:80"]
    environment: [B=3, C=4]
    volumes: [fast:/d:ro]
    networks: {back: {aliases: [w]}}
    dns: !override [9.9.9.9]
    deploy: {replicas: 5}
    labels: !reset {}
  old: !reset null
"""
    project = load(source_of({"a.yaml": base, "b.yaml": over}, "a.yaml", "b.yaml"))
    web = project.services["web"]
    assert set(project.services) == {"web"}
    assert (web.container.image, web.container.args) == ("web:2", ["b", "c"])
    assert web.container.env == ["A=1", "B=3", "C=4"]
    assert {(use.mount.source, use.mount.target) for use in web.mounts} == {("fast", "/d"), ("logs", "/l")}
    assert {use.network: use.aliases for use in web.networks} == {"front": (), "back": ("w",)}
    assert web.endpoint.ports == [port(80, 80), port(81, 81)]
    assert web.container.dns_config is not None
    assert web.container.dns_config.nameservers == ["9.9.9.9"]
    assert web.deploy.labels == {"x": "y"}
    assert web.deploy.mode.replicated is not None
    assert web.deploy.mode.replicated.replicas == 5
    assert web.container.labels is None


def test_services_extend_others_also_of_other_files() -> None:
    files = {
        "/p/compose.yaml": "services:\n  a: {extends: {file: common/base.yaml, service: base}, command: [mine]}\n"
        "  b: {extends: a, environment: [B=2]}\n",
        "/p/common/base.yaml": "services:\n  base: {extends: root, image: base, volumes: ['./x:/x']}\n"
        "  root: {image: root, environment: {A: '${T:-t}'}, env_file: vars}\n",
        "/p/common/vars": "V=1",
    }
    b = load(source_of(files)).services["b"]
    assert (b.container.image, b.container.args, b.container.env) == ("base", ["mine"], ["A=t", "B=2", "V=1"])
    assert b.mounts[0].mount.source == "/p/common/x"


def test_files_include_others_and_win_over_them() -> None:
    files = {
        "/p/compose.yaml": "include: [db/db.yaml, {path: [more.yaml]}]\nservices: {web: {image: w}, db: {user: me}}",
        "/p/db/db.yaml": "services: {db: {image: d, user: other, volumes: ['./x:/x']}}\nvolumes: {data: }",
        "/p/more.yaml": "include: [db/db.yaml]\nservices: {more: {image: m}}",
    }
    project = load(source_of(files))
    assert set(project.services) == {"web", "db", "more"}
    assert (project.services["db"].container.image, project.services["db"].container.user) == ("d", "me")
    assert project.services["db"].mounts[0].mount.source == "/p/db/x"


def test_files_that_include_each_other_over_and_over_end_soon() -> None:
    files = {f"/p/{n}.yaml": f"include: [{n + 1}.yaml, {n + 1}.yaml]" for n in range(40)}
    files |= {"/p/compose.yaml": "include: [0.yaml]", "/p/40.yaml": "services: {s: {image: i}}"}
    began = time.monotonic()
    assert set(load(source_of(files)).services) == {"s"}
    assert time.monotonic() - began < 1


def test_a_file_that_includes_itself_is_refused() -> None:
    files = {"/p/compose.yaml": "include: [a.yaml]\nservices: {}", "/p/a.yaml": "include: [b.yaml]",
             "/p/b.yaml": "include: [a.yaml]"}  # fmt: skip
    with pytest.raises(ComposeError, match="includes itself"):
        load(source_of(files))


@pytest.mark.parametrize(
    ("profiles", "names"),
    [((), {"always"}), (("dev",), {"always", "debug"}), (("*",), {"always", "debug", "test"})],
)
def test_profiles(profiles: tuple[str, ...], names: set[str]) -> None:
    text = (
        "services:\n  always: {image: i, depends_on: {debug: {condition: service_started, required: false}}}\n"
        "  debug: {image: i, profiles: [dev, x]}\n  test: {image: i, profiles: [ci]}\n"
    )
    assert set(load(source_of({"/p/compose.yaml": text}, profiles=profiles)).services) == names


def test_variables_of_dotenv_are_below_those_of_the_caller() -> None:
    files = {"/p/compose.yaml": "services: {s: {image: '$A-$B'}}", "/p/.env": "A=file\nB=file"}
    assert load(source_of(files, A="caller")).services["s"].container.image == "caller-file"


def test_notes_name_what_is_ignored_and_what_is_not_set() -> None:
    project = project_of("services:\n  s:\n    image: i$X\n    build: .\n    links: [a]\n")
    assert [note.split(" ", 2)[:2] for note in project.notes] == [
        ["/p/compose.yaml:3:", "the"],
        ["/p/compose.yaml:5:", "ignored:"],
        ["/p/compose.yaml:4:", "ignored:"],
    ]


def test_start_order() -> None:
    project = project_of(
        "services:\n  web: {image: i, depends_on: {db: {condition: service_healthy}, cache: }}\n"
        "  db: {image: i, depends_on: [init]}\n  cache: {image: i}\n  init: {image: i}\n"
    )
    assert start_order(project.services) == [["cache", "init"], ["db"], ["web"]]
    assert {d.service: d.condition for d in project.services["web"].depends_on} == {
        "db": Condition.HEALTHY,
        "cache": Condition.STARTED,
    }


def test_secrets_and_configs_have_their_content() -> None:
    files = {
        "/p/compose.yaml": "services: {s: {image: i}}\nsecrets: {f: {file: ./f}, e: {environment: E}}\n"
        "configs: {c: {content: 'x$E'}}",
        "/p/f": b"\x00\xff",
    }
    project = load(source_of(files, E="env"))
    assert (project.secrets["f"].content, project.secrets["e"].content) == (b"\x00\xff", b"env")
    assert project.configs["c"].content == b"xenv"


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("wat: 1", 4, '"wat" is no key of a service'),
        ("deploy:\n  foo: 1", 5, '"foo" is no key of `deploy`'),
        ("healthcheck: {tests: x}", 4, '"tests" is no key'),
        ("privileged: true", 4, "cannot be privileged"),
        ("devices: ['/dev/kvm:/dev/kvm']", 4, "cannot have devices"),
        ("networks: [nope]", 4, 'no network "nope"'),
        ("secrets: [nope]", 4, 'no secret "nope"'),
        ("configs: [{source: nope}]", 4, 'no config "nope"'),
        ("volumes: ['nope:/d']", 4, 'no volume "nope"'),
        ("volumes: ['/d', '/d/']", 4, "mounted at"),
        ("volumes: [{type: npipe, target: /x}]", 4, "not possible here"),
        ("volumes: ['a:b:c:d']", 4, "is no volume"),
        ("depends_on: [nope]", 4, "not among the services"),
        ("depends_on: [s]", 3, "wait for each other: s, s"),
        ("depends_on: {s: {condition: later}}", 4, "not possible here"),
        ("ports: ['1-65535:1-65535']", 4, "may publish"),
        ("ports: ['70000:1']", 4, "between 1 and 65535"),
        ("ports: ['80-81:80-83']", 4, "different length"),
        ("ports: [x]", 4, "is no port"),
        ("ports: [{published: 1}]", 4, "has a target"),
        ("ports: [" + ",".join(f"'{n}-{n + 900}:{n}-{n + 900}'" for n in range(1, 3)) + "]", 4, "may publish 1000"),
        ("deploy: {replicas: -1}", 4, "less than nothing"),
        ("deploy: {replicas: 9999999999999999999999}", 4, "no whole number"),
        ("deploy: {mode: global, replicas: 2}", 4, "one task per node"),
        ("deploy: {resources: {limits: {cpus: fast}}}", 4, "no number of CPUs"),
        ("deploy: {resources: {limits: {memory: 5 apples}}}", 4, "no size"),
        ("deploy: {update_config: {failure_action: explode}}", 4, "not possible here"),
        ("stop_grace_period: 10", 4, "not a duration"),
        ("stop_grace_period: -1s", 4, "no length of time"),
        ("init: maybe", 4, "neither true nor false"),
        ("command: 'a \"b'", 4, "cannot be split"),
        ("environment: {'': 1}", 4, "no name of a variable"),
        ("environment: [{A: 1}]", 4, "has to be text"),
        ("env_file: nope", 4, "is not there"),
        ("extends: nope", 4, 'no service "nope" to extend'),
        ("extends: s", 4, "extends itself"),
        ("extends: {file: nope.yaml, service: s}", 4, "cannot be read"),
        ("image: ${NOPE:?give it}", 4, "required: give it|given twice"),
        ("restart: sometimes", 4, "`restart` is one of"),
        ("user: [a]", 4, "a single text"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_is_told_with_its_line(body: str, line: int, reason: str) -> None:
    began = time.monotonic()
    with pytest.raises(ComposeError, match=reason) as caught:
        service_of(body)
    assert time.monotonic() - began < 1
    assert str(caught.value).startswith(f"/p/compose.yaml:{line}: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "has no services"),
        ("services: [a]", "has to be keys and values"),
        ("services: {a: 1}", "has to be keys and values"),
        ("services: {a: {}}", 'service "a" has no image'),
        ("services: {a: {build: .}}", 'service "a" has no image'),
        ("servcies: {}\nservices: {a: {image: i}}", '"servcies" is no key of a Compose file'),
        ("services: {a: {image: i}}\nsecrets: {x: {}}", "needs one of"),
        ("services: {a: {image: i}}\nsecrets: {x: {file: nope}}", "no such file"),
        ("services: {a: {image: i}}\nconfigs: {x: {environment: NO}}", "which is not set"),
        ("services: {a: {image: i}}\nnetworks: {x: {external: true, driver: y}}", "has only a name"),
        ("services: {a: {image: i, depends_on: [b]}, b: {image: i, depends_on: [a]}}", "wait for each other"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_project_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ComposeError, match=reason):
        project_of(text)


def test_every_unknown_key_is_told_at_once() -> None:
    with pytest.raises(ComposeError) as caught:
        project_of("services:\n  a: {image: i, x-mine: 1, q: 1}\n  b:\n    image: i\n    r: 1\nt: 1\nx-y: 1")
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "/p/compose.yaml:6",
        "/p/compose.yaml:2",
        "/p/compose.yaml:5",
    ]


def test_large_files_extending_each_other_end_soon() -> None:
    variables = ", ".join(f"V{n}: x" for n in range(5000))
    services = "".join(f"  s{n}: {{extends: base}}\n" for n in range(2000))
    began = time.monotonic()
    with pytest.raises(ComposeError, match="once they are merged"):
        project_of(f"services:\n  base: {{image: i, environment: {{{variables}}}}}\n{services}")
    assert time.monotonic() - began < 1


def test_what_is_shown_reads_back_as_the_same() -> None:
    tree = project_of(
        "services:\n  s:\n    image: i\n    command: echo $$HOME yes\n    environment: {A: 'yes', B: '012', C: 1.10, "
        "D: null, E: '~', F: 'a: b', G: 12, H: true, I: '1:30'}\n"
    ).tree
    again = project_of(as_yaml(tree)).tree
    assert as_yaml(again) == as_yaml(tree)
    assert "$$HOME" in as_yaml(compose(as_yaml(tree), "f")).replace("$$$$", "$$")


WORDS = st.sampled_from(
    ["services:", "s:", "image:", "i", "ports:", "- 80", "deploy:", "{", "}", "[", "]", "<<:", "*a", "&a", "!reset",
     "environment:", "A=1", "${X:-", "}", "volumes:", "x:/y", "extends:", "depends_on:", "networks:", "null", "'",
     "healthcheck:", "test:", "1", "configs:", "secrets:", "file:", "- ", "? ", ": ", ",", "#", "|", ">", "%", "\t"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), WORDS), max_size=25))
def test_any_text_is_a_project_or_refused_with_the_one_error(words: list[tuple[int, str]]) -> None:
    text = "".join(f"\n{'  ' * depth}{word}" if depth else f" {word}" for depth, word in words)
    for whole in (text, f"services:\n  s:\n    image: i\n{text}"):
        with suppress(ComposeError):
            project_of(whole)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        ["command", "ports", "environment", "deploy", "volumes", "networks", "secrets", "healthcheck", "extends",
         "depends_on", "env_file", "ulimits", "logging", "labels", "extra_hosts", "profiles", "restart", "tmpfs",
         "security_opt", "stop_grace_period", "init", "build", "devices", "privileged", "mem_limit", "sysctls"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["source", "target", "type", "published", "resources", "limits", "test", "soft", "file"]),
            inner,
            max_size=3,
        ),
        max_leaves=6,
    ),
)  # fmt: skip
def test_any_value_under_any_key_is_read_or_refused(key: str, value: object) -> None:
    with suppress(ComposeError):
        project_of(yaml.safe_dump({"services": {"s": {"image": "i", key: value}}}))
