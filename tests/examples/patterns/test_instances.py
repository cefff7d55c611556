"""Multiple instances, threads and recursion: WCP 12–15, 22, 41, 42."""

from __future__ import annotations

from tests.engine.support import final, seen
from tests.examples.patterns.stage import Stage, only


async def test_instances_without_synchronization_go_on_after_their_starter_has_ended(stage: Stage) -> None:
    stage.hold("fetch")
    job = await stage.start("instances-without-synchronization")
    children = (await stage.end(job))["jobs"]
    assert await stage.story(job) == [
        "expand pages",
        "call pages[0].start",
        "end pages[0].start",
        "call pages[1].start",
        "end pages[1].start",
        "end pages",
        "start tell",
        "end tell",
        "COMPLETED",
    ]
    for child in children:
        await stage.started(child, "fetch")
        assert await stage.story(child) == ["start fetch"]
    stage.release("fetch")
    results = [await stage.end(child) for child in children]
    assert results == [{"publish": "published: news text"}, {"publish": "published: team text"}]


async def test_instances_of_a_fixed_number_run_at_once_and_are_joined(stage: Stage) -> None:
    reviews = [f"reviews[{index}].review" for index in range(3)]
    stage.hold(*reviews)
    job = await stage.start("instances-known-at-design-time")
    await stage.started(job, *reviews)
    for review in reversed(reviews):
        stage.release(review)
        await stage.ended(job, review)
    assert await stage.end(job) == {"decision": ["polish", "polish", "polish"]}
    assert await stage.story(job) == [
        "expand reviews",
        *(f"start {review}" for review in reviews),
        *(f"end {review}" for review in reversed(reviews)),
        "end reviews",
        "end decision",
        "COMPLETED",
    ]


async def test_instances_of_a_number_known_at_run_time_keep_to_their_concurrency_and_order(stage: Stage) -> None:
    first, second, third = (f"sections[{index}].summarize" for index in range(3))
    stage.hold(first)
    job = await stage.start("instances-known-at-run-time", text="a; b; c")
    await stage.ended(job, third)
    stage.release(first)
    assert await stage.end(job) == {"publish": "published: summary of a, summary of b, summary of c"}
    assert await stage.story(job) == [
        "start split",
        "end split",
        "expand sections",
        f"start {first}",
        f"start {second}",
        f"end {second}",
        f"start {third}",
        f"end {third}",
        f"end {first}",
        "end sections",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def test_further_instances_begin_while_others_run_and_all_are_waited_for(stage: Stage) -> None:
    stage.hold("fetch")  # no page of any depth is there yet
    job = await stage.start("crawl", page="home")
    await stage.started(job, "fetch")
    children = await children_of(stage, job, 2)
    grandchildren = await children_of(stage, children["news"], 1)
    await stage.started(grandchildren["archive"], "fetch")  # found while all the others still run
    for one in (job, *children.values(), *grandchildren.values()):
        assert "end fetch" not in await stage.story(one)
    stage.release("fetch")
    assert await stage.end(job) == {"texts": ["home text", "news text", "archive text", "team text"]}
    story = await stage.story(job)
    assert story[:6] == ["start links", "start fetch", "end links", "expand below", *only(story, "call")]
    assert story[-2:] == ["end below", "COMPLETED"]


async def test_recursion_ends_each_level_before_the_one_above(stage: Stage) -> None:
    job = await stage.start("recursion", pages=["a", "b", "c"])
    assert await stage.end(job) == {"summary": "((summary of a + summary of b) + summary of c)"}
    story = await stage.story(job)
    assert [line for line in story if "half" not in line.rpartition(".")[2] or line.startswith("call")] == [
        "choose pile[default]",
        "expand pile[default].halves",
        "call pile[default].halves[0].half",
        "call pile[default].halves[1].half",
        "end pile[default].halves",
        "end pile[default].together",
        "end pile",
        "COMPLETED",
    ]
    assert sorted(only(story, "end"))[0] == "end pile"
    calls = (await stage.jobs.list_jobs({"parent_id": job})).jobs
    assert len(calls) == 2
    ends = [(await stage.jobs.get_job(call.id)).completed_at for call in calls]
    own_end = (await stage.jobs.get_job(job)).completed_at
    assert own_end is not None
    assert all(end is not None and end <= own_end for end in ends)


async def test_threads_pass_the_same_steps_on_their_own_and_become_one(stage: Stage) -> None:
    stage.hold("threads[1].fetch")
    job = await stage.start("thread-split-and-merge", threads=2)
    await stage.ended(job, "threads[0].summarize")
    stage.release("threads[1].fetch")
    assert await stage.end(job) == {"publish": "published: summary of page 0 text, summary of page 1 text"}
    assert await stage.story(job) == [
        "expand threads",
        "start threads[0].fetch",
        "start threads[1].fetch",
        "end threads[0].fetch",
        "start threads[0].summarize",
        "end threads[0].summarize",
        "end threads[1].fetch",
        "start threads[1].summarize",
        "end threads[1].summarize",
        "end threads",
        "start publish",
        "end publish",
        "COMPLETED",
    ]


async def children_of(stage: Stage, job_id: str, count: int) -> dict[str, str]:
    """The children that a crawl has started, by their page, as soon as there are so many."""
    await seen(stage.jobs, job_id, "child.started", count)
    children = (await stage.jobs.list_jobs({"parent_id": job_id})).jobs
    return {(await stage.jobs.get_job(child.id)).inputs["page"]: child.id for child in children}


async def test_cancel_of_a_recursion_reaches_every_level(stage: Stage) -> None:
    stage.hold("fetch")
    job = await stage.start("crawl", page="home")
    children = await children_of(stage, job, 2)
    grandchildren = await children_of(stage, children["news"], 1)
    await stage.started(grandchildren["archive"], "fetch")
    await stage.jobs.cancel_job(job)
    await stage.end(job, "CANCELLED")
    assert await final(stage.jobs, grandchildren["archive"]) == "CANCELLED"
    assert only(await stage.story(grandchildren["archive"]), "stop") == ["stop fetch"]
