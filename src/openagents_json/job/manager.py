"""JobManager: every verb on jobs, for programs. Each verb returns when it is durable, not when it is effective."""

from __future__ import annotations

import hashlib
import os
import secrets as randomness
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from openagents_json.clock import Clock, SystemClock, as_datetime, as_microseconds
from openagents_json.components import ComponentRegistry, register_builtins
from openagents_json.errors import (
    AmbiguousJobId,
    InvalidInputs,
    InvalidTransition,
    JobNotFound,
    LeaseLost,
    Problem,
    ResultsNotReady,
    StoreError,
    WaitTimeout,
)
from openagents_json.ids import SHORT_LENGTH, uuid7
from openagents_json.job import machine
from openagents_json.job.bus import Bus, Listener, Subscription
from openagents_json.job.engine import Plans, Settler, Worker
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, Verb, allowed_verbs, is_repeated
from openagents_json.job.model import Job, JobPriority, JobStatus, JobSummary, Page
from openagents_json.job.store import Definition, JobStore, NewJob, Request, StoredJob, make_store, row_of
from openagents_json.job.store.query import build_query, encode_cursor
from openagents_json.job.views import job_of, status_of
from openagents_json.jsondata import NotJson, encode, plain
from openagents_json.settings import Settings, load_settings
from openagents_json.workflow import EnvironmentSecrets, InputSchema, SecretProvider, Workflow, WorkflowRegistry
from openagents_json.workflow.graph import Plan

ASK_TRIES = 20  # a request that meets a job in the middle of a hand-over looks again so often
EVENT_PAGE = 1_000
METADATA_BYTES = 64 * 1024
MAX_TAGS = 32
TAG_CHARACTERS = 200
REASON_CHARACTERS = 2_000
KEY_CHARACTERS = 200


class _Made:
    """What `create_job` needs of a workflow, worked out once per content."""

    __slots__ = ("definition", "inputs", "plan")

    def __init__(self, workflow: Workflow, plan: Plan) -> None:
        self.plan = plan
        self.inputs = InputSchema(workflow.inputs)
        self.definition = Definition(workflow.content_hash, workflow.id, workflow.version, workflow.encoded)


