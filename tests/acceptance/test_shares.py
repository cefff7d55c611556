"""Shares and deadlines on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from tests.acceptance.support import PARTS, Shell, assert_refused, step

C = ("--components", str(PARTS))
DOCUMENT = {"id": "flow", "steps": [step("a", "core.echo", value=7)]}


def test_weights_are_set_and_listed(shell: Shell) -> None:
    assert shell.run("run", shell.write("flow.json", json.dumps(DOCUMENT)), *C).code == 0  # makes the store
    assert "No share" in shell.run("shares", "list").out
    assert "share tenant 7 has the weight 2.5" in shell.run("shares", "set", "tenant 7", "2.5").out
    assert shell.run("shares", "set", "b", "1", "--json").document == {"key": "b", "weight": 1.0}
    listed = shell.run("shares", "list", "--json").document["shares"]
    assert listed == [{"key": "b", "weight": 1.0, "ahead_s": 0.0}, {"key": "tenant 7", "weight": 2.5, "ahead_s": 0.0}]
    assert shell.run("shares", "list", "--after", "b", "--limit", "1").out.splitlines()[1].split() == [
        "tenant", "7", "2.5", "0.0", "s",
    ]  # fmt: skip


def test_what_is_no_weight_is_refused(shell: Shell) -> None:
    assert_refused(shell.run("shares", "set", "a", "0"), 2, "no weight of a share", "0.001 to 1,000")
    assert shell.run("shares", "set", "a", "much").code == 2
    assert shell.run("shares").code == 2


def test_run_counts_to_a_share_and_has_a_deadline(shell: Shell) -> None:
    path = shell.write("flow.json", json.dumps(DOCUMENT))
    assert shell.run("run", str(path), *C, "--detach", "--share", "acme", "--deadline", "2h").code == 0
    [job] = shell.run("jobs", "list", "--share", "acme", "--json").document["jobs"]
    assert shell.run("jobs", "list", "--share", "other", "--json").document["jobs"] == []
    now = datetime.now(UTC)
    assert (job["share"], job["at_risk"]) == ("acme", False)
    assert now + timedelta(minutes=110) < datetime.fromisoformat(job["deadline"]) <= now + timedelta(hours=2)
    shown = shell.run("jobs", "show", job["id"]).out
    assert "share    acme" in shown and "deadline " in shown
    ahead = shell.run("shares", "list").out.splitlines()[1].split()
    assert ahead[0] == "acme" and float(ahead[2]) > 0


def test_deadline_that_was_missed_is_shown(shell: Shell) -> None:
    path = shell.write("flow.json", json.dumps(DOCUMENT))
    assert shell.run("run", str(path), *C, "--deadline", "2020-01-31T12:00").code == 0
    [job] = shell.run("jobs", "list", "--json").document["jobs"]
    assert job["at_risk"] is True and job["status"] == "COMPLETED"
    assert "at risk" in shell.run("jobs", "show", job["id"]).out


def test_what_is_no_time_is_refused(shell: Shell) -> None:
    path = shell.write("flow.json", json.dumps(DOCUMENT))
    assert_refused(shell.run("run", str(path), *C, "--deadline", "soon"), 2, "--deadline soon", "90m, 2h, 3d")
