"""One checker for every fault test: what may never be, whatever was killed, lost or late (RELIABILITY.md, I1 … I11).

    A  ids that a client saw accepted            `Evidence.accepted`
    H  histories read back, with their rows      `Evidence.records`
    E  effects that components logged and synced `Evidence.effects`
    K  faults injected                           `Evidence.faults`

Each law answers with sentences; no sentence means that it holds. I7 is judged by what a history shows: epochs and
fencing tokens that only rise, and results of the latest attempt only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from openagents_json.amounts import inside
from openagents_json.clock import as_microseconds
from openagents_json.errors import StoreError
from openagents_json.job.events import Event, unknown_keys
from openagents_json.job.machine import JobState, encode_snapshot, fold
from openagents_json.job.machine.state import decode_snapshot
from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store import JobRow, JobStore, row_of
from openagents_json.job.store.deadlines import Deadline
from openagents_json.job.store.query import build_query, encode_cursor
from openagents_json.job.store.shares import Share
from openagents_json.jsondata import decode, encode
from openagents_json.workflow import Plan, build_plan, stored_workflow

FINAL_EVENTS = {"job.completed": "COMPLETED", "job.failed": "FAILED", "job.cancelled": "CANCELLED"}
STARTED, COMPLETED = "attempt.started", "step.completed"
ATTEMPT_ENDS = (COMPLETED, "attempt.failed", "attempt.cancelled", "attempt.lost", "step.in_doubt")


@dataclass(frozen=True)
class Effect:
    """One line of an effect log: written and synced by a component before it returns."""

    job_id: str
    path: str
    attempt: int
    key: str
    token: int
    output: Any


@dataclass(frozen=True)
class Record:
    """A job as it was read back."""

    summary: JobSummary
    events: Sequence[Event]
    state: JobState

    @property
    def id(self) -> str:
        return self.summary.id


@dataclass
class Evidence:
    """All that a fault test knows at its end."""

    records: Sequence[Record]
    accepted: set[str] = field(default_factory=set)
    effects: Sequence[Effect] = ()
    faults: int = 0
    concurrency: int = 1  # attempts that may be on at a time
    declared_retries: int = 0
    prefixes: Mapping[str, Sequence[Event]] = field(default_factory=dict)  # histories as they were read earlier
    finals: Mapping[str, str] = field(default_factory=dict)  # final statuses that a reader saw earlier
    is_quiet: bool = True  # nothing runs any more: every job must be final


def violations(evidence: Evidence) -> list[str]:
    """What is wrong, as sentences that begin with the law."""
    found: list[str] = []
    for record in evidence.records:
        found += history_violations(record.id, record.events)
        found += row_violations(record)
    found += _accepted_are_there(evidence)
    if evidence.is_quiet:
        found += _all_final(evidence.records)
    if evidence.effects:
        found += _completions_have_effects(evidence)
        found += _effects_repeat_only_for_cause(evidence)
        found += _effects_were_announced(evidence)
    found += _prefixes_stay(evidence)
    found += _finals_stay(evidence)
    return found


def fault_violations(evidence: Evidence) -> list[str]:
    """The violations, of a test that injects faults: it is red too when it injected nothing, or lacks evidence for a
    law and so could not have seen it broken."""
    given = {
        "faults": evidence.faults,
        "accepted ids": evidence.accepted,
        "records": evidence.records,
        "effects": evidence.effects,
        "prefixes": evidence.prefixes,
        "final statuses": evidence.finals,
    }
    return [f"K: there are no {name}; nothing is proven" for name, what in given.items() if not what] + violations(
        evidence
    )


def history_violations(job_id: str, events: Sequence[Event]) -> list[str]:
    """I3, I6, I7, I8 and I10 of one history, and that its events are what the table of events says."""
    laws = (
        _one_completion,
        _one_key,
        _rising_epochs,
        _latest_attempt_only,
        _numbered,
        _nothing_starts_at_rest,
        _as_documented,
    )
    return [f"{sentence} (job {job_id})" for law in laws for sentence in law(events)]


def row_violations(record: Record) -> list[str]:
    """The row is the projection of the fold, and a snapshot taken anywhere leads to the same fold."""
    expected = row_of(record.state)
    found = _row_of_summary(record.summary, expected)
    if found == expected:
        return []
    return [f"row: job {record.id} has the row {found} and its history gives {expected}"]


# ── of one history ────────────────────────────────────────────────────────────────────────────────────────────────


def _one_completion(events: Sequence[Event]) -> Iterator[str]:
    counts = Counter(event.data["path"] for event in events if event.type == COMPLETED)
    yield from (f"I3: {path} was completed {count} times" for path, count in counts.items() if count > 1)
    done: set[str] = set()
    for event in events:
        if event.type == COMPLETED:
            done.add(event.data["path"])
        elif event.type == STARTED and event.data["path"] in done:
            yield f"I3: event {event.number} starts {event.data['path']}, which was completed"


def _one_key(events: Sequence[Event]) -> Iterator[str]:
    keys: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.type == STARTED:
            keys[event.data["path"]].add(event.data["key"])
    yield from (f"I6: the attempts of {path} have the keys {found}" for path, found in keys.items() if len(found) > 1)
    tokens = [event.number for event in events if event.type == STARTED]
    if tokens != sorted(set(tokens)):
        yield f"I6: the fencing tokens do not rise: {tokens}"


def _rising_epochs(events: Sequence[Event]) -> Iterator[str]:
    epochs = [event.data["epoch"] for event in events if event.type in ("job.started", "job.continued")]
    if epochs != sorted(set(epochs)):
        yield f"I7: the epochs do not rise: {epochs}"


def _latest_attempt_only(events: Sequence[Event]) -> Iterator[str]:
    """An attempt's end belongs to the attempt that is on: none is taken from one that ended or was lost."""
    on: dict[str, int] = {}
    for event in events:
        path, attempt = event.data.get("path"), event.data.get("attempt")
        if event.type == STARTED:
            if path in on:
                yield f"I7: event {event.number} starts {path} while its attempt {on[path]} is on"
            on[str(path)] = int(attempt or 0)
        elif attempt is not None and event.type in ATTEMPT_ENDS and on.pop(str(path), None) != attempt:
            yield f"I7: event {event.number} ({event.type}) is of attempt {attempt} of {path}, which is not on"


