"""Choices made outside, order at run time, milestones, loops, triggers, ends: WCP 10, 11, 16–18, 21, 24, 40, 43."""

from __future__ import annotations

import pytest

from tests.examples.patterns.stage import Stage, only

CHOICE = ["start draft", "end draft", "fork choice", "wait choice[answer].approval", "wait choice[silence].day"]


async def test_deferred_choice_takes_the_answer_and_withdraws_the_timer(stage: Stage) -> None:
    job = await stage.start("deferred-choice")
    await stage.idle(job)
    await stage.pass_time(86_000)
    await stage.jobs.signal(job, "approval", None)
    assert await stage.end(job) == {"reaction": "published: draft, words"}
    assert await stage.story(job) == [
        *CHOICE,
        "signal approval",
        "end choice[answer].approval",
        "stop choice[silence].day",
        "end choice",
        "choose reaction[0]",
        "start reaction[0].publish",
        "end reaction[0].publish",
        "end reaction",
        "COMPLETED",
    ]


async def test_deferred_choice_takes_the_timer_and_withdraws_the_question(stage: Stage) -> None:
    job = await stage.start("deferred-choice")
    await stage.idle(job)
    await stage.pass_time(86_401)
    assert await stage.end(job) == {"reaction": None}
    assert await stage.story(job) == [
        *CHOICE,
        "end choice[silence].day",
        "end choice[silence].is-late",
        "stop choice[answer].approval",
        "end choice",
        "choose reaction[default]",
        "start reaction[default].escalate",
        "end reaction[default].escalate",
        "end reaction",
        "COMPLETED",
    ]


@pytest.mark.parametrize(
    ("prefer", "order"),
    [
        ("tone", ["tone", "law", "print"]),
        ("law", ["law", "print", "tone"]),
        ("print", ["law", "print", "tone"]),  # print may not begin before law has ended
    ],
)
async def test_interleaved_parallel_routing_keeps_the_partial_order_one_task_at_a_time(
    stage: Stage, prefer: str, order: list[str]
) -> None:
    job = await stage.start("interleaved-parallel-routing", prefer=prefer)
    await stage.end(job)
    story = [line.split(".")[-1] if "pick" not in line else "" for line in only(await stage.story(job), "start")]
    assert [task for task in story if task] == order
    place = {"law": "0", "print": "1", "tone": "2"}
    assert only(await stage.story(job), "start", "end", "choose") == [
        line
        for number, task in enumerate(order)
        for line in (
            f"start desk[{number}].pick",
            f"end desk[{number}].pick",
            f"choose desk[{number}].task[{place[task]}]",
            f"start desk[{number}].task[{place[task]}].{task}",
            f"end desk[{number}].task[{place[task]}].{task}",
            f"end desk[{number}].task",
            f"end desk[{number}].left",
        )
    ] + ["end desk"]


@pytest.mark.parametrize("order", [["read", "fetch"], ["fetch", "read"]])
async def test_interleaved_routing_begins_a_task_only_when_the_one_before_has_ended(
    stage: Stage, order: list[str]
) -> None:
    cases = {"fetch": "[0].fetch", "read": "[default].read"}
    first, second = (f"tasks[{index}].task{cases[task]}" for index, task in enumerate(order))
    stage.hold(first)
    job = await stage.start("interleaved-routing", order=order)
    await stage.started(job, first)
    assert only(await stage.story(job), "start") == [f"start {first}"]
    stage.release(first)
    await stage.end(job)
    assert only(await stage.story(job), "start", "end") == [
        f"start {first}", f"end {first}", "end tasks[0].task",
        f"start {second}", f"end {second}", "end tasks[1].task", "end tasks",
    ]  # fmt: skip


