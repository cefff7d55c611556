"""Cancelling: WCP 19, 20, 25, 26."""

from __future__ import annotations

from tests.examples.patterns.stage import Stage, only


async def test_cancel_task_withdraws_one_step_and_the_job_goes_on(stage: Stage) -> None:
    stage.hold("summary[work].summarize")
    job = await stage.start("cancel-task")
    await stage.started(job, "summary[work].summarize")
    await stage.jobs.signal(job, "skip-summary")
    assert await stage.end(job) == {"publish": "published: no summary"}
    assert await stage.story(job) == [
        "fork summary",
        "wait summary[stop].skip",
        "start summary[work].summarize",
        "signal skip-summary",
        "end summary[stop].skip",
        "stop summary[work].summarize",
        "end summary",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def test_task_that_is_done_withdraws_the_question_whether_to_cancel_it(stage: Stage) -> None:
    job = await stage.start("cancel-task")
    assert await stage.end(job) == {"publish": "published: summary of a long text"}
    assert only(await stage.story(job), "stop", "end") == [
        "end summary[work].summarize", "stop summary[stop].skip", "end summary", "end publish",
    ]  # fmt: skip


async def test_cancel_case_stops_undoes_and_cleans_up_in_this_order(stage: Stage) -> None:
    stage.hold("news", "team")
    job = await stage.start("cancel-case")
    await stage.started(job, "news", "team")
    await stage.jobs.cancel_job(job, by="ada", reason="not needed any more")
    await stage.end(job, "CANCELLED")
    assert await stage.story(job) == [
        "start publish",
        "end publish",
        "start news",
        "start team",
        "cancel",
        "stop news",
        "stop team",
        "undo",
        "start publish[undo]",
        "end publish[undo]",
        "finally",
        "start close",
        "end close",
        "CANCELLED",
    ]


async def test_cancel_region_withdraws_all_inside_and_nothing_outside(stage: Stage) -> None:
    inside = ["research[work].pages[0].fetch", "research[work].pages[1].fetch"]
    stage.hold(*inside, "read")
    job = await stage.start("cancel-region")
    await stage.started(job, *inside, "read")
    stage.release(inside[0])
    await stage.ended(job, inside[0])
    await stage.jobs.signal(job, "stop-research")
    await stage.ended(job, "research")
    stage.release("read")
    assert await stage.end(job) == {"publish": "published: desk mail, no research"}
    story = await stage.story(job)
    assert story[story.index("signal stop-research") :] == [
        "signal stop-research",
        "end research[stop].enough",
        f"stop {inside[1]}",
        "stop research[work].pages",
        "end research",
        "end read",
        "start publish",
        "end publish",
        "COMPLETED",
    ]
    assert only(story, "start") == [*(f"start {one}" for one in ("read", *inside)), "start publish"]


async def test_region_that_is_done_cannot_be_cancelled_any_more(stage: Stage) -> None:
    stage.hold("read")
    job = await stage.start("cancel-region")
    await stage.ended(job, "research")
    await stage.jobs.signal(job, "stop-research")
    stage.release("read")
    assert await stage.end(job) == {"publish": "published: desk mail, summary of news text, team text"}
    assert only(await stage.story(job), "stop", "signal") == ["stop research[stop].enough", "signal stop-research"]


async def test_cancel_of_instances_withdraws_those_that_run_and_those_to_come(stage: Stage) -> None:
    letters = [f"letters[send].each[{index}].letter" for index in range(3)]
    stage.hold(*letters)
    job = await stage.start("cancel-instances")
    await stage.started(job, letters[0], letters[1])
    stage.release(letters[0])
    await stage.started(job, letters[2])
    await stage.jobs.signal(job, "stop-letters")
    assert await stage.end(job) == {"all-sent": False}
    story = await stage.story(job)
    assert story[story.index("signal stop-letters") :] == [
        "signal stop-letters",
        "end letters[stop].halt",
        "end letters[stop].is-stopped",
        f"stop {letters[1]}",
        f"stop {letters[2]}",
        "stop letters[send].each",
        "end letters",
        "end all-sent",
        "COMPLETED",
    ]
