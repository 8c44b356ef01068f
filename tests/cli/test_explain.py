"""How the answers to `why` and `--dry-run` are laid out."""

from typing import Any

import pytest

from skep.cli.commands.explain import answer_lines, show_rehearsal


def an_answer(**fields: Any) -> dict[str, Any]:
    return {"Fine": 0, "Reasons": [], "Tasks": [], "Tables": [], **fields}


def test_all_is_well() -> None:
    assert list(answer_lines(an_answer(Fine=3))) == ["all is well: 3 running"]


def test_a_task_that_waits_shows_the_nodes_and_the_fix() -> None:
    filters = [
        {"Name": "Ready", "Admitted": True, "Figures": "ready, active"},
        {"Name": "Resource", "Admitted": False, "Figures": "memory 2 GiB wanted, 1 GiB of 1 GiB free"},
    ]
    table = {"Summary": "", "Fix": "lower it", "Nodes": [{"Hostname": "alpha", "Suitable": False, "Filters": filters}]}
    stuck = {"ID": "t1", "Name": "web.1.t1", "State": "pending", "Hostname": "", "Cause": "no suitable node"}
    text = "\n".join(answer_lines(an_answer(Tasks=[stuck], Tables=[table])))
    assert "web.1.t1 (pending): no suitable node" in text
    assert "NODE" in text
    assert "RESOURCE" in text
    assert "NO  memory 2 GiB wanted, 1 GiB of 1 GiB free" in text
    assert text.endswith("nearest fix: lower it")


class Daemon:
    def post(self, path: str, body: object, **query: object) -> dict[str, Any]:
        self.asked = (path, query)
        placed = {"Slot": 1, "NodeID": "n1", "Hostname": "alpha", "Err": "", "New": True}
        waiting = {"Slot": 2, "NodeID": "", "Hostname": "", "Err": "no suitable node", "New": True}
        return {"Placements": [placed, waiting], "Reasons": []}


def test_a_rehearsal_names_nodes_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon()
    show_rehearsal(daemon, {}, "s1")  # type: ignore[arg-type]  # the one question that is asked
    lines = capsys.readouterr().out.splitlines()
    assert daemon.asked == ("/skep/services/rehearse", {"service": "s1"})
    assert [line.split() for line in lines[:2]] == [["SLOT", "NODE", "CHANGE", "ERROR"], ["1", "alpha", "new"]]
    assert "no suitable node" in lines[2]
    assert lines[3] == "dry run, nothing was changed: 1 on alpha"
