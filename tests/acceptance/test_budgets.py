"""Budgets on the command line: a job that has spent its own is paused, says so everywhere, and goes on with more."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.acceptance.support import PARTS, Shell, assert_refused, step, types

C = ("--components", str(PARTS))


def spending(shell: Shell, **fields: Any) -> str:
    """Two steps that spend 60 tokens each; the file's name."""
    steps = [step(id, "spend", tokens=60, cost=0.25) for id in "ab"]
    return shell.workflow(*steps, **fields)


async def paused_job(shell: Shell, *options: str, **fields: Any) -> str:
    """The id of a job that `openagents run` has left PAUSED."""
    run = shell.start("run", spending(shell, **fields), *C, "--plain", *options)
    run.wait_line("PAUSED; it goes on after `openagents jobs add-budget` and `openagents jobs resume`")
    run.send(signal.SIGINT)
    assert run.end().code == 130
    return await shell.only_job()


async def test_budget_of_the_command_line_pauses_the_job_and_more_lets_it_go_on(shell: Shell) -> None:
    job = await paused_job(shell, "--budget", "tokens=50", "--budget", "cost=2.5")
    listed = shell.run("jobs", "list").out.splitlines()
    assert listed[0].split() == ["JOB", "STATUS", "DONE", "PRIORITY", "CREATED", "TOOK", "SPENT", "NOW"]
    assert "60 of 50 tokens, cost 0.25 of 2.5" in listed[1]
    shown = shell.run("jobs", "show", job).out
    assert "spent    60 of 50 tokens, cost 0.25 of 2.5" in shown
    assert "waits    for `openagents jobs add-budget`, since its budget is spent" in shown
    assert "spent 60 tokens, cost 0.25" in shown, "the step says what it spent"
    assert_refused(shell.run("jobs", "resume", job), 2, "budget of 50 tokens is spent (60)", "add-budget")
    resumed = shell.run("run", "flow.json", *C, "--resume")
    assert (resumed.code, "budget of 50 tokens is spent (60)" in resumed.err) == (2, True)
    added = shell.run("jobs", "add-budget", job, "tokens=5000", "--by", "ada", "--reason", "worth it")
    assert added.code == 0
    assert "is PAUSED and has spent 60 of 5,050 tokens, cost 0.25 of 2.5; `openagents jobs resume" in added.out
    assert shell.run("run", "flow.json", *C, "--resume").code == 0
    document = shell.run("jobs", "show", job, "--json").document
    assert (document["status"], document["budget"]) == ("COMPLETED", {"tokens": 5050, "cost": 2.5})
    assert (document["spent"]["tokens"], document["spent"]["cost"]) == (120, 0.5)
    [row] = shell.run("jobs", "list", "--json").document["jobs"]
    assert (row["budget"], row["spent"]) == (document["budget"], document["spent"])
    events = shell.run("jobs", "events", job).out
    assert "job.budget_added" in events and "reason worth it, by ada, added 5,000 tokens" in events
    assert "spent 60 tokens, cost 0.25" in events


async def test_budget_of_the_workflow_holds_and_json_tells_of_it(shell: Shell) -> None:
    job = await paused_job(shell, budget={"cost": 0.2})
    added = shell.run("jobs", "add-budget", job, "cost=0.05", "--json").document
    assert (added["status"], added["budget"], added["spent"]["cost"]) == ("PAUSED", {"cost": 0.25}, 0.25)
    assert_refused(shell.run("jobs", "resume", job), 2, "budget of a cost of 0.25 is spent (0.25)")
    assert types(await shell.history(job))[-2:] == ["job.paused", "job.budget_added"]


async def test_job_without_a_budget_has_no_column_and_gets_none(shell: Shell) -> None:
    flow = shell.workflow(step("a", "note", value=1))
    assert shell.run("run", flow, *C, "--detach").code == 0
    job = await shell.only_job()
    assert "SPENT" not in shell.run("jobs", "list").out
    assert "spent" not in shell.run("jobs", "show", job).out
    assert_refused(shell.run("jobs", "add-budget", job, "tokens=5"), 2, "no budget of tokens")


async def test_retry_takes_another_budget(shell: Shell) -> None:
    flow = spending(shell)
    assert shell.run("run", flow, *C).code == 0
    [job] = [row["id"] for row in shell.run("jobs", "list", "--json").document["jobs"]]
    again = shell.run("jobs", "retry", job, "--budget", "tokens=7", "--json").document["id"]
    assert shell.run("jobs", "show", again, "--json").document["budget"] == {"tokens": 7}


@pytest.mark.parametrize(
    ("amount", "says"),
    [
        ("tokens", "tokens=5000"),
        ("money=3", "seconds=…, tokens=… or cost=…"),
        ("tokens=2.5", "'2.5' is not an integer"),
        ("cost=much", "'much' is not a number"),
        ("tokens=0", "at least 1"),
        ("cost=nan", "finite"),
    ],
)
async def test_amount_that_cannot_be_is_refused(shell: Shell, amount: str, says: str) -> None:
    flow = spending(shell, budget={"tokens": 10, "cost": 1})
    assert shell.run("run", flow, *C, "--detach").code == 0
    job = await shell.only_job()
    assert_refused(shell.run("jobs", "add-budget", job, amount), 2, says)
    assert_refused(shell.run("run", flow, *C, "--detach", "--budget", amount), 2, says)
