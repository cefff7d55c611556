"""The contract of listing: every filter, order and cursor, checked against the rows themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from openagents_json.job.machine import Requested
from openagents_json.job.model import JobPriority, JobStatus, JobSummary
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import OTHER_CALLS, QUIET, WithClock, accept, begin, bring_to, claim_one
from openagents_json.job.store.query import build_query, encode_cursor
from openagents_json.testing import START, FakeClock

MINUTE = timedelta(minutes=1)
END = START + timedelta(days=1)
ORDERS = ["created_at", "completed_at", "started_at", "priority"]
Fits = Callable[[JobSummary], bool]

FILTERS: list[tuple[dict[str, Any], Fits]] = [
    ({}, lambda job: True),
    ({"workflow_id": "calls"}, lambda job: job.workflow_id == "calls"),
    ({"workflow_id": ["calls", "quiet"]}, lambda job: job.workflow_id in ("calls", "quiet")),
    ({"version": "2.1.0"}, lambda job: job.version == "2.1.0"),
    *(({"status": str(status)}, lambda job, s=status: job.status == s) for status in JobStatus),
    ({"status": ["RUNNING", "paused"]}, lambda job: job.status in ("RUNNING", "PAUSED")),
    ({"status": []}, lambda job: False),
    ({"priority": "HIGH"}, lambda job: job.priority == "HIGH"),
    ({"priority": ["LOW", "CRITICAL"]}, lambda job: job.priority in ("LOW", "CRITICAL")),
    ({"current_step": "first"}, lambda job: job.current_step == "first"),
    ({"current_step": None}, lambda job: job.current_step is None),
    ({"current_step": [None, "second"]}, lambda job: job.current_step in (None, "second")),
    ({"error_type": "contract.broken"}, lambda job: job.error_type == "contract.broken"),
    ({"error_type": None}, lambda job: job.error_type is None),
    ({"idempotency_key": "k"}, lambda job: job.idempotency_key == "k"),
    ({"idempotency_key": None}, lambda job: job.idempotency_key is None),
    ({"pause_requested": True}, lambda job: job.pause_requested),
    ({"cancel_requested": True}, lambda job: job.cancel_requested),
    ({"cancel_requested": False}, lambda job: not job.cancel_requested),
    ({"abandoned": 1}, lambda job: job.abandoned == 1),
    ({"events": 2}, lambda job: job.events == 2),
    ({"progress": 1.0}, lambda job: job.progress == 1.0),
    ({"progress": [0, 0.5]}, lambda job: job.progress in (0.0, 0.5)),
    ({"tags": "red"}, lambda job: "red" in job.tags),
    ({"tags": ["red", "größe 1%"]}, lambda job: {"red", "größe 1%"} <= set(job.tags)),
    ({"tags": ["re"]}, lambda job: False),
    ({"error": "IT BROKE"}, lambda job: job.error_message == "it broke"),
    ({"error": "GRÖSSER"}, lambda job: job.error_message == "größer 100%"),
    ({"error": "100%"}, lambda job: job.error_message == "größer 100%"),
    ({"error": "contract.B"}, lambda job: job.error_type is not None),
    ({"error": "%"}, lambda job: job.error_message == "größer 100%"),
    ({"created_at": {"after": START + 5 * MINUTE}}, lambda job: job.created_at >= START + 5 * MINUTE),
    ({"created_at": {"before": START + 5 * MINUTE}}, lambda job: job.created_at < START + 5 * MINUTE),
    (
        {"created_at": {"after": START + 2 * MINUTE, "before": START + 3 * MINUTE}},
        lambda job: job.created_at == START + 2 * MINUTE,
    ),
    ({"created_at": {"after": "2026-01-01T00:04:00Z"}}, lambda job: job.created_at >= START + 4 * MINUTE),
    ({"queued_at": {"after": START}}, lambda job: job.queued_at is not None),
    ({"queued_at": None}, lambda job: job.queued_at is None),
    ({"started_at": {"before": START + 5 * MINUTE}}, lambda job: (job.started_at or END) < START + 5 * MINUTE),
    ({"started_at": None}, lambda job: job.started_at is None),
    ({"completed_at": {"after": START}}, lambda job: job.completed_at is not None),
    ({"completed_at": None}, lambda job: job.completed_at is None),
    ({"start_at": {"after": START}}, lambda job: job.start_at is not None),
    ({"wake_at": {"after": START}}, lambda job: job.wake_at is not None),
    ({"start_at": None}, lambda job: job.status == "CREATED" and job.start_at is None),
    (
        {"status": "FAILED", "tags": "red", "error": "größer", "priority": "LOW"},
        lambda job: job.status == "FAILED" and "red" in job.tags and job.priority == "LOW",
    ),
]  # fmt: skip


async def fill(store: JobStore, clock: FakeClock) -> None:
    """Jobs of every status, a minute apart, with what the filters look for."""

    async def run(*, priority: JobPriority = JobPriority.MEDIUM, tags: tuple[str, ...] = ()) -> Any:
        await accept(store, clock, priority=priority, tags=tags)
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started())
        return holder

    for status in (status for status in JobStatus if status not in (JobStatus.CREATED, JobStatus.QUEUED)):
        await bring_to(store, clock, status)
        clock.advance(60)
    low = await run(priority=JobPriority.LOW, tags=("red", "größe 1%"))
    await low.commit(store, low.failed("first", "größer 100%", abandoned=True))
    clock.advance(60)
    paused = await run(priority=JobPriority.HIGH, tags=("größe 1%",))
    await paused.commit(store, Requested("pause"))
    cancelled = await run(tags=("red",))
    await cancelled.commit(store, Requested("cancel"))
    await begin(store, clock, document=QUIET)
    clock.advance(60)
    half = await run()
    await half.commit(store, half.succeeded("first"))
    await accept(store, clock, start=False, tags=("red", "blue"))
    await accept(store, clock, OTHER_CALLS, start_in_s=600, priority=JobPriority.CRITICAL, key="k")
    clock.advance(60)
    await accept(store, clock, OTHER_CALLS, key="other", tags=("re%",))


async def page_ids(store: JobStore, **options: Any) -> list[str]:
    """The ids that one page of a query lists, in its order."""
    return [listed.summary.id for listed in await store.list_jobs(build_query(**options))]


@pytest.mark.asyncio
class ListingContract(WithClock):
    """Listing: filters, orders, and cursors that skip and repeat nothing."""

    async def test_each_filter_finds_exactly_the_rows_that_fit(self, store: JobStore, clock: FakeClock) -> None:
        await fill(store, clock)
        everything = [listed.summary for listed in await store.list_jobs(build_query())]
        assert {job.status for job in everything} == set(JobStatus)
        for filters, fits in FILTERS:
            expected = [job.id for job in everything if fits(job)]
            assert await page_ids(store, filters=filters) == expected, filters
        for job in everything[:3]:
            assert await page_ids(store, filters={"id": job.id}) == [job.id]

    async def test_listing_is_newest_first_and_shows_the_rows(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock) for _ in range(3)]
        listed = await store.list_jobs(build_query())
        assert [one.summary.id for one in listed] == ids[::-1]
        assert [one.summary for one in listed] == [await store.read_summary(job_id) for job_id in ids[::-1]]
        assert await page_ids(store, limit=2) == ids[:0:-1]

    @pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
    @pytest.mark.parametrize("order", ORDERS)
    async def test_each_order_goes_both_ways_and_on_by_cursor(
        self, store: JobStore, clock: FakeClock, order: str, descending: bool
    ) -> None:
        await fill(store, clock)
        created = await store.list_jobs(build_query(order="created_at"))  # ties go by creation

        def place(numbered: tuple[int, Any]) -> tuple[bool, Any, int]:  # what has no value comes before everything
            number, listed = numbered
            value = getattr(listed.summary, order)
            value = value.rank if isinstance(value, JobPriority) else value
            return (value is not None, value or START, number) if order != "priority" else (True, value, number)

        ordered = [listed for _, listed in sorted(enumerate(created), key=place, reverse=descending)]
        expected = [listed.summary.id for listed in ordered]
        by = f"-{order}" if descending else order
        assert await page_ids(store, order=by) == expected
        for size in (1, 3, len(expected)):
            pages: list[str] = []
            cursor = None
            while page := await store.list_jobs(build_query(order=by, limit=size, cursor=cursor)):
                assert len(page) <= size
                pages += [listed.summary.id for listed in page]
                cursor = encode_cursor(by, *page[-1].position)
            assert pages == expected

    async def test_cursor_stays_good_when_jobs_come_and_go(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock, start=False) for _ in range(6)]
        page = await store.list_jobs(build_query(limit=2))
        cursor = encode_cursor("-created_at", *page[-1].position)
        await accept(store, clock)
        await store.delete(ids[4])  # the cursor's own row
        assert await page_ids(store, limit=10, cursor=cursor) == ids[3::-1]

    async def test_cursor_and_filter_go_together(self, store: JobStore, clock: FakeClock) -> None:
        ids = [await accept(store, clock, tags=("even",) if n % 2 == 0 else ()) for n in range(6)]
        page = await store.list_jobs(build_query({"tags": "even"}, order="created_at", limit=1))
        cursor = encode_cursor("created_at", *page[-1].position)
        assert await page_ids(store, filters={"tags": "even"}, order="created_at", cursor=cursor) == [ids[2], ids[4]]

    async def test_ids_are_found_by_their_first_or_last_characters(self, store: JobStore, clock: FakeClock) -> None:
        ids = [f"019b7711-{n}a68-7000-8000-{n}b5a35deaab{n}" for n in range(3)]
        for job_id in ids:
            await accept(store, clock, job_id=job_id)
        for job_id in ids:
            for characters in (job_id, job_id[:10], job_id[-8:]):
                assert await store.find_ids(characters) == [job_id]
        assert await store.find_ids("019b7711") == ids
        assert await store.find_ids("019b7711", limit=2) == ids[:2]
        for nobodys in ("nothing", "%", "_" * 36, ids[0][1:-1], "'", "DEAAB0", ids[0] + "0"):
            assert await store.find_ids(nobodys) == []
