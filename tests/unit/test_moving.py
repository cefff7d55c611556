"""Exports as files: what stands in them, what is noticed when they were changed, and imports that are repeated."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openagents_json.errors import InvalidExport, InvalidQuery, JobNotFound, StoreUnavailable
from openagents_json.ids import uuid7
from openagents_json.job.machine import Requested, create
from openagents_json.job.model import JobPriority, JobStatus
from openagents_json.job.moving import FORMAT, Imported, checking, export_jobs, exporting, import_jobs, importing
from openagents_json.job.store import Definition, MemoryJobStore, NewJob, choosing, row_of
from openagents_json.job.store.contract.jobs import (
    QUIET,
    accept,
    begin,
    bring_to,
    claim_one,
    history,
    new_job,
    plan_of,
    request,
    wide,
)
from openagents_json.job.store.contract.leaks import leak
from openagents_json.job.store.limits import Limit
from openagents_json.job.store.moving import MovedJob
from openagents_json.job.store.output import OutputChunk, Piece
from openagents_json.job.store.query import build_query
from openagents_json.testing import FakeClock
from openagents_json.version import VERSION
from openagents_json.workflow import MappingSecrets
from tests.faults.checker import check_store

FIXTURE = Path(__file__).parents[1] / "fixtures" / "export-format-1.jsonl"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryJobStore:
    return MemoryJobStore(clock)


async def export(store: MemoryJobStore, **options: Any) -> bytes:
    """The export of a store."""
    file = io.BytesIO()
    await export_jobs(store, file, **options)
    return file.getvalue()


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def written(lines: Sequence[dict[str, Any]]) -> bytes:
    """The lines with an end that fits them, so that what is wrong is found by itself."""
    data = b"".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for line in lines[:-1])
    end = lines[-1] | {"sha256": hashlib.sha256(data).hexdigest()}
    return data + json.dumps(end).encode() + b"\n"


async def with_child(store: MemoryJobStore, clock: FakeClock) -> tuple[str, str]:
    """A RUNNING job with a QUEUED child: their ids."""
    parent = await begin(store, clock)
    plan = plan_of(QUIET)
    about = {"job_id": parent.job_id, "path": "first", "depth": 1, "detached": False}
    state, events = create(
        plan, uuid7(clock.now_us()), {}, now_us=clock.now_us(), priority=JobPriority.LOW, parent=about, start=True
    )
    definition = Definition(plan.workflow.content_hash, "quiet", plan.workflow.version, plan.workflow.encoded)
    child = NewJob(state.job_id, definition, row_of(state), events, clock.now_us(), parent_id=parent.job_id)
    await store.create(child)
    return parent.job_id, child.job_id


async def filled(store: MemoryJobStore, clock: FakeClock) -> None:
    """Jobs of every status, with children, requests, leaks, keys and output."""
    await leak(store, clock)
    for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.WAITING):
        await bring_to(store, clock, status)
    there = await begin(store, clock)
    for key in ("a", "b"):
        await store.hold(there.job_id, "caller", request("signal", key, name="go", payload=None))
    await there.commit(store, drains=(await store.read_requests(there.job_id))[:1])
    await store.append_output(there.job_id, "first", 1, [OutputChunk(0, 5, [Piece("stdout", 1, "words")])])
    await accept(store, clock, start=False, tags=("x", "ü"), key="k")
    await with_child(store, clock)
    await accept(store, clock)
    await store.create(replace(new_job(clock), limit=Limit("calls", 5)))


# ── there and back ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_imported_is_exported_alike(store: MemoryJobStore, clock: FakeClock) -> None:
    await filled(store, clock)
    first = await export(store)
    other = MemoryJobStore(clock)
    done = await import_jobs(other, io.BytesIO(first))
    assert (done.refused, done.known) == (0, 0)
    assert await check_store(other) == []

    def bare(data: bytes) -> list[dict[str, Any]]:
        lines = lines_of(data)[1:-1]
        for line in lines:
            line.update({name: [one | {"key": 0} for one in line[name]] for name in ("leaks",) if name in line})
            line.update({"requests": [one | {"sequence": 0} for one in line["requests"]]} if "requests" in line else {})
        return lines

    assert bare(await export(other)) == bare(first)
    end = lines_of(first)[-1]
    assert (end["jobs"], end["events"]) == (done.jobs, done.events)
    assert lines_of(first)[0] | {"exported_at": ""} == {
        "type": "openagents-export", "format": FORMAT, "program": VERSION, "store": "memory", "exported_at": "",
    }  # fmt: skip


async def test_empty_store_is_exported(store: MemoryJobStore) -> None:
    data = await export(store)
    assert len(lines_of(data)) == 2
    assert (await import_jobs(store, io.BytesIO(data))).jobs == 0


async def test_export_written_by_the_first_version_is_imported(clock: FakeClock) -> None:
    """It is what `filled` made then. A fixture is never made anew: a later format has one of its own."""
    other = MemoryJobStore(clock)
    done = await import_jobs(other, FIXTURE)
    assert (done.refused, done.known) == (0, 0)
    end = lines_of(FIXTURE.read_bytes())[-1]
    assert (done.jobs, done.events) == (end["jobs"], end["events"])
    assert await check_store(other) == []
    statuses = {one.summary.status for one in await other.list_jobs(build_query())}
    assert statuses == set(JobStatus)


async def test_long_histories_stand_on_many_lines(
    store: MemoryJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(store, clock, wide(400))
    there = await claim_one(store, clock)
    await there.commit(store, there.started())
    lines = [len(line["events"]) for line in lines_of(await export(store)) if line["type"] == "events"]
    assert sum(lines) == len(await history(store, there.job_id)) > 400 and max(lines) <= 256
    monkeypatch.setattr(exporting, "EVENTS_BYTES", 1)
    data = await export(store)
    assert all(len(line["events"]) == 1 for line in lines_of(data) if line["type"] == "events")
    assert (await import_jobs(MemoryJobStore(clock), io.BytesIO(data))).jobs == 1


async def test_jobs_are_chosen_by_filters_and_ids(store: MemoryJobStore, clock: FakeClock) -> None:
    await filled(store, clock)
    parent, child = await with_child(store, clock)

    def ids(data: bytes) -> list[str]:
        return [line["id"] for line in lines_of(data) if line["type"] == "job"]

    failed = ids(await export(store, filters={"status": "FAILED"}))
    assert [(await store.read_summary(job_id)).status for job_id in failed] == ["FAILED"]  # type: ignore[union-attr]
    assert ids(await export(store, ids=[parent, failed[0], parent])) == [parent, child, failed[0]]
    assert child not in ids(await export(store, filters={"workflow_id": "quiet"})), "it goes with its parent only"
    with pytest.raises(InvalidQuery, match=f"child of job {parent}"):
        await export(store, ids=[child])
    with pytest.raises(JobNotFound):
        await export(store, ids=["nobody"])
    with pytest.raises(InvalidQuery, match="nonsense"):
        await export(store, filters={"nonsense": 1})


async def test_all_pages_of_jobs_are_exported(
    store: MemoryJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "PAGE", 3)
    accepted = [await accept(store, clock) for _ in range(9)]
    assert [line["id"] for line in lines_of(await export(store)) if line["type"] == "job"] == accepted


async def test_file_is_there_when_it_is_whole_and_takes_nobodys_place(
    store: MemoryJobStore, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accept(store, clock)
    target = tmp_path / "jobs.jsonl"
    done = await export_jobs(store, target)
    assert target.stat().st_size == done.bytes and list(tmp_path.iterdir()) == [target]
    with pytest.raises(FileExistsError):
        await export_jobs(store, target)

    async def fail(*arguments: Any, **named: Any) -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "read_family", fail)
    with pytest.raises(StoreUnavailable):
        await export_jobs(store, tmp_path / "other.jsonl")
    assert list(tmp_path.iterdir()) == [target]


async def test_job_that_is_deleted_meanwhile_does_not_count(store: MemoryJobStore, clock: FakeClock) -> None:
    gone, stays = [(await bring_to(store, clock, JobStatus.COMPLETED)).job_id for _ in range(2)]

    class Deleting(MemoryJobStore):
        async def read_events(self, job_id: str, after: int = 0, limit: int = 1_000) -> Any:
            events = await store.read_events(job_id, after, limit)
            if job_id == gone and after == 0 and limit == 1:
                assert await store.delete(gone)
            return events

        async def read_family(self, job_id: str) -> list[MovedJob]:
            return await store.read_family(job_id)

        async def list_jobs(self, query: Any) -> Any:
            return await store.list_jobs(query)

        async def read_definition(self, content_hash: str) -> bytes | None:
            return await store.read_definition(content_hash)

        async def read_output(self, *arguments: Any, **named: Any) -> Any:
            return await store.read_output(*arguments, **named)

    data = await export(Deleting(clock))
    assert [line["job"] for line in lines_of(data) if line["type"] == "withdrawn"] == [gone]
    other = MemoryJobStore(clock)
    assert (await import_jobs(other, io.BytesIO(data))).jobs == 1
    assert await other.read_summary(gone) is None and await other.read_summary(stays) is not None


async def test_later_output_does_not_move(store: MemoryJobStore, clock: FakeClock) -> None:
    there = await begin(store, clock)
    for attempt in (1, 2):
        await store.append_output(there.job_id, "first", attempt, [OutputChunk(0, 1, [Piece("stdout", 1, "x")])])
    output = [line["attempt"] for line in lines_of(await export(store)) if line["type"] == "output"]
    assert output == [1], "its history knows of one attempt only"


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.guarantee("G14")
async def test_secrets_that_components_let_through_are_masked(store: MemoryJobStore, clock: FakeClock) -> None:
    document = {
        "id": "secretive",
        "inputs": {"type": "object", "additionalProperties": True},
        "steps": [
            {
                "id": "first",
                "component": "tool.first",
                "inputs": {"key": "{{ secrets.CANARY }} {{ secrets['OTHER'] }}"},
            },
            {"id": "second", "component": "tool.second"},
        ],
    }
    secrets = {"CANARY": "sk-canary-1", "OTHER": "sk-canary-2", "THIRD": "sk-canary-3", "UNKNOWN": "sk-unnamed"}
    job_id = await accept(store, clock, document, inputs={"login": {"secret": "THIRD"}})
    there = await claim_one(store, clock)
    await there.commit(store, there.started())
    spoken = " ".join(secrets.values())
    await store.hold(job_id, "caller", request("signal", "a", name="go", payload={"said": spoken}))
    await there.commit(store, there.succeeded("first", {"said": spoken}))
    await store.append_output(job_id, "first", 1, [OutputChunk(0, 9, [Piece("stdout", 1, spoken)])])
    data = await export(store, secrets=MappingSecrets(secrets))
    assert b"sk-canary" not in data and data.count(b"*** *** *** sk-unnamed") == 3
    assert b"secrets.CANARY" in data
    assert (await import_jobs(MemoryJobStore(clock), io.BytesIO(data))).jobs == 1


# ── what is wrong with a file ─────────────────────────────────────────────────────────────────────────────────────


async def refused(data: bytes, clock: FakeClock) -> InvalidExport:
    """The error of an import, which writes nothing."""
    store = MemoryJobStore(clock)
    with pytest.raises(InvalidExport) as raised:
        await import_jobs(store, io.BytesIO(data))
    assert await store.list_jobs(build_query()) == []
    return raised.value


async def test_file_that_was_cut_is_noticed_wherever_it_was(store: MemoryJobStore, clock: FakeClock) -> None:
    await bring_to(store, clock, JobStatus.COMPLETED)
    await accept(store, clock)
    data = await export(store)
    ends = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for cut in sorted({0, 1, *ends[:-1], *(end - 1 for end in ends), *(end + 7 for end in ends[:-1])}):
        error = await refused(data[:cut], clock)
        assert error.line == max(1, data[:cut].count(b"\n") + (not data[:cut].endswith(b"\n") and cut > 0))


async def test_changed_bytes_are_noticed(store: MemoryJobStore, clock: FakeClock) -> None:
    await bring_to(store, clock, JobStatus.COMPLETED)
    data = await export(store)
    for at in range(0, len(data), 7):
        await refused(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], clock)


def changed(data: bytes, change: Callable[[list[dict[str, Any]]], Any]) -> bytes:
    """The export after a change of its lines, with a checksum that fits."""
    lines = lines_of(data)
    change(lines)
    return written(lines)


def first(lines: list[dict[str, Any]], type: str) -> dict[str, Any]:
    return next(line for line in lines if line["type"] == type)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: lines[0].update(format=99), "format 99.*Install a newer version"),
        (lambda lines: lines[0].update(type="something"), "no export of openagents"),
        (lambda lines: lines.insert(2, lines[0]), "line 3: the export begins here once more"),
        (lambda lines: lines.insert(1, {"type": "riddle"}), "line 2: it is no line of an export"),
        (lambda lines: first(lines, "job").update(epoch="high"), r"Expected `int`, got `str` - at `\$.epoch`"),
        (lambda lines: first(lines, "job").update(status="PAUSED"), "status of job .* 'PAUSED'.* 'COMPLETED'"),
        (lambda lines: first(lines, "job").update(tags=["new"]), "tags of job"),
        (lambda lines: first(lines, "job").update(created_us=1), "created_us of job"),
        (lambda lines: first(lines, "job").update(idempotency_key="new"), "idempotency_key of job"),
        (lambda lines: first(lines, "job").update(parent_id="p"), "does not stand behind its parent"),
        (lambda lines: first(lines, "job").update(definition="x"), "definition x of job .* does not stand before it"),
        (lambda lines: first(lines, "job").update(id="other"), "events of job .* not the one before it"),
        (lambda lines: first(lines, "job").update(events=5), "has 5 events, and 8 follow"),
        (
            lambda lines: first(lines, "job").update(limit={"key": "calls", "limit": 0}),
            "the limit of job .* is none of its workflow",
        ),
        (lambda lines: first(lines, "definition").update(hash="0" * 64), "not the one that its hash"),
        (lambda lines: first(lines, "definition").update(version="9.0.0"), "not what the line says"),
        (lambda lines: first(lines, "events")["events"].pop(2), "has 2 events before it, and event 4 follows"),
        (lambda lines: first(lines, "events")["events"].pop(), "has 8 events, and 7 follow"),
        (lambda lines: first(lines, "events")["events"][2].__setitem__(1, "job.exploded"), "'job.exploded', which"),
        (lambda lines: first(lines, "events")["events"][2].__setitem__(3, {}), "does not fold: KeyError: 'worker'"),
        (lambda lines: first(lines, "events")["events"].clear(), "has 8 events, and 0 follow"),
        (lambda lines: first(lines, "family").update(jobs=2), "has 2 jobs, and 1 stand before it"),
        (lambda lines: first(lines, "family").update(job="other"), "the family of job other"),
        (lambda lines: lines.remove(first(lines, "family")), "ends within job"),
        (lambda lines: lines[-1].update(jobs=7), "it counts 7 jobs"),
        (lambda lines: lines.insert(-1, {"type": "withdrawn", "job": "j"}), "withdraws job j"),
        (
            lambda lines: lines.insert(-1, {"type": "output", "job": "j", "path": "p", "attempt": 1, "chunks": []}),
            "output of job j",
        ),
    ],
)
async def test_what_is_wrong_is_said_with_its_line(
    store: MemoryJobStore, clock: FakeClock, change: Callable[[list[dict[str, Any]]], Any], why: str
) -> None:
    await bring_to(store, clock, JobStatus.COMPLETED)
    error = await refused(changed(await export(store), change), clock)
    error_text = str(error)
    assert error_text.startswith(f"The export cannot be imported: line {error.line}: ")
    assert error_text.endswith("Nothing was imported.")
    assert re.search(why, error_text), error_text


async def test_what_is_no_export_is_refused(clock: FakeClock) -> None:
    for data in (b"", b"\n", b"hello\n", b"[1]\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"type": "job"}\n'):
        assert (await refused(data, clock)).line == 1


async def test_lines_after_the_end_are_noticed(store: MemoryJobStore, clock: FakeClock) -> None:
    data = await export(store)
    assert (await refused(data + data, clock)).line == 3


async def test_line_has_a_bound(clock: FakeClock, store: MemoryJobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await accept(store, clock)
    data = await export(store)
    monkeypatch.setattr(checking, "LINE_BYTES", 300)
    assert "longer than 300 bytes" in str(await refused(data, clock))


# ── again and again ───────────────────────────────────────────────────────────────────────────────────────────────


class Failing(MemoryJobStore):
    """Cannot be written after so many restores, as often as not after it has written."""

    left = 3
    says_so_too_late = False

    async def restore(self, jobs: Sequence[MovedJob]) -> list[str]:
        if self.left == 0:
            self.left = 3
            if self.says_so_too_late:
                await super().restore(jobs)
            raise StoreUnavailable("gone")
        self.left -= 1
        return await super().restore(jobs)


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.guarantee("G7")
async def test_interrupted_import_is_done_again(
    store: MemoryJobStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    monkeypatch.setattr(importing, "BATCH_JOBS", 1)
    await filled(store, clock)
    data = await export(store)
    other = Failing(clock)
    other.says_so_too_late = is_late
    tries = 0
    done: Imported | None = None
    while done is None:
        tries += 1
        assert tries < 20
        try:
            done = await import_jobs(other, io.BytesIO(data))
        except StoreUnavailable:
            assert await check_store(other) == []
    assert tries > 2 and done.refused == 0
    assert done.jobs + done.known == lines_of(data)[-1]["jobs"]
    for one in await store.list_jobs(build_query()):
        assert await history(other, one.summary.id) == await history(store, one.summary.id)
    assert [one.pieces for one in await other.read_output(await output_of(store))] == [[Piece("stdout", 1, "words")]]


async def output_of(store: MemoryJobStore) -> str:
    """The id of the job that has output."""
    for one in await store.list_jobs(build_query()):
        if await store.read_output(one.summary.id):
            return one.summary.id
    raise AssertionError("no job has output")


async def test_family_of_which_a_part_is_there_is_refused(store: MemoryJobStore, clock: FakeClock) -> None:
    parent, child = await with_child(store, clock)
    data = await export(store)
    other = MemoryJobStore(clock)
    [first_of_all, _] = await store.read_family(parent)
    events = await history(store, parent)
    definition = replace(first_of_all.new.definition, document=b"{}")
    await other.restore([replace(first_of_all, new=replace(first_of_all.new, events=events, definition=definition))])
    done = await import_jobs(other, io.BytesIO(data))
    assert [one.why for one in done.refusals] == [f"job {parent} is there already, and its child {child} is not"]


async def test_two_exports_one_after_the_other_hold_a_job_twice(store: MemoryJobStore, clock: FakeClock) -> None:
    """A file that was put together by hand: the second time the job is there already."""
    await accept(store, clock)
    lines = lines_of(await export(store))
    end = lines.pop()
    doubled = [*lines, *lines[2:], end | {"jobs": 2, "events": 4}]
    done = await import_jobs(MemoryJobStore(clock), io.BytesIO(written(doubled)))
    assert (done.jobs, done.known) == (1, 1)


async def test_stream_that_cannot_be_read_twice_is_copied(store: MemoryJobStore, clock: FakeClock) -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *arguments: Any) -> int:
            raise OSError("a pipe")

    await accept(store, clock)
    assert (await import_jobs(MemoryJobStore(clock), Stream(await export(store)))).jobs == 1


async def test_priority_and_place_in_the_queue_are_kept(store: MemoryJobStore, clock: FakeClock) -> None:
    early = await accept(store, clock)
    clock.advance(10)
    late = await store.create(new_job(clock))
    there = await claim_one(store, clock)
    await there.commit(store, there.started())
    await there.commit(store, Requested("set_priority", "x", None, {"priority": "CRITICAL"}))
    other = MemoryJobStore(clock)
    await import_jobs(other, io.BytesIO(await export(store)))
    assert [claim.job_id for claim in await other.claim("w", 5)] == [late]
    summary = await other.read_summary(early)
    assert summary is not None and (summary.priority, summary.status) == ("CRITICAL", "RUNNING")
