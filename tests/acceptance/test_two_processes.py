"""A job runs in the first process; a second one pauses, resumes and cancels it, and watches it."""

from __future__ import annotations

import pytest

from tests.acceptance.support import PARTS, Shell, assert_refused, step, types

C = ("--components", str(PARTS))


@pytest.mark.guarantee("G9")
async def test_second_process_pauses_and_resumes_a_job_of_the_first(shell: Shell) -> None:
    run = shell.start("run", shell.gates(3), *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    asked = shell.run("jobs", "pause", job_id, "--by", "ada", "--reason", "lunch")
    assert "will pause when what runs now has ended" in asked.out
    run.wait_line("pause requested")
    assert "pause asked" in shell.run("jobs", "list").out
    shell.open_gate("0")
    run.wait_line("PAUSED; it goes on after `openagents jobs resume`")
    assert not shell.has_entered("1")
    shell.open_gate("1", "2")
    assert shell.run("jobs", "resume", job_id).code == 0
    assert run.end().code == 0
    assert types(await shell.history(job_id), "job.") == [
        "job.created",
        "job.queued",
        "job.started",
        "job.pause_requested",
        "job.paused",
        "job.resumed",
        "job.queued",
        "job.continued",
        "job.completed",
    ]


async def test_pause_that_is_withdrawn_in_time_changes_nothing(shell: Shell) -> None:
    run = shell.start("run", shell.gates(2), *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    shell.run("jobs", "pause", job_id)
    run.wait_line("pause requested")
    assert shell.run("jobs", "resume", job_id).code == 0
    await shell.wait_event(job_id, "job.pause_withdrawn")
    shell.open_gate("0", "1")
    assert run.end().code == 0
    assert "job.paused" not in types(await shell.history(job_id))


@pytest.mark.parametrize("force", [False, True])
async def test_second_process_cancels_a_job_of_the_first(shell: Shell, force: bool) -> None:
    flow = shell.gates(2, **{"finally": [step("tidy", "note", value="tidied up")]})
    run = shell.start("run", flow, *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    asked = shell.run("jobs", "cancel", job_id, *(["--force"] if force else []), "--reason", "wrong file")
    assert asked.code == 0
    assert run.end().code == 3
    events = await shell.history(job_id)
    assert (events[-1].type, events[-1].data["reason"]) == ("job.cancelled", "wrong file")
    assert not shell.has_entered("1")
    assert shell.notes() == ([] if force else ["tidied up"])


@pytest.mark.guarantee("G9")
async def test_job_that_was_cancelled_stays_so(shell: Shell) -> None:
    run = shell.start("run", shell.gates(1), *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    shell.run("jobs", "cancel", job_id)
    run.end()
    for verb in ("pause", "resume"):
        assert_refused(shell.run("jobs", verb, job_id), 2, "CANCELLED")
    assert shell.run("jobs", "cancel", job_id).code == 0, "a repeated request is harmless"
    assert await shell.statuses() == ["CANCELLED"]


async def test_running_job_is_not_deleted(shell: Shell) -> None:
    run = shell.start("run", shell.gates(1), *C)
    await shell.wait_entered("0")
    assert_refused(shell.run("jobs", "delete", await shell.only_job()), 2, "RUNNING", "cancel it first")
    shell.open_gate("0")
    assert run.end().code == 0
    assert await shell.statuses() == ["COMPLETED"]


async def test_two_processes_run_jobs_of_one_store_at_once_and_each_tells_its_own(shell: Shell) -> None:
    flow = shell.workflow(
        {"id": "each", "foreach": "{{ range(40) }}", "steps": [step("echo", "core.echo", value="{{ item }}")]},
        outputs={"sum": "{{ steps.each.output | sum }}"},
    )
    runs = [shell.start("run", flow, *C, "--json") for _ in range(3)]
    documents = [run.end().document for run in runs]
    assert [document["outputs"] for document in documents] == [{"sum": 780}] * 3
    assert len({document["id"] for document in documents}) == 3
    assert await shell.statuses() == ["COMPLETED"] * 3
