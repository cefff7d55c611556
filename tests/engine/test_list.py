"""Listing through the manager, and what deletes old jobs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import AmbiguousJobId, InvalidQuery, JobNotFound
from tests.engine.support import Bench, final


@pytest.fixture
async def ids(bench: Bench, jobs: JobManager) -> dict[str, str]:
    """Four jobs by name, a second apart: done, failed, created, running."""
    made: dict[str, str] = {}
    bench.one("note", id="fine")
    bench.one("fail", id="bad", inputs={"message": "Disk 7 is on fire"})
    bench.one("gate", id="slow")
    for name, flow, options in (
        ("done", "fine", {"start": True, "tags": ["a", "b"], "priority": "HIGH"}),
        ("failed", "bad", {"start": True, "tags": ["b"]}),
        ("created", "fine", {"idempotency_key": "k1"}),
        ("running", "slow", {"start": True}),
    ):
        made[name] = await jobs.create_job(flow, **options)
        if name in ("done", "failed"):
            await final(jobs, made[name])
        bench.clock.advance(1)
    await bench.gate().wait_entered()
    return made


async def names(jobs: JobManager, ids: dict[str, str], filters: Any = None, **options: Any) -> list[str]:
    by_id = {job_id: name for name, job_id in ids.items()}
    return [by_id[summary.id] for summary in await jobs.list_jobs(filters, **options)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, ["running", "created", "failed", "done"]),
        ({"status": "failed"}, ["failed"]),
        ({"status": ["COMPLETED", "RUNNING"]}, ["running", "done"]),
        ({"workflow_id": "fine", "status": "CREATED"}, ["created"]),
        ({"priority": "HIGH"}, ["done"]),
        ({"tags": "b"}, ["failed", "done"]),
        ({"tags": ["a", "b"]}, ["done"]),
        ({"error": "on FIRE"}, ["failed"]),
        ({"error_type": "component.ValueError"}, ["failed"]),
        ({"idempotency_key": "k1"}, ["created"]),
        ({"completed_at": None}, ["running", "created"]),
        ({"status": "CANCELLED"}, []),
    ],
    ids=str,
)
async def test_filters(jobs: JobManager, ids: dict[str, str], filters: Any, expected: list[str]) -> None:
    assert await names(jobs, ids, filters) == expected


async def test_time_ranges_are_half_open(bench: Bench, jobs: JobManager, ids: dict[str, str]) -> None:
    at = (await jobs.get_summary(ids["failed"])).created_at
    for span, expected in (
        ({"after": at}, ["running", "created", "failed"]),
        ({"before": at}, ["done"]),
        ({"after": at, "before": at + timedelta(seconds=1)}, ["failed"]),
    ):
        assert await names(jobs, ids, {"created_at": span}) == expected


@pytest.mark.parametrize(
    "order", ["created_at", "-created_at", "completed_at", "-completed_at", "priority", "-priority"]
)
async def test_pages_join_to_the_whole_list(jobs: JobManager, ids: dict[str, str], order: str) -> None:
    whole = await names(jobs, ids, order=order)
    found: list[str] = []
    cursor = None
    while True:
        page = await jobs.list_jobs(order=order, limit=1, cursor=cursor)
        found += [next(name for name, job_id in ids.items() if job_id == one.id) for one in page]
        if (cursor := page.cursor) is None:
            break
    assert found == whole and len(found) == 4


@pytest.mark.parametrize(
    ("filters", "options"),
    [
        ({"colour": "red"}, {}),
        ({"status": "ASLEEP"}, {}),
        ({"created_at": "yesterday"}, {}),
        (None, {"order": "colour"}),
        (None, {"limit": 0}),
        (None, {"cursor": "no cursor"}),
    ],
    ids=str,
)
async def test_what_is_not_understood_is_refused(jobs: JobManager, filters: Any, options: Any) -> None:
    with pytest.raises(InvalidQuery):
        await jobs.list_jobs(filters, **options)


async def test_summary_in_a_list_is_the_jobs_row(jobs: JobManager, ids: dict[str, str]) -> None:
    for summary in await jobs.list_jobs():
        assert summary == await jobs.get_summary(summary.id)


async def test_jobs_are_found_by_what_people_type(bench: Bench, jobs: JobManager, ids: dict[str, str]) -> None:
    job_id = ids["done"]
    for text in (job_id, job_id[:-2], job_id[-8:], f"fine/{job_id[-8:]}"):
        assert await jobs.find_job(text) == job_id
    with pytest.raises(JobNotFound):
        await jobs.find_job("zzzzzzzz")
    with pytest.raises(AmbiguousJobId):
        await jobs.find_job(job_id[:6])


# ── what deletes old jobs ─────────────────────────────────────────────────────────────────────────────────────────


async def test_cleanup_deletes_what_became_final_long_ago_and_nothing_else(
    bench: Bench, jobs: JobManager, ids: dict[str, str]
) -> None:
    await bench.pass_time(86_400 * 3)
    fresh = await jobs.create_job("fine", start=True)
    await final(jobs, fresh)
    assert await jobs.cleanup_old_jobs(days=4) == 0
    assert await jobs.cleanup_old_jobs(days=2) == 2
    assert {one.id for one in await jobs.list_jobs()} == {ids["created"], ids["running"], fresh}
    assert await jobs.cleanup_old_jobs(days=2) == 0
    with pytest.raises(ValueError, match="days"):
        await jobs.cleanup_old_jobs(days=-1)


async def test_retention_works_by_itself_while_the_manager_runs(bench: Bench) -> None:
    async with bench.manager(job_retention_days=1) as jobs:
        job_id = await jobs.create_job(bench.one("note"), start=True)
        await final(jobs, job_id)
        ended_us = bench.clock.now_us()
        while len(await jobs.list_jobs()):
            await bench.pass_time(3600)
        assert bench.clock.now_us() - ended_us > 86_400 * 1e6


async def test_retention_works_at_the_next_start(bench: Bench) -> None:
    async with bench.manager(job_retention_days=1) as jobs:
        await final(jobs, await jobs.create_job(bench.one("note"), start=True))
    bench.clock.advance(86_400 * 2)
    async with bench.manager(job_retention_days=1) as jobs:
        await bench.until_async(jobs.list_jobs, lambda page: len(page) == 0)


async def test_deleted_job_frees_its_idempotency_key(bench: Bench, jobs: JobManager) -> None:
    flow = bench.one("note")
    first = await jobs.create_job(flow, idempotency_key="k")
    await jobs.delete_job(first)
    assert await jobs.create_job(flow, idempotency_key="k") != first