class JobManager:
    """Creates, runs and controls jobs.

    ```
    async with JobManager(store_type="memory") as jobs: ...
    ```

    `store_type` is memory (default), database, a URL such as `sqlite:///jobs.db`, or a `JobStore`; `path` is the file
    of a database. `worker=False` makes a manager that runs no jobs itself. Other keywords are settings, see
    `openagents_json.settings.Settings`. Async only, and for one event loop.
    """

    def __init__(
        self,
        store_type: str | JobStore | None = None,
        *,
        path: str | Path | None = None,
        components: ComponentRegistry | None = None,
        workflows: WorkflowRegistry | None = None,
        secrets: SecretProvider | None = None,
        clock: Clock | None = None,
        settings: Settings | None = None,
        worker: bool = True,
        **changes: Any,
    ) -> None:
        self.settings = settings if settings is not None and not changes else load_settings(**changes)
        self.clock = clock or SystemClock()
        if components is None:
            components = ComponentRegistry()
            register_builtins(components)
        self.components = components
        self.workflows = workflows if workflows is not None else WorkflowRegistry(components)
        self.store = make_store(
            store_type or self.settings.job_store_type or "memory",
            path or self.settings.job_store_path,
            self.clock,
            self.settings.lease_s,
        )
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{randomness.token_hex(4)}"
        self._bus = Bus()
        self._plans = Plans(self.store)
        self._settler = Settler(self.store, self._plans, self._bus, self.clock)
        self._worker = Worker(
            self.worker_id,
            self.store,
            self.components,
            self._plans,
            self._settler,
            self._bus,
            self.clock,
            self.settings,
            secrets or EnvironmentSecrets(),
            claims=worker,
        )
        self._made: dict[str, _Made] = {}
        self._is_open = False

    # ── open and close ────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the store, take over jobs that a dead process left, and begin to work."""
        if self._is_open:
            return
        await self.store.open()
        self._is_open = True
        try:
            await self._worker.start()
        except BaseException:
            await self.store.close()
            self._is_open = False
            raise

    async def close(self, timeout_s: float | None = None) -> None:
        """Stop: running attempts get `timeout_s` (default `stop_timeout_s`) to end, then they are told to. Jobs that
        are not finished go back to the queue, and the next start goes on with them."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            await self._worker.stop(self.settings.stop_timeout_s if timeout_s is None else timeout_s)
            await self._bus.close()
        finally:
            await self.store.close()

    # ── create and delete ─────────────────────────────────────────────────────────────────────────────────────────

    async def create_job(
        self,
        workflow_id: str,
        inputs: Mapping[str, Any] | None = None,
        priority: str | JobPriority | None = None,
        *,
        version: str | None = None,
        idempotency_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        start: bool = False,
        start_at: datetime | None = None,
    ) -> str:
        """Accept a job and return its id; it survives from then on whatever happens.

        `priority` defaults to the workflow's, else MEDIUM. `start_at` (aware) starts it by itself. With an
        `idempotency_key` the same call again returns the same job. `WorkflowNotFound`, `InvalidInputs` (all problems),
        `IdempotencyConflict` (the key with another body), `StoreUnavailable` (not accepted).
        """
        workflow = self.workflows.get(workflow_id, version)
        made = self._made_of(workflow)
        values = made.inputs.validate(dict(inputs or {}))
        now_us = self.clock.now_us()
        state, events = machine.create(
            made.plan,
            uuid7(now_us),
            values,
            now_us=now_us,
            priority=_priority(priority or workflow.priority or JobPriority.MEDIUM),
            metadata=_metadata(workflow, metadata),
            tags=_tags(tags),
            start_at_us=None if start or start_at is None else as_microseconds(start_at),
            idempotency_key=_key(idempotency_key),
            start=start,
        )
        body_hash = _body_hash(workflow, values) if idempotency_key is not None else ""
        new = NewJob(
            state.job_id,
            made.definition,
            row_of(state),
            events,
            now_us,
            state.tags,
            idempotency_key,
            body_hash,
        )
        job_id = await self.store.create(new)
        if job_id == state.job_id:
            self._bus.publish(state, events)
        if start:
            self._worker.queue_changed()
        elif start_at is not None:
            self._worker.due_changed()
        return job_id

    async def delete_job(self, job_id: str) -> None:
        """Delete a final or never started job and all that belongs to it. `InvalidTransition` for any other."""
        if await self.store.delete(job_id):
            self._bus.gone(job_id)
            return
        summary = await self._summary(job_id)
        raise InvalidTransition(job_id, "delete", summary.status, allowed_verbs(summary.status), "cancel it first")

    async def cleanup_old_jobs(self, days: float = 7) -> int:
        """Delete jobs that became final more than `days` ago; how many. In batches that hold nothing up."""
        if not days >= 0:
            raise ValueError(f"days must be 0 or more, not {days!r}")
        return await self._worker.delete_final(days)

    # ── control ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start_job(self, job_id: str, *, by: str | None = None, reason: str | None = None) -> None:
        """Queue a CREATED job."""
        await self._ask(job_id, "start", by, reason)

    async def pause_job(self, job_id: str, *, by: str | None = None, reason: str | None = None) -> None:
        """Ask for a pause: running attempts end and are recorded, no new one starts, then the job is PAUSED."""
        await self._ask(job_id, "pause", by, reason)

    async def resume_job(self, job_id: str, *, by: str | None = None, reason: str | None = None) -> None:
        """Let a paused job go on, or withdraw a pause that is not effective yet."""
        await self._ask(job_id, "resume", by, reason)

    async def cancel_job(
        self, job_id: str, force: bool = False, *, by: str | None = None, reason: str | None = None
    ) -> None:
        """Ask to cancel: running attempts are told to stop and get `cancel_grace_s`, then `finally` steps run.
        With `force` there is next to no grace and `finally` is skipped."""
        await self._ask(job_id, "cancel", by, reason, {"force": bool(force)})

    async def set_priority(
        self, job_id: str, priority: str | JobPriority, *, by: str | None = None, reason: str | None = None
    ) -> None:
        """Change the priority; a queued job moves to its new place at once."""
        await self._ask(job_id, "set_priority", by, reason, {"priority": str(_priority(priority))})

    async def _ask(
        self, job_id: str, verb: Verb, by: str | None, reason: str | None, payload: dict[str, Any] | None = None
    ) -> None:
        """Put a request into the job's inbox. If nobody holds the job, carry it out here and now."""
        if reason is not None and len(reason) > REASON_CHARACTERS:
            raise ValueError(f"The reason has {len(reason)} characters; {REASON_CHARACTERS} are allowed.")
        await self._refuse_early(job_id, verb)
        now_us = self.clock.now_us()
        request = Request(f"{verb}:{uuid7(now_us)}", verb, by, reason, now_us, payload or {})
        for _ in range(ASK_TRIES):
            held = await self.store.hold(job_id, self.worker_id, request)
            if held is None:
                raise JobNotFound(job_id)
            if held.claim is not None:
                try:
                    _, decision = await self._settler.settle(held.claim)
                except LeaseLost:
                    continue  # another request came at the same moment: look again
                for refused, error in decision.refused:
                    if refused.sequence == max(one.sequence for one in held.claim.requests):
                        raise error
                self._worker.queue_changed()
                self._worker.due_changed()
                return
            if held.owner is None:
                await self._refuse_early(job_id, verb)  # it became final meanwhile
                return
            if held.owner == self.worker_id:
                self._worker.inbox_changed(job_id)
            return
        raise StoreError(f"Job {job_id} changed hands {ASK_TRIES} times while it was asked to {verb}. Try again.")

    async def _refuse_early(self, job_id: str, verb: Verb) -> None:
        """`InvalidTransition` for what is plainly not allowed, judged by what is shown: the row and the inbox."""
        summary = await self._summary(job_id)
        status, paused = summary.status, summary.pause_requested
        if not status.is_final:
            for request in await self.store.read_requests(job_id):
                paused = {"pause": True, "resume": False}.get(request.kind, paused)
        if is_repeated(verb, status, paused) or verb in allowed_verbs(status, paused):
            return
        raise InvalidTransition(job_id, verb.replace("_", " "), status, allowed_verbs(status, paused))

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def get_job(self, job_id: str) -> Job:
        """A frozen copy of the whole job."""
        stored, state = await self._load(job_id)
        return job_of(state, stored.summary.abandoned)

    async def get_job_status(self, job_id: str) -> dict[str, Any]:
        """The detailed status: {"status", "display_status", "progress", "current_step", "steps", "waiting_for",
        "requests", "abandoned", "errors", …}. Times are aware datetimes."""
        stored, state = await self._load(job_id)
        return status_of(state, stored.summary, stored.requests)

    async def get_job_results(self, job_id: str) -> dict[str, Any]:
        """The outputs of a COMPLETED job; `ResultsNotReady` says why there are none."""
        _, state = await self._load(job_id)
        if state.status == JobStatus.COMPLETED:
            return state.outputs
        detail = "It may still get them; use wait()." if not state.is_final else ""
        if state.errors:
            detail = f"{state.errors[0]['type']}: {state.errors[0]['message']}"
        raise ResultsNotReady(job_id, state.status, detail)

    async def get_summary(self, job_id: str) -> JobSummary:
        """The job's row alone: cheap."""
        return await self._summary(job_id)

    async def list_jobs(
        self,
        filters: Mapping[str, Any] | None = None,
        *,
        order: str = "-created_at",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """One page of jobs, newest first unless `order` says otherwise.

        Filters: any column of `JobSummary` with one value or a list (`{"status": ["RUNNING", "QUEUED"]}`), times with
        `{"created_at": {"after": t, "before": t}}`, `tags` (all of them), `error` (part of the error's type or
        message). `InvalidQuery` names what is not understood.
        """
        listed = await self.store.list_jobs(build_query(filters, order=order, limit=limit, cursor=cursor))
        following = encode_cursor(order, *listed[-1].position) if len(listed) == limit else None
        return Page(tuple(one.summary for one in listed), following)

    async def find_job(self, text: str) -> str:
        """The full id for what people type: an id, its beginning or its last characters, or `workflow/short-id`.
        `JobNotFound` or `AmbiguousJobId`."""
        ending = text.strip().rsplit("/", 1)[-1]
        if len(ending) < 4:
            raise (
                JobNotFound(text) if not ending else AmbiguousJobId(text, [f"at least 4 of {SHORT_LENGTH} characters"])
            )
        found = await self.store.find_ids(ending)
        if not found:
            raise JobNotFound(text)
        if len(found) > 1:
            raise AmbiguousJobId(text, found)
        return found[0]

    async def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Return the job when it is final. `WaitTimeout` after `timeout_s` seconds; the job goes on."""
        with self._bus.reading(job_id, final_only=True) as changed:
            timer = None
            timed_out = False

            def expire() -> None:
                nonlocal timed_out
                timed_out = True
                changed.set()

            if timeout_s is not None:
                timer = self.clock.call_later(timeout_s, expire)
            try:
                while True:
                    state = self._bus.recent_final(job_id)
                    if state is not None:
                        return job_of(state)
                    if not self._bus.is_alive(job_id):
                        summary = await self._summary(job_id)
                        if summary.status.is_final:
                            return await self.get_job(job_id)
                    if timed_out:
                        raise WaitTimeout(f"Job {job_id} was not final after {timeout_s} s.", job_id=job_id)
                    await changed.wait()
                    changed.clear()
            finally:
                if timer is not None:
                    timer.cancel()

    async def watch(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Each event above number `after` once, in order, as it is committed; ends after the final one.

        A reader that comes back with its last number misses nothing. Slow readers hold nobody up: they read the
        history at their own pace.
        """
        await self._summary(job_id)
        with self._bus.reading(job_id) as changed:
            while True:
                changed.clear()
                events = await self.store.read_events(job_id, after, EVENT_PAGE)
                for event in events:
                    yield event
                    after = event.number
                if len(events) == EVENT_PAGE:
                    continue
                summary = await self.store.read_summary(job_id)
                if summary is None or (summary.status.is_final and summary.events <= after):
                    return
                if summary.events <= after:
                    await changed.wait()

    def on(self, type: str, callback: Listener) -> Subscription:
        """Call `callback(job_id, event)` after the commit of each event of that type that this process records.

        `job.completed` takes one type, `job.*` all below, `*` everything; `step.progress` (never recorded) tells what
        components report. Sync or async; its errors are logged and hurt nothing. One that is 10,000 events behind is
        dropped.
        """
        return self._bus.subscribe(type, callback)

    async def health(self) -> dict[str, Any]:
        """{"status": "ok" | "degraded", "running_jobs", "steps", "threads", "abandoned_threads", "store_error", …}."""
        slots, error = self._worker.slots, self._worker.store_error
        return {
            "status": "degraded" if error is not None or slots.abandoned else "ok",
            "worker": self.worker_id,
            "running_jobs": len(self._worker.runners),
            "max_jobs": self.settings.max_jobs,
            "steps": slots.steps_used,
            "max_steps": self.settings.max_steps,
            "threads": slots.threads_used,
            "max_threads": self.settings.max_threads,
            "abandoned_threads": slots.abandoned,
            "store_error": None if error is None else str(error),
            "store": self.store.stats(),
            "at": as_datetime(self.clock.now_us()),
        }

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _made_of(self, workflow: Workflow) -> _Made:
        made = self._made.get(workflow.content_hash)
        if made is None:
            made = self._made[workflow.content_hash] = _Made(workflow, self.workflows.plan(workflow))
            self._plans.add(made.plan)
        return made

    async def _summary(self, job_id: str) -> JobSummary:
        summary = await self.store.read_summary(job_id)
        if summary is None:
            raise JobNotFound(job_id)
        return summary

    async def _load(self, job_id: str) -> tuple[StoredJob, JobState]:
        stored = await self.store.read(job_id)
        if stored is None:
            raise JobNotFound(job_id)
        plan = await self._plans.get(stored.definition_hash)
        return stored, self._plans.fold(plan, stored.snapshot, stored.events)


def _priority(priority: str | JobPriority) -> JobPriority:
    try:
        return JobPriority(str(priority).upper())
    except ValueError:
        raise InvalidInputs(
            [Problem("$.priority", f"{priority!r} is no priority.", f"Use {', '.join(JobPriority)}.")], "the job"
        ) from None


def _metadata(workflow: Workflow, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The workflow's metadata, and over it the job's own."""
    if not workflow.metadata and not given:
        return {}
    try:
        metadata, _ = plain({**workflow.metadata, **(given or {})}, limit_bytes=METADATA_BYTES)
    except NotJson as error:
        raise InvalidInputs([Problem(error.path.replace("$", "$.metadata", 1), str(error))], "the metadata") from None
    return metadata  # type: ignore[no-any-return]


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    given = (tags,) if isinstance(tags, str) else tuple(dict.fromkeys(tags))
    if len(given) > MAX_TAGS or any(not isinstance(tag, str) or not 0 < len(tag) <= TAG_CHARACTERS for tag in given):
        message = f"At most {MAX_TAGS} tags of 1 to {TAG_CHARACTERS} characters are allowed."
        raise InvalidInputs([Problem("$.tags", message)], "the job")
    return given


def _key(key: str | None) -> str | None:
    if key is not None and not 0 < len(key) <= KEY_CHARACTERS:
        message = f"An idempotency key has 1 to {KEY_CHARACTERS} characters."
        raise InvalidInputs([Problem("$.idempotency_key", message)], "the job")
    return key


def _body_hash(workflow: Workflow, inputs: dict[str, Any]) -> str:
    """What must be the same when an idempotency key is used again: the workflow and the inputs after defaults."""
    body = encode([workflow.content_hash, _ordered(inputs)])
    return hashlib.sha256(body).hexdigest()


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value
