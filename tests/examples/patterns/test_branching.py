"""Basic control flow, branching and joining: WCP 1–8, 29, 32, 37."""

from __future__ import annotations

import pytest

from tests.examples.patterns.stage import Stage, only


async def test_sequence_runs_one_step_after_the_other(stage: Stage) -> None:
    job = await stage.start("sequence")
    assert await stage.end(job) == {"publish": "published: summary of news text"}
    assert await stage.story(job) == [
        "start fetch", "end fetch", "start summarize", "end summarize", "start publish", "end publish", "COMPLETED",
    ]  # fmt: skip


async def test_parallel_split_begins_both_branches_before_either_ends(stage: Stage) -> None:
    stage.hold("both[short].summarize", "both[foreign].translate")
    job = await stage.start("parallel-split")
    await stage.started(job, "both[short].summarize", "both[foreign].translate")
    stage.release("both[foreign].translate")
    await stage.ended(job, "both[foreign].translate")
    stage.release("both[short].summarize")
    assert await stage.end(job) == {"both": {"short": "summary of news text", "foreign": "translation of news text"}}
    assert await stage.story(job) == [
        "start fetch",
        "end fetch",
        "fork both",
        "start both[short].summarize",
        "start both[foreign].translate",
        "end both[foreign].translate",
        "end both[short].summarize",
        "end both",
        "COMPLETED",
    ]


@pytest.mark.parametrize(("first", "last"), [("news", "team"), ("team", "news")])
async def test_synchronization_waits_for_the_slower_branch(stage: Stage, first: str, last: str) -> None:
    stage.hold("news", "team")
    job = await stage.start("synchronization")
    await stage.started(job, "news", "team")
    stage.release(first)
    await stage.ended(job, first)
    stage.release(last)
    assert await stage.end(job) == {"publish": "published: news text and team text"}
    assert await stage.story(job) == [
        "start news", "start team", f"end {first}", f"end {last}", "start publish", "end publish", "COMPLETED",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "case", "steps", "output"),
    [
        (5000, "0", ["start route[0].summarize", "end route[0].summarize"], "summary of news text"),
        (500, "1", ["start route[1].translate", "end route[1].translate"], "translation of news text"),
        (5, "default", ["end route[default].as-it-is"], "news text"),
    ],
)
async def test_exclusive_choice_runs_one_case_only(
    stage: Stage, words: int, case: str, steps: list[str], output: str
) -> None:
    job = await stage.start("exclusive-choice", words=words)
    assert await stage.end(job) == {"route": output}
    assert await stage.story(job) == [
        "start fetch", "end fetch", f"choose route[{case}]", *steps, "end route", "COMPLETED",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "ran", "output"),
    [("web", "source[0].fetch", "published: news text"), ("mail", "source[default].read", "published: desk mail")],
)
async def test_simple_merge_goes_on_after_whichever_case_ran(stage: Stage, source: str, ran: str, output: str) -> None:
    job = await stage.start("simple-merge", source=source)
    assert await stage.end(job) == {"publish": output}
    assert await stage.story(job) == [
        f"choose {ran.rpartition('.')[0]}",
        f"start {ran}",
        f"end {ran}",
        "end source",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


@pytest.mark.parametrize("to", [[], ["staff"], ["press", "board"], ["press", "staff", "board"]])
async def test_multi_choice_runs_every_branch_whose_condition_holds_at_once(stage: Stage, to: list[str]) -> None:
    stage.hold(*to)
    job = await stage.start("multi-choice", to=to)
    await stage.started(job, *to)
    stage.release(*reversed(to))
    assert await stage.end(job) == {"told": to}
    story = await stage.story(job)
    assert only(story, "start") == ["start fetch", *(f"start {one}" for one in to)]
    assert only(story, "skip") == [f"skip {one}" for one in ("press", "staff", "board") if one not in to]
    chosen = [line for line in story if line.split()[-1] in to and not line.startswith("skip")]
    assert chosen[: len(to)] == [f"start {one}" for one in to], "all begin before one ends"


@pytest.mark.parametrize("checks", [["law"], ["facts", "tone"], ["facts", "tone", "law"]])
async def test_synchronizing_merge_waits_for_the_chosen_branches_only(stage: Stage, checks: list[str]) -> None:
    stage.hold(*checks)
    job = await stage.start("synchronizing-merge", checks=checks)
    for check in checks:
        await stage.started(job, check)
        assert "start publish" not in await stage.story(job)
        stage.release(check)
        await stage.ended(job, check)
    assert await stage.end(job) == {"publish": f"published: {' and '.join(checks)}"}
    story = await stage.story(job)
    skipped = [f"skip {one}" for one in ("facts", "tone", "law") if one not in checks]
    assert story[: len(skipped)] == skipped
    assert story[len(skipped) :] == [
        *(f"start {one}" for one in checks),
        *(f"end {one}" for one in checks),
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def test_multi_merge_passes_the_shared_step_once_for_each_branch_without_waiting(stage: Stage) -> None:
    web, mail = "sources[0].source[0].fetch", "sources[1].source[default].read"
    stage.hold(web)
    job = await stage.start("multi-merge")
    await stage.started(job, web)
    await stage.ended(job, "sources[1].publish")  # the mail is published before the page is there
    stage.release(web)
    assert await stage.end(job) == {"sources": ["published: news text", "published: desk mail"]}
    assert only(await stage.story(job), "start", "end") == [
        f"start {web}",
        f"start {mail}",
        f"end {mail}",
        "end sources[1].source",
        "start sources[1].publish",
        "end sources[1].publish",
        f"end {web}",
        "end sources[0].source",
        "start sources[0].publish",
        "end sources[0].publish",
        "end sources",
    ]


async def test_first_of_n_goes_on_once_and_cancels_the_others(stage: Stage) -> None:
    branches = ["mirrors[europe].eu", "mirrors[america].us", "mirrors[asia].jp"]
    stage.hold(*branches)
    job = await stage.start("cancelling-discriminator")
    await stage.started(job, *branches)
    stage.release("mirrors[america].us")
    assert await stage.end(job) == {"publish": "published: us/news text"}
    story = await stage.story(job)
    assert story == [
        "fork mirrors",
        *(f"start {branch}" for branch in branches),
        "end mirrors[america].us",
        "stop mirrors[asia].jp",
        "stop mirrors[europe].eu",
        "end mirrors",
        "end text",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def test_n_out_of_m_goes_on_with_the_second_result_and_cancels_the_third(stage: Stage) -> None:
    ada, ben, cleo = "reviews[ada].by-ada", "reviews[ben].by-ben", "reviews[cleo].by-cleo"
    stage.hold(ada, ben, cleo)
    job = await stage.start("cancelling-partial-join")
    await stage.started(job, ada, ben, cleo)
    stage.release(cleo)
    await stage.ended(job, cleo)
    assert "end reviews" not in await stage.story(job)
    stage.release(ada)
    assert await stage.end(job) == {"publish": "published: reviewed by two"}
    assert await stage.story(job) == [
        "fork reviews",
        f"start {ada}",
        f"start {ben}",
        f"start {cleo}",
        f"end {cleo}",
        f"end {ada}",
        f"stop {ben}",
        "end reviews",
        "start publish",
        "end publish",
        "COMPLETED",
    ]
