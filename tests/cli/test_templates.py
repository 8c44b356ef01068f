"""Go templates as people use them with --format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.cli import templates
from skep.cli.template_functions import FUNCTIONS

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
        pytest.param("{{range .Spec.Labels}}{{.}} {{end}}", "ssd b ", id="range over a map, by its keys"),
        pytest.param("{{if .Ready}}yes{{else}}no{{end}}", "yes", id="if"),
        pytest.param("{{if .Spec.Name}}yes{{else}}no{{end}}", "no", id="else"),
        pytest.param("{{.Nothing}}", "<no value>", id="nil"),
        pytest.param("{{.Ready}}", "true", id="bool"),
        pytest.param("a\\tb", "a\tb", id="escaped tab"),
        pytest.param("{{truncate .ID 2}}", "ab", id="truncate"),
        pytest.param(
            "{{range $key, $label := .Spec.Labels}}{{$key}}={{$label}},{{end}}", "disk=ssd,zone=b,", id="pairs"
        ),
        pytest.param("{{range $i, $p := .Ports}}{{$i}}:{{$p.Target}} {{end}}", "0:80 1:443 ", id="numbers"),
        pytest.param("{{range .Names}}{{$.ID}}/{{.}} {{end}}", "abc/web abc/www ", id="the whole from inside"),
        pytest.param("{{with .Spec.Labels}}{{.zone}}{{end}}", "b", id="with"),
        pytest.param("{{with .Spec.Name}}{{.}}{{else}}none in {{.ID}}{{end}}", "none in abc", id="without"),
        pytest.param("{{$x := .ID}}{{$x}}{{$x}}", "abcabc", id="variable"),
        pytest.param('{{if eq .ID "x" "abc"}}one of{{end}}', "one of", id="eq of several"),
        pytest.param('{{if eq .ID "x"}}1{{else if .Ready}}2{{else}}3{{end}}!', "2!", id="else if"),
        pytest.param("{{if and .Ready (not .Spec.Name)}}yes{{end}}", "yes", id="parentheses"),
        pytest.param("{{if or .Spec.Name (gt (len .Ports) 1)}}yes{{end}}", "yes", id="nested parentheses"),
        pytest.param("{{(index .Ports 1).Target}}", "443", id="field of parentheses"),
        pytest.param('{{printf "%-5s|%.2s|%d" .ID .ID 7}}', "abc  |ab|7", id="printf"),
        pytest.param('{{printf "%q" .ID}}', '"abc"', id="printf quoted"),
        pytest.param('{{join (split "a-b" "-") "+"}}', "a+b", id="split"),
        pytest.param("{{slice .ID 1}}{{slice .ID 0 1}}", "bca", id="slice"),
        pytest.param("{{pad .ID 1 2}}|", " abc  |", id="pad"),
        pytest.param("a {{- .ID -}} b{{/* said to nobody */}}", "aabcb", id="trimming and a comment"),
        pytest.param("{{`{{`}}", "{{", id="raw text"),
    ],
)
def test_template_renders_as_go_does(template: str, expected: str) -> None:
    assert templates.render(template, NODE) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{range .Ports}}",
        "{{end}}",
        "{{else}}",
        "{{nosuch .ID}}",
        "{{range .ID}}x{{end}}",
        "{{truncate .ID}}",
        "{{$x}}",
        "{{(.ID}}",
        "{{.ID)}}",
        "{{.ID 3}}",
        '{{printf "%d" .ID}}',
        "{{lt .ID 3}}",
        "{{len 3}}",
        "{{.ID.x}}",
        "{{index .Names 7}}",
        '{{"}}',
    ],
)
def test_broken_template_is_refused_with_a_sentence(template: str) -> None:
    with pytest.raises(templates.TemplateError, match="template"):
        templates.render(template, NODE)


PIECES = st.sampled_from(
    [
        *("{{", "}}", "{{- ", " -}}", " ", "|", "(", ")", ".", "$", "$x", ":=", '"a"', '""', '"', "`", "0", "-3", "99"),
        *(".ID", ".Names", ".Ports", ".Nothing", ".Ready", "range", "if", "with", "else", "end", "text", "nil", "true"),
        *sorted(FUNCTIONS),
    ]
)
OPERANDS = st.sampled_from(
    [".ID", ".Names", ".Ports", ".Nothing", ".Spec", '""', '"%d"', '"%s %q"', '"%"', "0", "-3", "99"]
)


def render_or_refuse(text: str) -> None:
    try:
        templates.render(text, NODE)
    except templates.TemplateError:
        return  # Refused with a sentence; anything else would reach the user as a traceback.


@given(st.lists(PIECES, max_size=14))
def test_any_text_is_rendered_or_refused(pieces: list[str]) -> None:
    render_or_refuse(" ".join(pieces))


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(OPERANDS, max_size=4))
def test_any_call_is_rendered_or_refused(name: str, operands: list[str]) -> None:
    render_or_refuse(f"{{{{{' '.join([name, *operands])}}}}}")
