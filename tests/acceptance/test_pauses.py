"""Pausing whole components and workflows on the command line, and what is said of jobs that wait for a limit."""

from __future__ import annotations

from typing import Any

from openagents_json import JobManager
from tests.acceptance.support import PARTS, Shell, assert_refused, step

C = ("--components", str(PARTS))


async def queued(shell: Shell, *, component: str = "core.echo") -> str:
    """A job that no worker runs."""
    async with shell.jobs() as jobs:
        jobs.workflows.register({"id": "flow", "steps": [step("a", component, value=7)]})
        return await jobs.create_job("flow", start=True)


async def test_paused_component_is_listed_and_its_jobs_say_so(shell: Shell) -> None:
    job_id = await queued(shell)
    asked = shell.run("pause", "component", "core.echo", "--by", "ann", "--reason", "too dear")
    assert (asked.code, asked.out.strip()) == (0, "component core.echo is paused")
    assert "was paused already" in shell.run("pause", "component", "core.echo", "--by", "bob").out
    listed = shell.run("pauses").out.splitlines()
    assert listed[0].split() == ["KIND", "NAME", "BY", "SINCE", "REASON"]
    assert listed[1].startswith("component  core.echo  ann") and listed[1].endswith("too dear")
    [pause] = shell.run("pauses", "--json").document["pauses"]
    assert (pause["kind"], pause["name"], pause["by"], pause["reason"]) == ("component", "core.echo", "ann", "too dear")
    shown = shell.run("jobs", "show", job_id).out
    assert "waits    for `openagents resume component core.echo`, paused by ann since " in shown and "too dear" in shown
    assert shell.run("worker", *C, "--until-idle").code == 0, "nothing that it could run is queued"
    assert await shell.statuses() == ["QUEUED"]
    resumed = shell.run("resume", "component", "core.echo", "--json").document
    assert resumed == {"pauses": [{"kind": "component", "name": "core.echo", "was_paused": True}]}
    assert shell.run("worker", *C, "--until-idle").code == 0
    assert await shell.statuses() == ["COMPLETED"]


async def test_jobs_of_a_paused_workflow_wait_and_go_on(shell: Shell) -> None:
    await queued(shell)
    assert shell.run("pause", "workflow", "flow", "other").out.splitlines() == [
        "workflow flow is paused",
        "workflow other is paused",
    ]
    assert shell.run("worker", *C, "--until-idle").code == 0
    assert await shell.statuses() == ["QUEUED"]
    assert shell.run("resume", "workflow", "flow", "nothing").out.splitlines() == [
        "workflow flow goes on",
        "workflow nothing was not paused",
    ]
    assert shell.run("worker", *C, "--until-idle").code == 0
    assert await shell.statuses() == ["COMPLETED"]
    assert [one["name"] for one in shell.run("pauses", "--json").document["pauses"]] == ["other"]


async def test_what_cannot_be_paused_is_refused(shell: Shell) -> None:
    await queued(shell)
    assert shell.run("pause", "job", "x").code == 2
    assert shell.run("pause", "workflow").code == 2
    assert_refused(shell.run("pause", "component", "no name"), 2, "cannot name a component")
    assert_refused(shell.run("pause", "workflow", "no/id"), 2, "no id of a workflow")
    assert "Nothing is paused as a whole" in shell.run("pauses").out


async def test_step_that_waits_for_a_limit_of_its_component_says_so(shell: Shell) -> None:
    async with JobManager(f"sqlite:///{shell.store_path}") as jobs:
        jobs.components.register(lambda: None, "rare", rate_limit={"limit": 1, "per_seconds": 3_600})
        jobs.workflows.register(
            {"id": "two", "steps": [{"id": "a", "component": "rare"}, {"id": "b", "component": "rare"}]}
        )
        job_id = await jobs.create_job("two", start=True)
        waits: list[dict[str, Any]] = []  # before, a waits for its token, for a moment
        while [(wait["kind"], wait["step"]) for wait in waits] != [("limit", "b")]:
            waits = (await jobs.get_job_status(job_id))["waiting_for"]
            await jobs.store.list_pauses()
        shown = shell.run("jobs", "show", job_id).out
        assert "waits    for a token: one call of rare may begin in 3600 s (`rate_limit`) of b, at " in shown
        await jobs.cancel_job(job_id)
