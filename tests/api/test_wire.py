import base64
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.api import wire
from skep.api.routes.swarm import InitBody
from skep.model.errors import InvalidSpec
from skep.model.service import RestartCondition, ServiceSpec, UpdateOrder


def test_takes_nulls_cases_and_empty_enumerations_as_go_does() -> None:
    spec = wire.decode(
        b"""{"Name": "web", "Labels": null, "mode": {"REPLICATED": {"Replicas": 2}, "Global": null},
        "TaskTemplate": {"ContainerSpec": {"Image": "nginx", "Args": null, "Labels": {"Key": null, "Kept": "x"}},
                         "RestartPolicy": {"Condition": "", "Unknown": 1}},
        "UpdateConfig": {"Order": "", "FailureAction": "Continue"}}""",
        ServiceSpec,
    )
    assert spec.mode.replicated is not None
    assert spec.mode.replicated.replicas == 2
    assert spec.mode.global_ is None
    container = spec.task_template.container_spec
    assert container is not None
    assert container.args is None
    assert container.labels == {"Kept": "x"}
    assert spec.task_template.restart_policy is not None
    assert spec.task_template.restart_policy.condition is RestartCondition.ANY
    assert spec.update_config is not None
    assert spec.update_config.order is UpdateOrder.STOP_FIRST


def test_an_empty_body_of_init_is_all_defaults() -> None:
    assert wire.decode(b'{"DefaultAddrPool": null, "Spec": {}}', InitBody) == InitBody()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b"", "invalid JSON: got EOF while reading request body", id="empty"),
        pytest.param(b"{", "invalid JSON: Input data was truncated", id="cut"),
        pytest.param(b"{} {}", "invalid JSON: .*trailing", id="trailing"),
        pytest.param(b'{"Name": NaN}', "invalid JSON", id="nan"),
        pytest.param(b"[" * 100_000, "invalid JSON", id="deep"),
        pytest.param(b'{"Name": "\xff"}', "invalid JSON", id="not-utf-8"),
        pytest.param(b'{"Name": "\\ud800"}', "invalid JSON", id="lone-surrogate"),
        pytest.param(b"[]", "invalid request body: expected object, got array", id="list"),
        pytest.param(b'{"Name": 1}', r"invalid request body: Name: expected str, got int", id="number-for-text"),
        pytest.param(
            b'{"Mode": {"replicated": {"Replicas": "3"}}}',
            r"invalid request body: Mode\.Replicated\.Replicas: expected int",
            id="text-for-number",
        ),
        pytest.param(
            b'{"TaskTemplate": {"ContainerSpec": {"Env": ["A=1", 2]}}}',
            r"TaskTemplate\.ContainerSpec\.Env\[",
            id="in-a-list",
        ),
        pytest.param(
            b'{"TaskTemplate": {"ForceUpdate": 18446744073709551616}}',
            r"TaskTemplate\.ForceUpdate: expected a 64-bit number",
            id="beyond-64-bits",
        ),
        pytest.param(b'{"TaskTemplate": {"ForceUpdate": ' + b"9" * 10_000 + b"}}", "64-bit|invalid JSON", id="endless"),
        pytest.param(b'{"EndpointSpec": {"Mode": "anycast"}}', r"EndpointSpec\.Mode: .*anycast", id="enumeration"),
    ],
)
def test_refuses_with_a_sentence_that_names_the_field(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        wire.decode(body, ServiceSpec)
    assert re.search(sentence, str(refusal.value)), str(refusal.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Name", "Mode", "Labels", "TaskTemplate", "ContainerSpec", "Mounts", "EndpointSpec", "Ports"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json)
def test_any_json_is_decoded_or_refused_in_one_line(value: Any) -> None:
    outcome: ServiceSpec | str
    try:
        outcome = wire.fit(value, ServiceSpec)
    except InvalidSpec as refusal:
        outcome = str(refusal)
    if isinstance(outcome, str):
        assert "\n" not in outcome
    else:
        assert wire.decode(wire.encode(outcome), ServiceSpec) == outcome


def test_bytes_go_out_as_base64() -> None:
    assert msgspec.json.decode(wire.encode({"Data": b"\x00\xff"}))["Data"] == base64.b64encode(b"\x00\xff").decode()
