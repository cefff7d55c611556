"""`openagents jobs …`: looking at jobs and asking things of them, while nothing of them runs."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from openagents_json import JobManager
from openagents_json.job.model import JobStatus
from tests.acceptance.support import PARTS, Shell, assert_refused, each_line, step, types

C = ("--components", str(PARTS))


@pytest_asyncio.fixture
async def made(shell: Shell) -> dict[str, str]:
    """A store with a job in each status that lasts; the ids by status."""
    ids: dict[str, str] = {}
    good: dict[str, Any] = {"id": "good", "steps": [step("a", "core.echo", value=7)], "outputs": {"n": 7}}
    bad: dict[str, Any] = {"id": "bad", "steps": [step("a", "core.fail", type="demo.broken", message="no luck")]}
    async with JobManager(f"sqlite:///{shell.store_path}") as jobs:
        for definition in (good, bad):
            jobs.workflows.register(definition)
        ids["COMPLETED"] = await jobs.create_job("good", start=True, tags=["red", "blue"])
        ids["FAILED"] = await jobs.create_job("bad", start=True, tags=["red"])
        for status in ("COMPLETED", "FAILED"):
            await jobs.wait(ids[status])
    async with shell.jobs() as jobs:
        jobs.workflows.register(good)
        for status in ("CREATED", "QUEUED", "PAUSED", "CANCELLED"):
            ids[status] = await jobs.create_job("good", start=status != "CREATED")
        await jobs.pause_job(ids["PAUSED"])
        await jobs.cancel_job(ids["CANCELLED"])
    return ids


async def status_of(shell: Shell, job_id: str) -> str:
    async with shell.jobs() as jobs:
        return str((await jobs.get_summary(job_id)).status)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_list_shows_the_newest_first_and_filters(shell: Shell, made: dict[str, str]) -> None:
    rows = shell.run("jobs", "list").out.splitlines()
    assert rows[0].split() == ["JOB", "STATUS", "DONE", "PRIORITY", "CREATED", "TOOK", "NOW"]
    assert [row.split()[1] for row in rows[1:]] == ["CANCELLED", "PAUSED", "QUEUED", "CREATED", "FAILED", "COMPLETED"]

    def listed(*filters: str) -> set[str]:
        return {job["id"] for job in shell.run("jobs", "list", "--json", *filters).document["jobs"]}

    assert listed("--status", "PAUSED,QUEUED") == {made["PAUSED"], made["QUEUED"]}
    assert listed("--tag", "red", "--tag", "blue") == {made["COMPLETED"]}
    assert listed("--workflow", "bad", "--error", "broken", "--since", "1h") == {made["FAILED"]}
    assert listed("--until", "1h") == set()


async def test_list_goes_on_from_page_to_page(shell: Shell, made: dict[str, str]) -> None:
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        page = shell.run("jobs", "list", "--json", "--limit", "4", *(["--cursor", cursor] if cursor else []))
        seen += [job["id"] for job in page.document["jobs"]]
        cursor = page.document["cursor"]
        if cursor is None:
            break
    assert cursor is None and sorted(seen) == sorted(made.values())


async def test_show_finds_a_job_by_its_id_its_end_and_its_name(shell: Shell, made: dict[str, str]) -> None:
    job_id = made["FAILED"]
    for text in (job_id, job_id[-8:], f"bad/{job_id[-8:]}"):
        document = shell.run("jobs", "show", text, "--json").document
        assert (document["id"], document["status"], document["steps"]["a"]["status"]) == (job_id, "FAILED", "FAILED")
    shown = shell.run("jobs", "show", job_id).out
    assert f"id       {job_id}" in shown and "demo.broken: no luck" in shown
    assert "for `openagents jobs resume`" in shell.run("jobs", "show", made["PAUSED"]).out


async def test_beginning_that_fits_several_jobs_is_refused_and_they_are_named(
    shell: Shell, made: dict[str, str]
) -> None:
    assert_refused(shell.run("jobs", "show", made["FAILED"][:6]), 2, "several")


async def test_results_are_json_or_say_why_there_are_none(shell: Shell, made: dict[str, str]) -> None:
    assert json.loads(shell.run("jobs", "results", made["COMPLETED"]).out) == {"n": 7}
    assert shell.run("jobs", "results", made["COMPLETED"], "--json").document == {"n": 7}
    assert_refused(shell.run("jobs", "results", made["FAILED"]), 1, "FAILED", "demo.broken")
    assert_refused(shell.run("jobs", "results", made["CANCELLED"]), 3, "CANCELLED")
    assert_refused(shell.run("jobs", "results", made["QUEUED"]), 2, "QUEUED")


@pytest.mark.guarantee("G10")
async def test_events_are_numbered_and_a_reader_that_comes_back_gets_the_rest(
    shell: Shell, made: dict[str, str]
) -> None:
    recorded = await shell.history(made["COMPLETED"])
    assert [event.number for event in recorded] == list(range(1, len(recorded) + 1))
    lines = shell.run("jobs", "events", made["COMPLETED"]).out.splitlines()
    assert [(line.split()[0], line.split()[2]) for line in lines] == [(str(one.number), one.type) for one in recorded]
    rest = shell.run("jobs", "events", made["COMPLETED"], "--after", "3", "--json").document["events"]
    assert rest == [event.as_dict() for event in recorded[3:]]
    assert shell.run("jobs", "events", made["COMPLETED"], "--after", "999", "--json").document == {"events": []}


@pytest.mark.guarantee("G10")
async def test_events_are_followed_to_the_last_one(shell: Shell) -> None:
    run = shell.start("run", shell.gates(2), *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    follower = shell.start("jobs", "events", job_id, "--after", "2", "--follow", "--json")
    follower.wait_line("attempt.started")
    shell.open_gate("0", "1")
    followed = follower.end()
    assert (followed.code, run.end().code) == (0, 0)
    recorded = await shell.history(job_id)
    assert list(each_line(followed.out)) == [event.as_dict() for event in recorded[2:]]
    assert recorded[-1].type == "job.completed"


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_start_queues_a_job_that_was_created(shell: Shell, made: dict[str, str]) -> None:
    ended = shell.run("jobs", "start", made["CREATED"], "--json").document
    assert [(job["id"], job["status"]) for job in ended["jobs"]] == [(made["CREATED"], "QUEUED")]


async def test_pause_and_resume_a_queued_job_and_who_asked_is_recorded(shell: Shell, made: dict[str, str]) -> None:
    job_id = made["QUEUED"]
    assert "is PAUSED" in shell.run("jobs", "pause", job_id, "--by", "ada", "--reason", "lunch").out
    assert "is QUEUED" in shell.run("jobs", "resume", job_id, "--by", "bob", "--reason", "coffee").out
    events = await shell.history(job_id)
    asked = {event.type: event.data for event in events if "reason" in event.data and "by" in event.data}
    assert asked["job.pause_requested"] == {"by": "ada", "reason": "lunch"}
    assert asked["job.resumed"] == {"by": "bob", "reason": "coffee"}


async def test_cancel_ends_a_job_that_never_started(shell: Shell, made: dict[str, str]) -> None:
    assert "is CANCELLED" in shell.run("jobs", "cancel", made["CREATED"], "--by", "ada").out
    last = (await shell.history(made["CREATED"]))[-1]
    assert (last.type, last.data["by"]) == ("job.cancelled", "ada")


async def test_pause_and_cancel_with_wait_return_when_it_is_so(shell: Shell) -> None:
    run = shell.start("run", shell.gates(2), *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    late = shell.run("jobs", "pause", job_id, "--wait", "--timeout", "0")
    assert_refused(late, 130, "was not PAUSED after 0.0 s")
    pausing = shell.start("jobs", "pause", job_id, "--wait", "--json")
    shell.open_gate("0")
    paused = pausing.end()
    assert (paused.code, paused.document["jobs"][0]["status"]) == (0, "PAUSED")
    cancelled = shell.run("jobs", "cancel", job_id, "--wait")
    assert (cancelled.code, cancelled.out) == (0, f"flow/{job_id[-8:]} is CANCELLED\n")
    assert run.end().code == 3


async def test_wait_for_a_pause_that_a_stop_ends_is_interrupted(shell: Shell) -> None:
    shell.start("run", shell.gates(1), *C)
    await shell.wait_entered("0")
    job_id = await shell.only_job()
    pausing = shell.start("jobs", "pause", job_id, "--wait")
    await shell.wait_event(job_id, "job.pause_requested")
    pausing.send(signal.SIGINT)
    assert pausing.end().code == 130
    async with shell.jobs() as jobs:
        assert (await jobs.get_summary(job_id)).pause_requested, "what was asked stands"


async def test_wait_for_what_cannot_come_any_more_is_refused(shell: Shell, made: dict[str, str]) -> None:
    assert_refused(shell.run("jobs", "pause", made["COMPLETED"], "--wait"), 2, "COMPLETED")
    assert_refused(shell.run("jobs", "pause", made["QUEUED"], "--timeout", "3"), 2, "--wait")
    assert "is CANCELLED" in shell.run("jobs", "cancel", made["QUEUED"], "--wait").out


async def test_priority_is_changed(shell: Shell, made: dict[str, str]) -> None:
    assert "has priority CRITICAL" in shell.run("jobs", "priority", made["QUEUED"], "critical").out
    [changed] = [event for event in await shell.history(made["QUEUED"]) if event.type == "job.priority_changed"]
    assert (changed.data["was"], changed.data["priority"]) == ("MEDIUM", "CRITICAL")
    assert_refused(shell.run("jobs", "priority", made["QUEUED"], "URGENT"), 2, "'URGENT'", "CRITICAL")


async def test_priority_of_many_is_changed(shell: Shell, made: dict[str, str]) -> None:
    run = shell.run("jobs", "priorities", "high", "--status", "QUEUED,PAUSED", "--reason", "late")
    assert "2 jobs have priority HIGH" in run.out
    for status in ("QUEUED", "PAUSED"):
        [changed] = [event for event in await shell.history(made[status]) if event.type == "job.priority_changed"]
        assert (changed.data["was"], changed.data["priority"], changed.data["reason"]) == ("MEDIUM", "HIGH", "late")
    before = [await shell.history(job_id) for status, job_id in made.items() if JobStatus(status).is_final]
    everything = json.loads(shell.run("jobs", "priorities", "low", "--all", "--json").out)
    assert everything["priority"] == "LOW" and everything["changed"] == len(made) - len(before)
    assert before == [await shell.history(job_id) for status, job_id in made.items() if JobStatus(status).is_final]
    assert_refused(shell.run("jobs", "priorities", "high"), 2, "--workflow", "--all")
    assert_refused(shell.run("jobs", "priorities", "high", "--all", "--tag", "x"), 2, "--all")
    assert_refused(shell.run("jobs", "priorities", "URGENT", "--all"), 2, "'URGENT'", "CRITICAL")


async def test_retry_makes_a_new_job_that_takes_over_what_is_done(shell: Shell) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}
    steps = [step("first", "note", value="{{ inputs.n }}"), step("second", "boom"), step("third", "note", value="end")]
    file = shell.workflow(*steps, inputs=schema)
    assert shell.run("run", file, *C).code == 1
    origin = await shell.only_job()
    told = shell.run("jobs", "retry", origin, "--output", 'second={"by": "hand"}', "--by", "ada", "--reason", "known")
    assert told.code == 0 and "is QUEUED" in told.out and "takes over 2 steps" in told.out
    job_id = told.out.split()[-1]
    assert shell.run("run", file, *C, "--resume").code == 0
    assert shell.notes() == ["1", "end"], "the first step did not run again"
    shown = shell.run("jobs", "show", job_id).out
    assert f"retries  flow/{origin[-8:]} by ada: known" in shown
    assert "set by hand" in shown and f"taken over from {origin[-8:]}" in shown
    assert f"retried  as flow/{job_id[-8:]}" in shell.run("jobs", "show", origin).out
    again = shell.run("jobs", "retry", job_id, "--from", "third", "--input", "n=7", "--json").document
    assert (again["status"], again["origin"], again["taken_over"]) == ("QUEUED", job_id, ["first", "second"])
    assert shell.run("jobs", "show", again["id"], "--json").document["origin"]["from_step"] == "third"
    assert (await shell.history(again["id"]))[0].data["inputs"] == {"n": 7}


async def test_retry_refuses_what_cannot_be(shell: Shell, made: dict[str, str]) -> None:
    assert_refused(shell.run("jobs", "retry", made["QUEUED"]), 2, "QUEUED", "Allowed now")
    assert_refused(shell.run("jobs", "retry", made["FAILED"], "--from", "b"), 2, "There is no step 'b'")
    assert_refused(shell.run("jobs", "retry", made["FAILED"], "--from", "a[0].b"), 2, "inside the step 'a'")
    assert_refused(shell.run("jobs", "retry", made["FAILED"], "--output", "a"), 2, "STEP=VALUE")
    assert_refused(shell.run("jobs", "retry", made["FAILED"], "--output", "a=1", "--output", "a=2"), 2, "twice")
    assert_refused(shell.run("jobs", "retry", made["FAILED"], "--input", "x=1"), 2, "no input 'x'")
    assert_refused(shell.run("jobs", "retry", "0123456789"), 4, "There is no job")
    assert len(await shell.statuses()) == len(made)


async def test_delete_takes_final_and_created_jobs_only(shell: Shell, made: dict[str, str]) -> None:
    assert shell.run("jobs", "delete", made["FAILED"], made["CREATED"]).code == 0
    refused = shell.run("jobs", "delete", made["PAUSED"])
    assert_refused(refused, 2, "PAUSED", "cancel it first")
    assert_refused(shell.run("jobs", "show", made["FAILED"]), 4, "There is no job")
    assert sorted(await shell.statuses()) == ["CANCELLED", "COMPLETED", "PAUSED", "QUEUED"]


async def test_cleanup_deletes_what_ended_long_ago(shell: Shell, made: dict[str, str]) -> None:
    assert shell.run("jobs", "cleanup", "--json").document == {"deleted": 0, "days": 7.0}
    ended = shell.run("jobs", "cleanup", "--days", "0")
    assert ended.out == "3 jobs deleted that ended more than 0 days ago\n"
    assert sorted(await shell.statuses()) == ["CREATED", "PAUSED", "QUEUED"]


async def test_verb_on_several_jobs_does_what_it_can_and_tells_of_the_rest(shell: Shell, made: dict[str, str]) -> None:
    ended = shell.run("jobs", "cancel", made["COMPLETED"], "0123456789", made["QUEUED"])
    assert ended.code == 2, "that of the first that was refused"
    assert f"good/{made['QUEUED'][-8:]} is CANCELLED" in ended.out
    assert "COMPLETED" in ended.err and "0123456789" in ended.err and "Traceback" not in ended.err
    assert await status_of(shell, made["QUEUED"]) == "CANCELLED"


async def test_start_time_of_a_job_is_shown_and_a_worker_keeps_it(shell: Shell) -> None:
    async with shell.jobs() as jobs:
        jobs.workflows.register({"id": "good", "steps": [step("a", "core.echo", value=7)]})
        job_id = await jobs.create_job("good", start_at=datetime.now(UTC) + timedelta(hours=1))
    assert shell.run("worker", *C, "--until-idle").code == 0
    document = shell.run("jobs", "show", job_id, "--json").document
    assert document["status"] == "CREATED" and document["waiting_for"][0]["kind"] == "start"
    assert types(await shell.history(job_id)) == ["job.created"]
