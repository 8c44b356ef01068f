"""Templates in a container's hostname, environment and mounts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import a_task

from skep.core.templates import NodeNames, expand, expand_container, fields
from skep.model.errors import InvalidSpec
from skep.model.service import ContainerSpec, DriverConfig, Mount, VolumeOptions

NODE = NodeNames("node1", "alpha", "linux", "x86_64")
TASK = a_task("t1", slot=3, service_name="web", service_labels={"tier": "front", "a.b": "dots"}, node_id="node1")
VALUES = fields(TASK, NODE)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        pytest.param("plain", "plain", id="no template"),
        pytest.param("{{.Node.Hostname}}-{{.Task.Slot}}", "alpha-3", id="two fields"),
        pytest.param("{{ .Service.Name }}", "web", id="spaces"),
        pytest.param("a {{- .Task.Slot -}} b", "a3b", id="trimmed"),
        pytest.param("{{.Task.Name}}", "web.3.t1", id="task name"),
        pytest.param("{{.Task.ID}}{{.Node.ID}}", "t1node1", id="ids"),
        pytest.param("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/x86_64", id="platform"),
        pytest.param("{{.Service.Labels.tier}}", "front", id="label"),
        pytest.param('{{index .Service.Labels "a.b"}}', "dots", id="label with dots"),
        pytest.param("{{.Service.Labels.none}}|", "|", id="absent label"),
        pytest.param("{{.Node.Hostname | upper}}", "ALPHA", id="pipe"),
        pytest.param("{{.Node.Hostname | json}}", '"alpha"', id="json"),
        pytest.param("{{/* why */}}x", "x", id="comment"),
        pytest.param("a}}b{{.Task.Slot}}", "a}}b3", id="stray closing braces are text"),
    ],
)
def test_expand(text: str, expanded: str) -> None:
    assert expand(text, VALUES) == expanded


@pytest.mark.parametrize(
    "text",
    [
        "{{.Nope}}",
        "{{.Task.Slot",
        "{{.Task}}",
        "{{.Task.Slot.Deeper}}",
        "{{range .Service.Labels}}",
        "{{.Task.Slot | system}}",
        '{{index .Task.Slot "x"}}',
        "{{}}",
    ],
)
def test_what_cannot_be_filled_in_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="template"):
        expand(text, VALUES)


def test_a_global_services_slot_is_its_node() -> None:
    task = a_task("t1", slot=0, node_id="node1")
    assert expand("{{.Task.Slot}}", fields(task, NODE)) == "node1"


def test_every_templated_part_of_a_container_and_no_other() -> None:
    driver = DriverConfig(name="local", options={"o": "{{.Task.Slot}}"})
    options = VolumeOptions(labels={"on": "{{.Node.ID}}"}, driver_config=driver)
    spec = ContainerSpec(
        hostname="{{.Service.Name}}{{.Task.Slot}}",
        env=["ID={{.Task.ID}}", "PLAIN=1"],
        mounts=[Mount(source="data-{{.Task.Slot}}", target="/{{.Service.Name}}", volume_options=options)],
        args=["{{.Task.Slot}}"],
    )
    done = expand_container(spec, TASK, NODE)
    assert done.hostname == "web3"
    assert done.env == ["ID=t1", "PLAIN=1"]
    assert done.args == ["{{.Task.Slot}}"]
    assert done.mounts is not None
    mount = done.mounts[0]
    assert (mount.source, mount.target) == ("data-3", "/web")
    assert mount.volume_options is not None
    assert mount.volume_options.labels == {"on": "node1"}
    assert mount.volume_options.driver_config == DriverConfig(name="local", options={"o": "3"})


@given(st.text(alphabet='{}.-|/*" abTask.Slot'))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        assert isinstance(expand(text, VALUES), str)
    except InvalidSpec:
        pass
