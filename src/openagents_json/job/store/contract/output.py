"""The contract of output: chunks of attempts are kept in order, bounded, and deleted with their job."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openagents_json.clock import SECOND_US
from openagents_json.job.model import JobStatus
from openagents_json.job.store.base import JobStore
from openagents_json.job.store.contract.jobs import QUIET, WithClock, accept, begin
from openagents_json.job.store.output import (
    CHUNK_BYTES,
    HEAD_BYTES,
    JOB_BYTES,
    TAIL_BYTES,
    OutputChunk,
    Piece,
    StoredOutput,
)
from openagents_json.job.store.records import JobCounts
from openagents_json.testing import FakeClock

KEPT_BYTES = HEAD_BYTES + TAIL_BYTES


def chunk(first: int, text: str = "hello\n", *, size: int = 50, stream: str = "stdout") -> OutputChunk:
    """A chunk that says that it takes `size` bytes."""
    return OutputChunk(first, first + size, [Piece(stream, 7, text)])


def chunks_of(total: int, first: int = 0) -> list[OutputChunk]:
    """Chunks of the usual size, up to `total` bytes."""
    return [chunk(start, size=CHUNK_BYTES) for start in range(first, total, CHUNK_BYTES)]


def shown(found: Sequence[StoredOutput]) -> list[tuple[str, int, str]]:
    """(path, attempt, text) of each piece."""
    return [(one.path, one.attempt, piece.text) for one in found for piece in one.pieces]


@pytest.mark.asyncio
class OutputContract(WithClock):
    """What attempts printed and logged, and how many jobs there are."""

    async def test_output_is_read_as_it_was_given(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        pieces = [Piece("stdout", 1, "a\nhalf"), Piece("log", 2, "INFO ü €\n"), Piece("emitted", 3, '{"t":"\\u0000"}')]
        await store.append_output(job_id, "each[0].s", 2, [OutputChunk(0, 90, pieces)])
        (found,) = await store.read_output(job_id)
        assert (found.path, found.attempt, found.first, found.last, found.cut) == ("each[0].s", 2, 0, 90, 0)
        assert list(found.pieces) == pieces

    async def test_reader_goes_on_after_the_last_sequence(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        for number in range(5):
            await store.append_output(job_id, "s", number + 1, [chunk(0, f"{number}")])
        found = await store.read_output(job_id, limit=2)
        found += await store.read_output(job_id, after=found[-1].sequence, limit=10)
        assert [text for _, _, text in shown(found)] == ["0", "1", "2", "3", "4"]
        assert [one.sequence for one in found] == sorted({one.sequence for one in found})
        assert await store.read_output(job_id, after=found[-1].sequence) == []

    async def test_output_is_found_by_step_and_attempt(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        for path in ("a", "a[0].b", "a.c", "ab", "a%", "b"):
            for attempt in (1, 2):
                await store.append_output(job_id, path, attempt, [chunk(0, path)])
        assert {path for path, _, _ in shown(await store.read_output(job_id, "a"))} == {"a", "a[0].b", "a.c"}
        assert shown(await store.read_output(job_id, "a[0].b", 2)) == [("a[0].b", 2, "a[0].b")]
        assert len(await store.read_output(job_id, attempt=1)) == 6

    async def test_chunk_that_is_given_twice_is_kept_once(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        for _ in range(2):
            await store.append_output(job_id, "s", 1, [chunk(0, "once"), chunk(50, "and again")])
        assert [text for _, _, text in shown(await store.read_output(job_id))] == ["once", "and again"]

    async def test_beginning_and_end_of_an_attempt_are_kept_and_what_is_missing_is_said(
        self, store: JobStore, clock: FakeClock
    ) -> None:
        job_id = await accept(store, clock)
        await store.append_output(job_id, "quiet", 1, [chunk(0)])
        for one in chunks_of(4 * KEPT_BYTES):
            await store.append_output(job_id, "s", 1, [one])
        found = await store.read_output(job_id, "s", limit=1_000)
        kept = [(one.first, one.last) for one in found]
        assert sum(last - first for first, last in kept) == KEPT_BYTES
        assert kept[HEAD_BYTES // CHUNK_BYTES - 1][1] == HEAD_BYTES
        assert kept[-1][1] == 4 * KEPT_BYTES
        assert [one.cut for one in found if one.cut] == [3 * KEPT_BYTES]
        assert len(await store.read_output(job_id, "quiet")) == 1

    async def test_chunks_that_were_left_out_before_count_as_cut(self, store: JobStore, clock: FakeClock) -> None:
        job_id = await accept(store, clock)
        await store.append_output(job_id, "s", 1, [chunk(0), chunk(1_000)])
        assert [one.cut for one in await store.read_output(job_id)] == [0, 950]
        await store.append_output(job_id, "late", 1, [chunk(300)])
        assert [one.cut for one in await store.read_output(job_id, "late")] == [300]

    async def test_job_keeps_the_output_of_its_latest_attempts(self, store: JobStore, clock: FakeClock) -> None:
        job_id, other = await accept(store, clock), await accept(store, clock)
        await store.append_output(other, "s", 1, [chunk(0)])
        attempts = JOB_BYTES // KEPT_BYTES + 8
        for number in range(attempts):
            await store.append_output(job_id, f"each[{number}].s", 1, chunks_of(KEPT_BYTES))
        found = await store.read_output(job_id, limit=100_000)
        assert sum(one.last - one.first for one in found) <= JOB_BYTES
        paths = list(dict.fromkeys(one.path for one in found))
        assert paths == [f"each[{number}].s" for number in range(attempts - len(paths), attempts)]
        assert len(paths) >= JOB_BYTES // KEPT_BYTES - 4
        assert len(await store.read_output(other)) == 1

    async def test_output_changes_neither_history_nor_row(self, store: JobStore, clock: FakeClock) -> None:
        holder = await begin(store, clock)
        before = await store.read(holder.job_id)
        await store.append_output(holder.job_id, "first", 1, [chunk(0)])
        assert await store.read(holder.job_id) == before
        await holder.commit(store, holder.succeeded("first"))

    async def test_output_goes_with_its_job(self, store: JobStore, clock: FakeClock) -> None:
        deleted, old = await accept(store, clock, start=False), (await begin(store, clock, document=QUIET)).job_id
        for job_id in (deleted, old):
            await store.append_output(job_id, "s", 1, [chunk(0)])
        assert await store.delete(deleted)
        clock.advance(60)
        assert await store.delete_final(clock.now_us(), 10) == 1
        for job_id in (deleted, old):
            await store.append_output(job_id, "s", 2, [chunk(0)])
            assert await store.read_output(job_id) == []

    async def test_job_that_is_not_there_has_no_output(self, store: JobStore) -> None:
        await store.append_output("nobody", "s", 1, [chunk(0)])
        assert await store.read_output("nobody") == []

    async def test_jobs_are_counted_by_status_and_the_queue_by_its_age(self, store: JobStore, clock: FakeClock) -> None:
        assert await store.count_jobs(10) == JobCounts({}, None)
        await begin(store, clock, document=QUIET)
        await begin(store, clock)
        await accept(store, clock, start=False)
        first_us = clock.now_us()
        for _ in range(3):
            await accept(store, clock)
            clock.advance(1)
        counts = await store.count_jobs(100)
        assert counts.by_status == {
            JobStatus.COMPLETED: 1,
            JobStatus.RUNNING: 1,
            JobStatus.CREATED: 1,
            JobStatus.QUEUED: 3,
        }
        assert counts.oldest_queued_us == first_us == clock.now_us() - 3 * SECOND_US
        assert (await store.count_jobs(2)).by_status[JobStatus.QUEUED] == 2
        await store.claim("w1", 1)
        counts = await store.count_jobs(100)
        assert counts.by_status[JobStatus.QUEUED] == 3
        assert counts.oldest_queued_us == first_us + SECOND_US  # the first one waits no longer: somebody has it
        assert (await store.count_jobs(1)).by_status == {
            JobStatus.QUEUED: 1
        }  # the latest one; others are not looked at
