"""Any Compose file at all: a project, or an error that names file and line."""

from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.damage import mutated
from tests.fuzz.rounds import brief, lasting, rounds
from tests.stack.files import source_of

from skep.model.errors import SkepError
from skep.stack import convert
from skep.stack.errors import ComposeError
from skep.stack.project import load

FILES = [
    b"""\
name: shop
x-logging: &logging
  driver: json-file
services:
  web: &web
    image: "nginx:${TAG:-1}"
    deploy:
      replicas: 2
      update_config: {parallelism: 1, delay: 10s, failure_action: rollback, order: start-first}
      resources: {limits: {cpus: '0.50', memory: 50M}, reservations: {memory: 20m}}
      placement: {constraints: ["node.role==worker"], preferences: [{spread: node.labels.zone}]}
    ports: ["8080:80", "127.0.0.1:9000-9001:90-91/udp", {target: 1, published: 2, mode: host}]
    networks: {front: {aliases: [www]}}
    healthcheck: {test: ["CMD", "true"], interval: 1m30s, retries: 3}
    environment: [A=1, B, "C=${D:?need D}"]
  other:
    <<: *web
    logging: *logging
    depends_on: {web: {condition: service_healthy}}
    volumes: ["data:/data:ro", {type: tmpfs, target: /t, tmpfs: {size: 1k}}]
    secrets: [{source: key, target: k, mode: 0400}]
networks: {front: {driver: overlay, ipam: {config: [{subnet: 10.1.0.0/16}]}}}
volumes: {data: }
secrets: {key: {file: ./key}}
""",
    b"services:\n  a:\n    extends: {file: other.yaml, service: b}\n    image: i\n    profiles: [x]\n    build: .\n",
    b"services: {a: {image: i, command: !reset [], ulimits: {nofile: {soft: 1, hard: 2}}, sysctls: {a.b: 1}}}\n",
    b"- &a [*a]\n",
]
LINES = st.sampled_from(
    [
        b"&a [*a]\n",
        b"<<: *web\n",
        b"? !!binary x\n",
        b"--- \n",
        b"${A:-${B:-${C",
        b"$$",
        b"${",
        b"0o777",
        b"1e400",
        b"\t",
        b"!!python/object:os.system x\n",
        b"'",
        b'"',
        b"[" * 300,
        b"{a: " * 300,
        b"\xff\xfe",
        b"99999999999999999999s",
    ]
)


@st.composite
def spliced(draw: st.DrawFn) -> bytes:
    raw = draw(st.sampled_from(FILES))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(LINES) + raw[at:]
    return raw


@lasting
def test_any_file_is_a_project_or_an_error_with_a_place() -> None:
    @brief(150)
    @given(text=st.one_of(mutated(spliced(), 6), st.binary(max_size=60)), other=mutated(st.sampled_from(FILES), 2))
    def target(text: bytes, other: bytes) -> None:
        files = {"/p/compose.yaml": text, "/p/other.yaml": other, "/p/key": b"k"}
        try:
            project = load(source_of(files, D="d"))
        except ComposeError:
            return
        for service in project.services.values():
            ids = convert.Ids(*({} for _ in convert.Ids.__annotations__))
            try:
                convert.service_spec("shop", project, service, ids)
            except (SkepError, KeyError):
                pass  # Nothing was created, so there are no ids of networks, secrets and configs.

    rounds(target)
