"""Go templates as people use them with --format."""

import pytest

from skep.cli import templates

NODE = {
    "ID": "abc",
    "Spec": {"Labels": {"zone": "b", "disk": "ssd"}, "Name": ""},
    "Ports": [{"Target": 80}, {"Target": 443}],
    "Names": ["web", "www"],
    "Ready": True,
    "Nothing": None,
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param("plain", "plain", id="text"),
        pytest.param("{{.ID}}", "abc", id="field"),
        pytest.param("{{ .Spec.Labels.zone }}!", "b!", id="nested with spaces"),
        pytest.param("{{.Spec.Labels}}", "map[disk:ssd zone:b]", id="map as Go prints it"),
        pytest.param("{{.Names}}", "[web www]", id="slice as Go prints it"),
        pytest.param("{{json .Names}}", '["web","www"]', id="json"),
        pytest.param("{{.ID | upper}}", "ABC", id="pipe"),
        pytest.param('{{join .Names ", "}}', "web, www", id="join"),
        pytest.param("{{len .Ports}}", "2", id="len"),
        pytest.param("{{index .Names 1}}", "www", id="index"),
        pytest.param("{{range .Ports}}{{.Target}};{{end}}", "80;443;", id="range"),
        pytest.param("{{range .Spec.Labels}}{{.}} {{end}}", "b ssd ", id="range over a map"),
        pytest.param("{{if .Ready}}yes{{else}}no{{end}}", "yes", id="if"),
        pytest.param("{{if .Spec.Name}}yes{{else}}no{{end}}", "no", id="else"),
        pytest.param("{{.Nothing}}", "<no value>", id="nil"),
        pytest.param("{{.Ready}}", "true", id="bool"),
        pytest.param("a\\tb", "a\tb", id="escaped tab"),
        pytest.param("{{truncate .ID 2}}", "ab", id="truncate"),
    ],
)
def test_template_renders_as_go_does(template: str, expected: str) -> None:
    assert templates.render(template, NODE) == expected


@pytest.mark.parametrize("template", ["{{range .Ports}}", "{{end}}", "{{nosuch .ID}}", "{{range .ID}}x{{end}}"])
def test_broken_template_is_refused_with_a_sentence(template: str) -> None:
    with pytest.raises(templates.TemplateError, match="template"):
        templates.render(template, NODE)
