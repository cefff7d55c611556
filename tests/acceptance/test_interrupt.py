"""Ctrl-C: once stops gently and says how to go on, twice stops at once; neither loses what was recorded."""

from __future__ import annotations

import shlex
import signal

import pytest

from tests.acceptance.support import PARTS, Result, Shell, Started, types

C = ("--components", str(PARTS))


async def in_the_middle(shell: Shell, **settings: str) -> Started:
    """A run of three gates: the first step is recorded, the second one runs."""
    run = shell.start("run", shell.gates(3), *C, **settings)
    shell.open_gate("0")
    await shell.wait_entered("1")
    return run


def resume_command(ended: Result) -> list[str]:
    """The command that the run says to go on by, without the program's name."""
    line = ended.err.splitlines()[-1]
    assert line.startswith("  openagents run ") and line.endswith(" --resume"), ended.err
    return shlex.split(line)[1:]


@pytest.mark.guarantee("G2")
async def test_ctrl_c_once_lets_the_running_step_end_and_the_printed_command_goes_on(shell: Shell) -> None:
    run = await in_the_middle(shell)
    run.send(signal.SIGINT)
    run.wait_line("Stopping: what runs now may end", "err")
    shell.open_gate("1")
    ended = run.end()
    assert ended.code == 130 and "keeps what is done" in ended.err and "Traceback" not in ended.err
    assert await shell.statuses() == ["QUEUED"]
    job_id = await shell.only_job()
    before = await shell.history(job_id)
    assert types(before).count("step.completed") == 2 and not shell.has_entered("2")

    shell.open_gate("2")
    again = shell.run(*resume_command(ended))
    assert again.code == 0 and "Goes on with flow/" in again.err
    events = await shell.history(job_id)
    assert await shell.statuses() == ["COMPLETED"]
    assert events[: len(before)] == before
    assert types(events).count("attempt.started") == 3, "no step that was recorded ran again"


async def test_jobs_resume_and_a_worker_go_on_with_an_interrupted_job(shell: Shell) -> None:
    run = await in_the_middle(shell)
    run.send(signal.SIGINT)
    run.wait_line("Stopping", "err")
    shell.open_gate("1", "2")
    assert run.end().code == 130
    job_id = await shell.only_job()
    assert shell.run("jobs", "resume", job_id).code == 0
    assert shell.run("worker", *C, "--until-idle").code == 0
    assert await shell.statuses() == ["COMPLETED"]
    assert types(await shell.history(job_id)).count("attempt.started") == 3


@pytest.mark.guarantee("G2")
async def test_ctrl_c_twice_stops_at_once_and_resume_repeats_only_what_was_not_recorded(shell: Shell) -> None:
    run = await in_the_middle(shell)
    run.send(signal.SIGINT)
    run.wait_line("Stopping", "err")
    run.send(signal.SIGINT)
    ended = run.end()
    assert ended.code == 130 and "stopped at once" in ended.err and "Traceback" not in ended.err

    shell.open_gate("1", "2")
    assert shell.run("run", "flow.json", *C, "--resume").code == 0
    events = await shell.history(await shell.only_job())
    started = [event.data["path"] for event in events if event.type == "attempt.started"]
    assert started == ["s0", "s1", "s1", "s2"]
    assert types(events).count("attempt.lost") == 1


async def test_step_that_outlives_the_gentle_stop_is_told_to_end_and_runs_again_later(shell: Shell) -> None:
    run = await in_the_middle(shell, OPENAGENTS_STOP_TIMEOUT_S="0.1", OPENAGENTS_SHUTDOWN_GRACE_S="5")
    run.send(signal.SIGTERM)
    assert run.end().code == 130
    job_id = await shell.only_job()
    lost = await shell.wait_event(job_id, "attempt.lost")
    assert (lost.data["path"], lost.data["reason"]) == ("s1", "shutdown")
    shell.open_gate("1", "2")
    assert shell.run("run", "flow.json", *C, "--resume").code == 0


async def test_resume_goes_on_with_a_paused_job(shell: Shell) -> None:
    left = shell.run("run", shell.gates(1), "--detach", "--json", *C).document
    shell.run("jobs", "pause", left["id"])
    shell.open_gate("0")
    ended = shell.run("run", "flow.json", *C, "--resume", "--json")
    assert (ended.code, ended.document["id"]) == (0, left["id"])


async def test_resume_starts_a_job_when_the_newest_has_ended(shell: Shell) -> None:
    shell.open_gate("0")
    first = shell.run("run", shell.gates(1), *C, "--resume", "--json").document
    second = shell.run("run", "flow.json", *C, "--resume", "--json").document
    assert first["id"] != second["id"]
    assert await shell.statuses() == ["COMPLETED", "COMPLETED"]


@pytest.mark.guarantee("G11")
async def test_resumed_job_keeps_the_definition_it_was_created_with(shell: Shell) -> None:
    run = await in_the_middle(shell)
    run.send(signal.SIGINT)
    run.wait_line("Stopping", "err")
    shell.open_gate("1", "2")
    run.end()
    shell.gates(5, version="2.0.0")
    again = shell.run("run", "flow.json", *C, "--resume", "--json")
    assert again.code == 0 and again.document["version"] == "1.0.0"
    assert "It keeps the definition it was created with" in again.err
    assert not shell.has_entered("3")


async def test_first_run_that_was_killed_is_taken_over_by_the_next_command(shell: Shell) -> None:
    """Any command that runs jobs takes over what a killed one left, whichever workflow it is started for."""
    run = await in_the_middle(shell)
    run.kill()
    job_id = await shell.only_job()
    shell.open_gate("1", "2")
    assert shell.run("worker", *C, "--until-idle").code == 0
    last = await shell.wait_event(job_id, "job.completed")
    assert last.type == "job.completed"