def _numbered(events: Sequence[Event]) -> Iterator[str]:
    if [event.number for event in events] != list(range(1, len(events) + 1)):
        yield f"I8: the numbers are {[event.number for event in events]}"
    for event in events[:-1]:
        if event.type in FINAL_EVENTS:
            yield f"I8: {event.type} is event {event.number} of {len(events)}"


def _nothing_starts_at_rest(events: Sequence[Event]) -> Iterator[str]:
    at_rest = ""
    for event in events:
        if event.type in FINAL_EVENTS or event.type == "job.paused":
            at_rest = event.type
        elif event.type == "job.queued":
            at_rest = ""
        elif event.type == STARTED and at_rest:
            yield f"I10: {event.data['path']} started after {at_rest}"


def _as_documented(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        if keys := unknown_keys(event):
            yield f"table: event {event.number}, {event.type}, has or lacks {sorted(keys)}, unlike its table"


# ── of a whole test ───────────────────────────────────────────────────────────────────────────────────────────────


def _accepted_are_there(evidence: Evidence) -> Iterator[str]:
    counts = Counter(record.id for record in evidence.records)
    yield from (f"I1: the accepted job {job_id} is gone" for job_id in evidence.accepted - set(counts))
    yield from (f"I1: job {job_id} is there {count} times" for job_id, count in counts.items() if count > 1)


def _all_final(records: Iterable[Record]) -> Iterator[str]:
    yield from (f"I2: job {one.id} is {one.summary.status}" for one in records if not one.summary.status.is_final)


def _completions_have_effects(evidence: Evidence) -> Iterator[str]:
    returned = {(effect.job_id, effect.path, effect.attempt): effect for effect in evidence.effects}
    for record in evidence.records:
        started = {
            (event.data["path"], event.data["attempt"]): event for event in record.events if event.type == STARTED
        }
        for event in record.events:
            if event.type != COMPLETED or event.data.get("attempt") is None:
                continue
            path, attempt = event.data["path"], event.data["attempt"]
            effect, start = returned.get((record.id, path, attempt)), started.get((path, attempt))
            if effect is None or start is None:
                yield f"I4: the completion of {path} in job {record.id} has no effect or no start"
            elif effect.output != event.data.get("output"):
                yield f"I4: {path} is recorded with {event.data.get('output')!r} and returned {effect.output!r}"
            elif (effect.key, effect.token) != (start.data["key"], start.number):
                yield f"I4: {path} was called with key {effect.key} and token {effect.token}, recorded otherwise"


def _effects_repeat_only_for_cause(evidence: Evidence) -> Iterator[str]:
    counts = Counter((effect.job_id, effect.path) for effect in evidence.effects)
    repeated = sum(count - 1 for count in counts.values())
    allowed = evidence.faults * evidence.concurrency + evidence.declared_retries
    if repeated > allowed:
        yield f"I5: {repeated} effects were repeated; {evidence.faults} faults explain at most {allowed}"


def _effects_were_announced(evidence: Evidence) -> Iterator[str]:
    """A call is recorded before it is made, with its key and token: whatever a component saw stands in the history."""
    tokens: dict[tuple[str, str], list[int]] = defaultdict(list)
    starts = {
        (record.id, event.number): event for record in evidence.records for event in record.events
        if event.type == STARTED
    }  # fmt: skip
    for effect in evidence.effects:
        start = starts.get((effect.job_id, effect.token))
        said = start and (start.data["path"], start.data["attempt"], start.data["key"])
        if said != (effect.path, effect.attempt, effect.key):
            yield f"I6: {effect.path} of job {effect.job_id} was called with token {effect.token}, recorded as {said}"
        tokens[effect.job_id, effect.path].append(effect.token)
    for (job_id, path), seen in tokens.items():
        if seen != sorted(set(seen)):
            yield f"I6: {path} of job {job_id} was called with the tokens {seen}"


def _prefixes_stay(evidence: Evidence) -> Iterator[str]:
    now = {record.id: record.events for record in evidence.records}
    for job_id, prefix in evidence.prefixes.items():
        if list(now.get(job_id, ()))[: len(prefix)] != list(prefix):
            yield f"I9: the first {len(prefix)} events of job {job_id} have changed"


def _finals_stay(evidence: Evidence) -> Iterator[str]:
    now = {record.id: str(record.summary.status) for record in evidence.records}
    for job_id, status in evidence.finals.items():
        if now.get(job_id) != status:
            yield f"I11: job {job_id} was {status} and is {now.get(job_id)}"
    for record in evidence.records:
        last = FINAL_EVENTS.get(record.events[-1].type)
        if last is not None and last != record.summary.status:
            yield f"I11: job {record.id} ends with {last} and its row says {record.summary.status}"


# ── reading a store ───────────────────────────────────────────────────────────────────────────────────────────────


async def read_records(store: JobStore) -> list[Record]:
    """Every job of an open store, its history folded from the first event."""
    plans: dict[str, Plan] = {}
    records: list[Record] = []
    for summary in await _summaries(store):
        stored = await store.read(summary.id)
        assert stored is not None
        if stored.definition_hash not in plans:
            document = await store.read_definition(stored.definition_hash)
            assert document is not None, "a definition is gone"
            plans[stored.definition_hash] = build_plan(stored_workflow(decode(document)))
        plan = plans[stored.definition_hash]
        events: list[Event] = []
        while page := await store.read_events(summary.id, len(events)):
            events += page
        state = fold(plan, events)
        if stored.snapshot is not None:
            try:
                from_snapshot = fold(plan, stored.events, decode_snapshot(stored.snapshot, plan))
            except StoreError as error:
                raise AssertionError(f"the snapshot of job {summary.id} does not fit its history") from error
            assert encode_snapshot(from_snapshot) == encode_snapshot(state), "the snapshot tells another story"
        records.append(Record(stored.summary, events, state))
    return records


async def check_store(store: JobStore) -> list[str]:
    """The laws that hold for every store at any time: of each history, and of its row."""
    records = await read_records(store)
    return violations(Evidence(records, is_quiet=False))


async def _summaries(store: JobStore) -> list[JobSummary]:
    found: list[JobSummary] = []
    cursor: str | None = None
    while True:
        page = await store.list_jobs(build_query(order="created_at", limit=1_000, cursor=cursor))
        found += [one.summary for one in page]
        if len(page) < 1_000:
            return found
        cursor = encode_cursor("created_at", *page[-1].position)


def _row_of_summary(summary: JobSummary, like: JobRow) -> JobRow:
    """The row behind a summary. The due time is shown only where it has a meaning; elsewhere `like` has it."""
    due = summary.start_at if summary.status == JobStatus.CREATED else summary.wake_at
    shows_due = summary.status in (JobStatus.CREATED, JobStatus.WAITING)
    return JobRow(
        status=summary.status,
        rank=summary.priority.rank,
        last_event=summary.events,
        started_us=None if summary.started_at is None else as_microseconds(summary.started_at),
        completed_us=None if summary.completed_at is None else as_microseconds(summary.completed_at),
        due_us=(None if due is None else as_microseconds(due)) if shows_due else like.due_us,
        progress=summary.progress,
        current_step=summary.current_step,
        error_type=summary.error_type,
        error_message=summary.error_message,
        pause_requested=summary.pause_requested,
        cancel_requested=summary.cancel_requested,
        requires=summary.requires,
        deaths=like.deaths,
        spending=_spending_of(summary),
        share=None if summary.share is None else replace(like.share or Share("", 0), key=summary.share),
        deadline=_deadline_of_summary(summary, like),
    )


def _spending_of(summary: JobSummary) -> str | None:
    if not summary.budget and not summary.spent:
        return None
    return encode({"budget": inside(summary.budget), "spent": inside(summary.spent)}).decode()


def _deadline_of_summary(summary: JobSummary, like: JobRow) -> Deadline | None:
    if summary.deadline is None:
        return None
    known = like.deadline or Deadline(0)
    return replace(known, at_us=as_microseconds(summary.deadline), is_at_risk=summary.at_risk)