async def test_milestone_lets_comments_in_only_between_the_draft_and_the_deadline(stage: Stage) -> None:
    stage.hold("draft")
    job = await stage.start("milestone")
    await stage.started(job, "draft")
    await stage.jobs.signal(job, "comment", "too early")  # kept until the milestone is reached
    assert await stage.story(job) == ["start draft", "signal comment"]
    stage.release("draft")
    await stage.idle(job)
    await stage.pass_time(1000)
    await stage.jobs.signal(job, "comment", "in time")
    await stage.waits(job, "open[comments].listen[2].comment")
    await stage.pass_time(2601)
    assert await stage.end(job) == {"publish": "published: draft, words"}
    story = await stage.story(job)
    assert only(story, "start") == [
        "start draft",
        "start open[comments].listen[0].answer",
        "start open[comments].listen[1].answer",
        "start publish",
    ]
    assert story[story.index("wait open[comments].listen[2].comment") :] == [
        "wait open[comments].listen[2].comment",
        "end open[deadline].hour",
        "stop open[comments].listen[2].comment",
        "stop open[comments].listen",
        "end open",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def test_milestone_that_has_passed_lets_no_comment_in(stage: Stage) -> None:
    stage.hold("publish")
    job = await stage.start("milestone")
    await stage.idle(job)
    await stage.pass_time(3601)
    await stage.started(job, "publish")
    await stage.jobs.signal(job, "comment", "too late")
    stage.release("publish")
    await stage.end(job)
    assert only(await stage.story(job), "start", "signal") == ["start draft", "start publish", "signal comment"]


async def test_arbitrary_cycles_go_from_place_to_place_as_each_says(stage: Stage) -> None:
    job = await stage.start("arbitrary-cycles")
    assert await stage.end(job) == {"text": "published: draft, words, facts, words, polish"}
    assert [line.split(".")[-1] for line in only(await stage.story(job), "start")] == [
        "write", "review", "research", "write", "review", "polish", "review", "publish",
    ]  # fmt: skip


async def test_structured_loop_begins_a_round_only_after_the_round_before(stage: Stage) -> None:
    job = await stage.start("structured-loop")
    assert await stage.end(job) == {"publish": "published: draft, facts, polish"}
    steps = ["start {}.write", "end {}.write", "start {}.review", "end {}.review"]
    assert await stage.story(job) == [
        *["round rounds[0]", *(step.format("rounds[0]") for step in steps)],
        *["round rounds[1]", *(step.format("rounds[1]") for step in steps)],
        "end rounds",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def test_persistent_trigger_waits_for_its_step(stage: Stage) -> None:
    stage.hold("draft")
    job = await stage.start("persistent-trigger")
    await stage.started(job, "draft")
    await stage.jobs.signal(job, "approval")
    stage.release("draft")
    assert await stage.end(job) == {"publish": "published: draft, words"}
    assert await stage.story(job) == [
        "start draft", "signal approval", "end draft", "end approval", "start publish", "end publish", "COMPLETED",
    ]  # fmt: skip


@pytest.mark.parametrize("last", ["publish", "tell"])
async def test_implicit_termination_comes_with_the_last_thread_whichever_it_is(stage: Stage, last: str) -> None:
    first = {"publish": "tell", "tell": "publish"}[last]
    stage.hold(last)
    job = await stage.start("implicit-termination")
    await stage.started(job, last)
    await stage.ended(job, first)
    assert (await stage.jobs.get_summary(job)).status == "RUNNING"
    stage.release(last)
    assert await stage.end(job) == {"report": "published: news text"}
    assert (await stage.story(job))[-3:] == [f"end {first}", f"end {last}", "COMPLETED"]


async def test_explicit_termination_ends_what_still_runs(stage: Stage) -> None:
    pages = [f"search[{index}].fetch" for index in range(3)]
    stage.hold(*pages)
    job = await stage.start("explicit-termination")
    await stage.started(job, *pages)
    stage.release("search[1].fetch")
    assert await stage.end(job) == {"search": "team text"}
    assert await stage.story(job) == [
        "expand search",
        *(f"start {page}" for page in pages),
        "end search[1].fetch",
        "fail search[1].found",
        "stop search[0].fetch",
        "stop search[2].fetch",
        "catch search",
        "end search[catch0].answer",
        "end search",
        "COMPLETED",
    ]
