"""JobManager: every verb on jobs, for programs. Each verb returns when it is durable, not when it is effective."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets as randomness
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Literal, Self

from openagents_json.clock import Clock, SystemClock, as_microseconds
from openagents_json.components import ComponentRegistry, register_builtins
from openagents_json.errors import (
    AmbiguousJobId,
    InvalidInputs,
    InvalidTransition,
    JobNotFound,
    LeakNotFound,
    LeaseLost,
    ResultsNotReady,
    StoreUnavailable,
    WaitTimeout,
)
from openagents_json.ids import SHORT_LENGTH
from openagents_json.job.arguments import (
    REASON_CHARACTERS,
    aging_of,
    budget_of,
    check_count,
    check_pausable,
    check_reason,
    key_of,
    metadata_of,
    more_budget,
    payload_of,
    placed,
    priority_of,
    share_of,
    tags_of,
    weight_of,
)
from openagents_json.job.bus import Bus, Listener, Subscription
from openagents_json.job.engine import (
    Asker,
    Expectations,
    JobIsThere,
    JobMaker,
    KnownStates,
    Leases,
    Plans,
    Settler,
    Worker,
    make_retry,
    release_leak,
)
from openagents_json.job.events import Event
from openagents_json.job.explaining import Explanation, explain_job
from openagents_json.job.health import health_of
from openagents_json.job.machine import JobState, Verb, allowed_verbs
from openagents_json.job.model import Job, JobPriority, JobStatus, JobSummary, OutputText, Page, WorkerSummary
from openagents_json.job.moving import Exported, Imported, export_jobs, import_jobs
from openagents_json.job.reading import JobReader
from openagents_json.job.store import JobStore, NewJob, StoredJob, StoredLeak, make_store
from openagents_json.job.store.choosing import chosen
from openagents_json.job.store.grants import Blocked
from openagents_json.job.store.pauses import Pause, PauseKind
from openagents_json.job.store.query import MAX_LIMIT, build_query, encode_cursor
from openagents_json.job.store.shares import StoredShare
from openagents_json.job.views import job_of, output_of, status_of, worker_of
from openagents_json.settings import Settings, load_settings
from openagents_json.workflow import EnvironmentSecrets, SecretProvider, Workflow, WorkflowRegistry
from openagents_json.workflow.plan import signal_problems

EVENT_PAGE = 1_000
MADE_AT_ONCE = 100  # of many new jobs, in one turn of the event loop
_UNSAID: Any = object()  # no output was given: None is one


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
        self._bus = Bus(self.clock)
        self._plans = Plans(self.store)
        self._states = KnownStates()
        self._reader = JobReader(self.store, self._plans, self._states)
        self._settler = Settler(self.store, Leases(self.store, self.worker_id), self._plans, self.clock)
        self._expectations = Expectations(self.store, self.clock)
        self._maker = JobMaker(self.workflows, self._plans, self._expectations, self.clock)
        self._worker = Worker(
            self.worker_id,
            self.store,
            self.components,
            self._plans,
            self._states,
            self._maker,
            self._settler,
            self._bus,
            self.clock,
            self.settings,
            secrets or EnvironmentSecrets(),
            claims=worker,
        )
        self._asker = Asker(self.store, self._worker, self._settler, self.clock)
        self._is_open = False
        self._was_closed = False

    @property
    def resources(self) -> Mapping[str, float]:
        """What the worker has of each resource, by name: what it was given, and `cpu` (cores), `memory_mb`, `steps`,
        `threads` and `processes` in any case."""
        return MappingProxyType(self._worker.capacities)

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
        if self._was_closed:
            raise RuntimeError("A JobManager is opened once; make a new one on the same store.")
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
        self._is_open, self._was_closed = False, True
        try:
            await self._worker.stop(self.settings.stop_timeout_s if timeout_s is None else timeout_s)
            await self._bus.close()
        finally:
            self._worker.stop_capture()
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
        budget: Mapping[str, Any] | None = None,
        start: bool = False,
        start_at: datetime | None = None,
        share_key: str | None = None,
        deadline: datetime | None = None,
    ) -> str:
        """Accept a job and return its id; it survives from then on whatever happens.

        `priority` defaults to the workflow's, else MEDIUM. `start_at` (aware) starts it by itself. `budget`
        ({"seconds", "tokens", "cost"}) comes over the workflow's, each by itself; None is no limit. Jobs with the same
        `share_key` (default: what the workflow says) get one fair share of the work, see `set_share`. A job with a
        `deadline` (aware) comes forward in the queue in time; `job.deadline_at_risk` says that it may be
        late. With an `idempotency_key` the same call again returns the same job.
        `WorkflowNotFound`, `InvalidInputs` (all problems), `IdempotencyConflict` (the key with another body),
        `LimitReached` (with `start`, and `concurrency` of the workflow refuses it), `StoreUnavailable` (not accepted).
        """
        workflow = self.workflows.get(workflow_id, version)
        await self._expect(workflow, share_key, deadline)
        new, state = self._maker.make(
            workflow,
            dict(inputs or {}),
            priority=priority_of(priority or workflow.priority or JobPriority.MEDIUM),
            metadata=metadata_of(workflow, metadata),
            tags=tags_of(tags),
            start_at_us=None if start or start_at is None else as_microseconds(start_at),
            idempotency_key=key_of(idempotency_key),
            budget=budget_of(budget),
            start=start,
            share=share_of(share_key),
            deadline_us=None if deadline is None else as_microseconds(deadline),
        )
        return await self._accept(new, state)

    async def create_jobs(
        self,
        workflow_id: str,
        inputs: Sequence[Mapping[str, Any]],
        priority: str | JobPriority | None = None,
        *,
        version: str | None = None,
        idempotency_keys: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        budget: Mapping[str, Any] | None = None,
        start: bool = False,
        share_key: str | None = None,
        deadline: datetime | None = None,
    ) -> list[str]:
        """Accept a job for each of the inputs (at most `MAX_CREATED_AT_ONCE`) in one transaction, all or none; their
        ids, in order. The rest as in `create_job`: `idempotency_keys` has one key for each, and problems of inputs have
        the place of their job in front: `$[3].name`.
        """
        check_count(inputs, idempotency_keys)
        workflow = self.workflows.get(workflow_id, version)
        rank = priority_of(priority or workflow.priority or JobPriority.MEDIUM)
        about, tags, spendable = metadata_of(workflow, metadata), tags_of(tags), budget_of(budget)
        share = share_of(share_key)
        deadline_us = None if deadline is None else as_microseconds(deadline)
        await self._expect(workflow, share, deadline)
        made: list[tuple[NewJob, JobState]] = []
        for place, given in enumerate(inputs):
            key = key_of(idempotency_keys[place]) if idempotency_keys is not None else None
            with placed(place):
                made.append(
                    self._maker.make(
                        workflow,
                        dict(given),
                        priority=rank,
                        metadata=about,
                        tags=tags,
                        idempotency_key=key,
                        budget=spendable,
                        start=start,
                        share=share,
                        deadline_us=deadline_us,
                    )
                )
            if place % MADE_AT_ONCE == 0:
                await asyncio.sleep(0)  # others have their turn
        ids = await self.store.create_all([new for new, _ in made])
        self._set_going(ids, made)
        return ids

    async def retry_job(
        self,
        job_id: str,
        from_step: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        *,
        by: str | None = None,
        reason: str | None = None,
        priority: str | JobPriority | None = None,
        idempotency_key: str | None = None,
        budget: Mapping[str, Any] | None = None,
        start: bool = True,
    ) -> str:
        """Make a new job from one that has ended, which takes over recorded results instead of running steps again;
        the new job's id. It has the same definition, metadata and tags, and the same priority unless another is given.

        From `from_step`, the id of a step of the definition, and all that waits for it, steps run again; the results of
        the others are taken over. Without it, what was not completed runs again, and of a COMPLETED job everything.
        The budget is that which the job had in the end, and `budget` comes over it; nothing of it is spent.
        `inputs` replace single inputs; results that were made with the old ones stay. `outputs` ({step id: value}) are
        results set by hand. `InvalidTransition` for a job that has not ended, `InvalidInputs` with every problem.
        With an `idempotency_key` the same call again returns the same job, as in `create_job`.
        """
        check_reason(reason)
        stored, origin = await self._load(job_id)
        if not origin.is_final:
            allowed = allowed_verbs(origin.status, origin.pause_requested)
            raise InvalidTransition(job_id, "retry", origin.status, allowed, "only what has ended is retried")
        if origin.share is not None:
            await self._expectations.learn_of(origin.workflow_id)
        new, state = make_retry(
            self._maker,
            origin,
            from_step,
            inputs or {},
            outputs or {},
            by=by,
            reason=reason,
            priority=priority_of(priority or stored.summary.priority),
            idempotency_key=key_of(idempotency_key),
            budget=budget_of(budget),
            start=start,
        )
        return await self._accept(new, state)

    async def _expect(self, workflow: Workflow, share_key: str | None, deadline: datetime | None) -> None:
        """Know how long jobs of a workflow take, if it matters for a new one."""
        if share_key is not None or deadline is not None or workflow.share_key is not None:
            await self._expectations.learn_of(workflow.id)

    async def _accept(self, new: NewJob, state: JobState) -> str:
        """Write a new job and set it going; its id, or that of the one that its idempotency key was used for."""
        if (first := self._worker.begin(new, state)) is not None:
            try:
                await first
                return new.job_id
            except JobIsThere:
                state = self._plans.fold(state.plan, None, new.events)  # as it was before that turn
            except LeaseLost:
                away = "The manager was closed before the store answered. Perhaps the job was accepted."
                raise StoreUnavailable(away) from None
        job_id = await self.store.create(new)
        self._set_going([job_id], [(new, state)])
        return job_id

    def _set_going(self, ids: Sequence[str], made: Sequence[tuple[NewJob, JobState]]) -> None:
        """Jobs of one workflow were accepted under these ids: tell of those that are new, and see to the queue."""
        for job_id, (new, state) in zip(ids, made, strict=True):
            if job_id == new.job_id:
                self._bus.publish(state, new.events)
        if not made:
            return
        new, state = made[0]
        if state.start_at_us is not None or state.deadline_us is not None:
            self._worker.due_changed()
        if state.status == JobStatus.QUEUED:
            self._worker.queue_changed(len(made))
            if new.limit is not None:
                self._worker.slots_changed(state)

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
        return await self._worker.housekeeping.delete_final(days)

    async def export_jobs(
        self, target: Path | BinaryIO, *, filters: Mapping[str, Any] | None = None, ids: Sequence[str] = ()
    ) -> Exported:
        """Write jobs with their children and histories to a new file or a binary stream, from which `import_jobs` of a
        manager on any store takes them: all of them, those that fit the filters of `list_jobs`, or those of these ids.

        They stay here, too: what has not ended goes on in both places unless it is paused here, or nothing runs here
        any more. `JobNotFound`, `InvalidQuery`, `FileExistsError`.
        """
        return await export_jobs(self.store, target, filters=filters, ids=ids, secrets=self._worker.secrets)

    async def import_jobs(self, source: Path | BinaryIO, *, dry_run: bool = False, drop_keys: bool = False) -> Imported:
        """Take the jobs of an export into the store; they go on here as after the death of a worker. What is there
        already is passed over, so this may be repeated. `Imported.refusals` names what was refused, and why.

        With `dry_run` nothing is written, with `drop_keys` jobs lose their idempotency keys. `InvalidExport` when
        anything is wrong with the file: then nothing was written.
        """
        done = await import_jobs(self.store, source, dry_run=dry_run, drop_keys=drop_keys)
        if done.jobs and not dry_run:
            self._worker.jobs_came()
            await self._worker.recover()
        return done

    # ── control ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start_job(self, job_id: str, *, by: str | None = None, reason: str | None = None) -> None:
        """Queue a CREATED job. `LimitReached` when `concurrency` of its workflow refuses it: it stays CREATED."""
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
        await self._ask(job_id, "set_priority", by, reason, {"priority": str(priority_of(priority))})

    async def set_priorities(
        self,
        priority: str | JobPriority,
        *,
        filters: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> int:
        """`set_priority` of many jobs, many in a transaction: of those that fit the filters of `list_jobs` ({}: all),
        or those of these ids; how many have it now, or will when their workers have heard of it. Jobs that have ended,
        and ids of none, are passed over. `InvalidQuery`."""
        if (filters is None) == (ids is None):
            raise ValueError("Say which jobs: filters=… or ids=….")
        check_reason(reason)
        self._check_open()
        payload = {"priority": str(priority_of(priority))}
        return await self._asker.ask_all(chosen(self.store, filters, ids), "set_priority", by, reason, payload)

    async def set_aging(self, aging_s: float | Literal["strict"]) -> None:
        """How many seconds a job waits in the queue to gain one level of priority, from now on, in all programs that
        use the store; the queue gets its new order at once. 0: priorities count for nothing. `strict`: a job of a
        higher priority always comes first, however long others wait."""
        await self.store.set_aging(aging_of(aging_s))

    async def add_budget(
        self,
        job_id: str,
        *,
        seconds: float | None = None,
        tokens: int | None = None,
        cost: float | Decimal | None = None,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Give a job more to spend than its `budget` says so far. One that was paused because that was spent goes on
        with `resume_job`. `InvalidTransition` for what the job has no budget of, `InvalidInputs` for no number."""
        amounts = more_budget({"seconds": seconds, "tokens": tokens, "cost": cost})
        await self._ask(job_id, "add_budget", by, reason, {"amounts": amounts})

    async def signal(
        self, job_id: str, name: str, payload: Any = None, key: str | None = None, *, by: str | None = None
    ) -> None:
        """Send a signal to a job. A `signal` step of that name takes it, now or when it comes to wait for it: signals
        are kept in the order in which they came. The same `key` again changes nothing.

        `InvalidInputs` when no step of the workflow waits for that name, or the payload fits the schema of none.
        """
        definition = self._bus.definition_of(job_id) or await self.store.read_definition_hash(job_id)
        if definition is None:
            raise JobNotFound(job_id)
        plan = await self._plans.get(definition)
        document, _ = payload_of(payload, "$")
        if problems := signal_problems(plan, name, document):
            raise InvalidInputs(problems, "the name and payload of the signal")
        await self._ask(job_id, "signal", by, None, {"name": name, "payload": document}, key=key_of(key))

    async def resolve_step(
        self,
        job_id: str,
        path: str,
        *,
        output: Any = _UNSAID,
        error: str | None = None,
        retry: bool = False,
        by: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Say what became of a step in doubt (`"effect": "once"`): it gave this `output`, it failed with this `error`
        message, or it shall be tried again (`retry=True`). Exactly one of the three. `InvalidTransition` when that
        step is not in doubt."""
        if [output is not _UNSAID, error is not None, retry].count(True) != 1:
            raise ValueError("Say exactly one of output=…, error=… and retry=True.")
        arguments: dict[str, Any] = {"path": path, "how": "retry"}
        if output is not _UNSAID:
            document, _ = payload_of(output, "$.output")
            arguments |= {"how": "output", "output": document}
        elif error is not None:
            arguments |= {"how": "error", "error": error[:REASON_CHARACTERS]}
        await self._ask(job_id, "resolve_step", by, reason, arguments)

    async def _ask(
        self, job_id: str, verb: Verb, by: str | None, reason: str | None, payload: dict[str, Any] | None = None,
        *, key: str | None = None,
    ) -> None:  # fmt: skip
        check_reason(reason)
        self._check_open()
        await self._asker.ask(job_id, verb, by, reason, payload, key=key)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("The manager is not open; use `async with` it.")

    async def set_share(self, key: str, weight: float) -> None:
        """Give the jobs of a share `weight` times as much of the work as those of a share that nothing was set for;
        from their next job on, in all workers. `ValueError` for a weight that is none."""
        share_of(key)
        await self.store.set_share(key, weight_of(weight))

    async def list_shares(self, after: str = "", limit: int = 1_000) -> list[StoredShare]:
        """The shares with keys above `after`, in order: weight, and how many microseconds of work each is ahead of
        those that are served next. Of those with a weight of 1 that are not ahead some may be missing."""
        return await self.store.list_shares(after, limit)

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def get_job(self, job_id: str) -> Job:
        """A frozen copy of the whole job."""
        stored, state = await self._load(job_id)
        return job_of(state, stored.summary.abandoned)

    async def get_job_status(self, job_id: str) -> dict[str, Any]:
        """The detailed status: {"status", "display_status", "progress", "current_step", "steps", "waiting_for",
        "requests", "abandoned", "errors", "origin", "retried_as", …}. Times are aware datetimes. Of more than
        `views.STEPS_SHOWN` steps those are shown that are on, then those that failed, then the latest; "step_counts"
        has them all, by status."""
        status = (await self._summary(job_id)).status
        retries: list[str] = []
        if status.is_final:
            query = build_query({"origin_id": job_id}, order="created_at", limit=MAX_LIMIT)
            retries = [one.summary.id for one in await self.store.list_jobs(query)]
        short = await self._worker.why_waits(job_id) if status == JobStatus.RUNNING else ()
        workers = await self.store.list_workers() if status == JobStatus.QUEUED else []
        limit = None if status.is_final or status == JobStatus.RUNNING else await self.store.read_limit(job_id)
        pauses = [] if status.is_final else await self.store.list_pauses()
        blocked = await self._blocked(job_id) if status == JobStatus.RUNNING else []
        summary, requests, state = await self._reader.read(job_id)
        return status_of(state, summary, requests, retries, workers, limit, pauses, blocked, short)

    async def explain(self, job_id: str) -> Explanation:
        """Why the job is not running: every blocker in order, with the command that would unblock it if one can,
        its place in the queue with its parts, when it will begin and on what that rests; and why it began when it
        did."""
        return await explain_job(self.store, self.clock, self.get_job_status, job_id)

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

    async def wait_final(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Return the job when it is final. `WaitTimeout` after `timeout_s` seconds; the job goes on.

        `wait` is the same by the name that programs have always used.
        """
        return await self._wait(job_id, self._if_final, timeout_s, "final", final_only=True)

    wait = wait_final

    async def wait_paused(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Return the job when it is PAUSED, whoever has asked for that or will. A pause that somebody ends before it
        is seen does not count.

        `InvalidTransition` when the job becomes final instead, `WaitTimeout` after `timeout_s` seconds; the job, and a
        pause that was asked for, go on.
        """
        return await self._wait(job_id, self._if_paused, timeout_s, "PAUSED")

    async def _if_final(self, job_id: str) -> Job | None:
        """The job if it is final."""
        state = self._bus.recent_final(job_id)
        if state is not None and not state.abandoned:
            return job_of(state)
        if state is None:
            if self._bus.is_alive(job_id):
                return None  # it was not final when this process last saw it, and we hear when that changes
            if not (await self._summary(job_id)).status.is_final:
                return None
        return await self.get_job(job_id)

    async def _if_paused(self, job_id: str) -> Job | None:
        """The job if it is PAUSED."""
        summary = await self._summary(job_id)
        if summary.status.is_final:
            allowed, why = allowed_verbs(summary.status), "it ended before a pause became effective"
            raise InvalidTransition(job_id, "wait for the pause of", summary.status, allowed, why)
        if summary.status != JobStatus.PAUSED:
            return None
        job = await self.get_job(job_id)
        return job if job.status == JobStatus.PAUSED else None  # it may have been resumed between the two readings

    async def _wait(
        self, job_id: str, look: Callable[[str], Awaitable[Job | None]], timeout_s: float | None, what: str,
        *, final_only: bool = False,
    ) -> Job:  # fmt: skip
        """Look whenever the job has changed (or, with `final_only`, has ended) until there is something to return."""
        with self._bus.reading(job_id, final_only=final_only) as changed:
            timer = None
            timed_out = False

            def expire() -> None:
                nonlocal timed_out
                timed_out = True
                changed.set()

            if timeout_s is not None:
                timer = self.clock.call_later(timeout_s, expire)
            try:
                while (job := await look(job_id)) is None:
                    if timed_out:
                        raise WaitTimeout(f"Job {job_id} was not {what} after {timeout_s} s.", job_id=job_id)
                    await changed.wait()
                    changed.clear()
                return job
            finally:
                if timer is not None:
                    timer.cancel()

    async def watch(self, job_id: str, after: int = 0, live: bool = False) -> AsyncGenerator[Event, None]:
        """Each event above number `after` once, in order, as it is committed; ends after the final one.

        A reader that comes back with its last number misses nothing. Slow readers hold nobody up: they read the
        history at their own pace. With `live` also what no history holds, with number 0: `step.progress` and
        `step.emitted` of steps that this process runs, and `listener.dropped` where a slow reader missed some.
        """
        summary = await self._summary(job_id)
        news: deque[tuple[int, Event]] = deque()  # each with the number of the event that it came after
        with contextlib.ExitStack() as stack:
            changed = stack.enter_context(self._bus.reading(job_id))
            reader = stack.enter_context(self._bus.living(job_id, changed)) if live else None
            if reader is not None:
                reader.number = summary.events
            while True:
                changed.clear()
                events = await self.store.read_events(job_id, after, EVENT_PAGE)
                if reader is not None:
                    news.extend(reader.take())
                for event in events:
                    while news and news[0][0] < event.number:
                        yield news.popleft()[1]
                    yield event
                    after = event.number
                while news and news[0][0] <= after:
                    yield news.popleft()[1]
                if len(events) == EVENT_PAGE:
                    continue
                row = await self.store.read_summary(job_id)
                if row is None or (row.status.is_final and row.events <= after):
                    return
                if row.events <= after:
                    await changed.wait()

    async def read_output(
        self, job_id: str, step: str | None = None, attempt: int | None = None, after: int = 0
    ) -> list[OutputText]:
        """What the steps of a job printed, logged and emitted, a page of it, oldest first; empty when there is no more.

        `step` is the path of a step run, and stands for those inside it, too. Ask again with `after` the `cursor` of
        the last text. Of each attempt the first 64 KiB and the last 192 KiB are kept (`cut` says how much is missing
        before a text), of a job 16 MiB: the oldest attempts go first. Output comes within about half a second, and
        all of an attempt with its end.
        """
        await self._summary(job_id)
        return [text for one in await self.store.read_output(job_id, step, attempt, after) for text in output_of(one)]

    def on(self, type: str, callback: Listener) -> Subscription:
        """Call `callback(job_id, event)` after the commit of each event of that type that this process records.

        `job.completed` takes one type, `job.*` all below, `*` everything; `step.progress` and `step.emitted` (never
        recorded) tell what components report and emit. Sync or async, one call at a time and in order; its errors are
        logged and hurt nothing. Sync ones run in the event loop and should not block it. One that is 10,000 events
        behind misses what follows, and gets a `listener.dropped` in its place, whatever its type.
        """
        return self._bus.subscribe(type, callback)

    # ── pauses of components and workflows ────────────────────────────────────────────────────────────────────────

    async def pause_component(self, name: str, *, by: str | None = None, reason: str | None = None) -> bool:
        """Let no attempt of a component begin anywhere until `resume_component`; those that run end. False when it is
        paused already: then who and why stay. Jobs that need it wait in the queue.

        When this returns, workers of this process begin no further attempt of it, and others within 50 ms of hearing
        (docs/limits.md says exactly what is promised). Resources are released by paused components, too.
        """
        return await self._pause("component", name, by, reason)

    async def resume_component(self, name: str) -> bool:
        """End the pause of a component. False when it was not paused."""
        return await self._lift("component", name)

    async def pause_workflow(self, workflow_id: str, *, by: str | None = None, reason: str | None = None) -> bool:
        """Let no job of a workflow go on until `resume_workflow`, in whatever version: those that run go back to the
        queue when what runs of them has ended, new ones wait there. False when it is paused already. Jobs that are
        cancelled or clean up do so; child jobs of other workflows go on."""
        return await self._pause("workflow", workflow_id, by, reason)

    async def resume_workflow(self, workflow_id: str) -> bool:
        """End the pause of a workflow. False when it was not paused."""
        return await self._lift("workflow", workflow_id)

    async def list_pauses(self) -> list[Pause]:
        """The components and workflows that are paused, by whom, why and since when; the oldest first."""
        return await self.store.list_pauses()

    async def _pause(self, kind: PauseKind, name: str, by: str | None, reason: str | None) -> bool:
        check_pausable(kind, name)
        check_reason(reason)
        is_new = await self.store.set_pause(kind, name, by, reason)
        await self._worker.pauses.look()
        return is_new

    async def _lift(self, kind: PauseKind, name: str) -> bool:
        was_paused = await self.store.lift_pause(kind, name)
        await self._worker.pauses.look()
        return was_paused

    # ── leaks ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def list_leaks(self, after: int = 0, limit: int = 1_000) -> list[StoredLeak]:
        """Resources that jobs could not release, the oldest first: those with keys above `after`."""
        return await self.store.list_leaks(after, limit)

    async def retry_leak(self, key: int) -> bool:
        """Call the release of a leak now; whether it worked, and the leak is gone. `LeakNotFound`."""
        for leak in await self.store.list_leaks(key - 1, 1):
            if leak.key == key:
                return await release_leak(self._worker, leak)
        raise LeakNotFound(key)

    async def drop_leak(self, key: int) -> None:
        """Forget a leak: somebody has seen to it. `LeakNotFound`."""
        if not await self.store.drop_leak(key):
            raise LeakNotFound(key)

    async def list_workers(self) -> list[WorkerSummary]:
        """The live workers of the store, in whatever process and on whatever machine, the oldest first. A manager that
        runs no jobs is one with `max_jobs` 0."""
        return [worker_of(one) for one in await self.store.list_workers()]

    async def health(self) -> dict[str, Any]:
        """How this manager and its store are; never raises.

        {"status": "ok" | "degraded", "reasons": [text, …], "jobs": {status: count}, "queue_age_s", "running_jobs",
        "steps", "threads", "abandoned_threads", "loop_lag_ms", "commit_ms": {"p50", "p99", "count"}, "listeners":
        {"count", "failures", "dropped"}, "output_lost_bytes", "store_error", "store": {counters}, …}.
        """
        return await health_of(self._worker)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _blocked(self, job_id: str) -> list[Blocked]:
        """What attempts of a RUNNING job wait for: all of them if it runs here, else as far as its worker has said."""
        if (runner := self._worker.runners.get(job_id)) is not None:
            return self._worker.grants.blocked_of(runner)
        return await self.store.read_blocked(job_id)

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
