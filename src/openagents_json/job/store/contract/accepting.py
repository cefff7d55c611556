"""The contract of accepting and reading: create, idempotency keys, definitions, histories."""

from __future__ import annotations

import asyncio

import pytest

from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.errors import IdempotencyConflict
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import (
    CALLS,
    OTHER_CALLS,
    QUIET,
    WithClock,
    accept,
    assert_folds_to,
    begin,
    claim_one,
    history,
    new_job,
    read,
    request,
    summary,
    wide,
)
from openagents_json.job.store.query import build_query
from openagents_json.job.store.records import HISTORY_ROW_EVENTS
from openagents_json.testing import FakeClock

AWKWARD = {
    "big": 2**70,
    "negative": -(2**63) - 1,
    "float": 0.1,
    "tiny": 5e-324,
    "text": "Größe 🙂 \u202e \x7f",
    "nothing": None,
    "empty": [{}, [], ""],
    "nested": {"a": [1, 1.5, True, {"b": "'; DROP TABLE jobs; --"}]},
}


@pytest.mark.asyncio
class AcceptingContract(WithClock):
    """Creating jobs: whole, once, and under their keys."""

    @pytest.mark.guarantee("G1")
    async def test_accepted_job_reads_as_it_was_given(self, store: JobStore, clock: FakeClock) -> None:
        job = new_job(clock, tags=("b", "a"), key="k", priority=JobPriority.HIGH, inputs=AWKWARD)
        assert await store.create(job) == job.job_id
        stored = await read(store, job.job_id)
        assert stored.events == list(job.events)
        assert stored.events[0].data["inputs"] == AWKWARD
        assert (stored.owner, stored.snapshot, stored.requests) == (None, None, [])
        assert stored.definition_hash == job.definition.hash
        row = stored.summary
        assert (row.id, row.workflow_id, row.version) == (job.job_id, "calls", "1.0.0")
        assert (row.status, row.priority, row.events) == (JobStatus.QUEUED, JobPriority.HIGH, 2)
        assert row.created_at == row.queued_at == clock.now()
        assert (row.started_at, row.completed_at, row.start_at, row.wake_at) == (None, None, None, None)
        assert (row.progress, row.current_step, row.abandoned) == (0.0, None, 0)
        assert (row.error_type, row.error_message) == (None, None)
        assert (row.pause_requested, row.cancel_requested) == (False, False)
        assert (row.idempotency_key, row.tags) == ("k", ("b", "a"))
        assert await store.read_definition_hash(job.job_id) == row.definition
        assert await summary(store, job.job_id) == row

    async def test_job_with_a_start_time_shows_it(self, store: JobStore, clock: FakeClock) -> None:
        row = await summary(store, await accept(store, clock, start_in_s=90))
        assert row.status == JobStatus.CREATED
        assert row.start_at == as_datetime(clock.now_us() + 90 * SECOND_US)
        assert (row.queued_at, row.wake_at) == (None, None)

    async def test_every_verb_answers_for_a_job_that_is_not_there(self, store: JobStore) -> None:
        assert await store.read("nobody") is None
        assert await store.read_summary("nobody") is None
        assert await store.read_definition_hash("nobody") is None
        assert await store.read_events("nobody") == []
        assert await store.read_requests("nobody") == []
        assert await store.read_definition("nothing") is None
        assert await store.hold("nobody", "w1", request("start")) is None
        assert await store.delete("nobody") is False
        await store.thread_ended("nobody", "w1")

    async def test_repeated_create_changes_nothing(self, store: JobStore, clock: FakeClock) -> None:
        job = new_job(clock)
        await store.create(job)
        holder = await claim_one(store, clock)
        await holder.commit(store, holder.started())
        before = await read(store, job.job_id)
        assert await store.create(job) == job.job_id
        assert await read(store, job.job_id) == before
        assert len(await store.list_jobs(build_query())) == 1

    async def test_creates_at_the_same_moment_are_all_accepted_once(self, store: JobStore, clock: FakeClock) -> None:
        jobs = [new_job(clock, CALLS if n % 2 else QUIET) for n in range(40)]
        ids = await asyncio.gather(*(store.create(job) for job in [*jobs, *jobs[:10]]))
        assert ids == [job.job_id for job in [*jobs, *jobs[:10]]]
        for job in jobs:
            assert await history(store, job.job_id) == list(job.events)
        assert len(await store.list_jobs(build_query())) == len(jobs)

    async def test_many_are_accepted_at_once_or_none(self, store: JobStore, clock: FakeClock) -> None:
        earlier = await accept(store, clock, key="k")
        jobs = [new_job(clock, CALLS if n % 2 else QUIET) for n in range(20)]
        again, twice = new_job(clock, key="k"), [new_job(clock, key="new") for _ in range(2)]
        many = [*jobs, again, *twice]
        assert await store.create_all(many) == [*(job.job_id for job in jobs), earlier, *[twice[0].job_id] * 2]
        assert len(await store.list_jobs(build_query())) == len(jobs) + 2
        for job in jobs:
            assert await history(store, job.job_id) == list(job.events)
        assert await store.create_all(jobs) == [job.job_id for job in jobs]
        for refused in ([new_job(clock), new_job(clock, key="k", body="another")],
                        [new_job(clock, key="x"), new_job(clock, key="x", body="another")]):  # fmt: skip
            with pytest.raises(IdempotencyConflict):
                await store.create_all(refused)
        assert len(await store.list_jobs(build_query())) == len(jobs) + 2
        assert await store.create_all([]) == []

    # ── idempotency keys ──────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.guarantee("G7")
    async def test_same_key_and_body_give_the_earlier_job(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept(store, clock, key="k")
        clock.advance(5)
        assert await accept(store, clock, key="k") == first
        assert len(await store.list_jobs(build_query())) == 1

    @pytest.mark.guarantee("G7")
    async def test_same_key_with_another_body_is_refused(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept(store, clock, key="k")
        with pytest.raises(IdempotencyConflict, match="'k'") as refused:
            await accept(store, clock, key="k", body="another body")
        assert refused.value.job_id == first
        assert len(await store.list_jobs(build_query())) == 1

    @pytest.mark.guarantee("G7")
    async def test_key_belongs_to_its_workflow(self, store: JobStore, clock: FakeClock) -> None:
        ids = {await accept(store, clock, document, key="k") for document in (CALLS, OTHER_CALLS)}
        assert len(ids) == 2

    @pytest.mark.guarantee("G7")
    async def test_creates_with_one_key_at_the_same_moment_accept_one(self, store: JobStore, clock: FakeClock) -> None:
        ids = await asyncio.gather(*(accept(store, clock, key="k") for _ in range(20)))
        assert len(set(ids)) == 1
        assert len(await store.list_jobs(build_query())) == 1

    async def test_key_is_free_again_when_its_job_is_deleted(self, store: JobStore, clock: FakeClock) -> None:
        first = await accept(store, clock, start=False, key="k")
        assert await store.delete(first)
        assert await accept(store, clock, start=False, key="k", body="another body") != first

    # ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.guarantee("G11")
    async def test_job_keeps_the_definition_it_was_made_from(self, store: JobStore, clock: FakeClock) -> None:
        old, new = new_job(clock), new_job(clock, CALLS | {"description": "something else"})
        for job in (old, new, new_job(clock)):
            await store.create(job)
        assert old.definition.hash != new.definition.hash
        for job in (old, new):
            assert (await read(store, job.job_id)).definition_hash == job.definition.hash
            assert await store.read_definition(job.definition.hash) == job.definition.document

    # ── histories ─────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.guarantee("G10")
    async def test_commit_of_many_events_reads_back_whole(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, document=wide(2 * HISTORY_ROW_EVENTS + 10))
        events = await history(store, holder.job_id)
        assert len(events) > 2 * HISTORY_ROW_EVENTS
        stored = await read(store, holder.job_id)
        assert stored.events == events
        assert stored.summary.events == len(events)
        assert_folds_to(stored, holder)

    @pytest.mark.guarantee("G10")
    async def test_reader_gets_each_event_once_page_by_page(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, document=wide(HISTORY_ROW_EVENTS + 50))
        await holder.commit(store, holder.succeeded("call"))
        events = await history(store, holder.job_id)
        for size in (1, 7, HISTORY_ROW_EVENTS, 1_000):
            pages, after = [], 0 if size > 1 else len(events) - 20
            start = after
            while page := await store.read_events(holder.job_id, after, size):
                assert len(page) <= size
                pages += page
                after = page[-1].number
            assert pages == events[start:]

    @pytest.mark.guarantee("G10")
    async def test_history_can_be_read_from_any_event_on(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock, document=wide(HISTORY_ROW_EVENTS + 50))
        events = await history(store, holder.job_id)
        edges = (1, 2, 3, HISTORY_ROW_EVENTS, HISTORY_ROW_EVENTS + 2, HISTORY_ROW_EVENTS + 3)
        for after in (*edges, len(events) - 1, len(events), len(events) + 5):
            assert await store.read_events(holder.job_id, after, 100) == events[after : after + 100]

    async def test_what_was_read_is_the_readers_own(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        events = await store.read_events(job_id)
        events.clear()
        (await read(store, job_id)).events.clear()
        assert len(await history(store, job_id)) == 2
