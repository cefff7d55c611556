"""What a viewer of one job knows: a fold of its events, pure and without a terminal.

One row per top-level step, whatever happens inside it. `JobView.take` folds an event in O(1); the live view and the
plain lines only read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openagents_json.amounts import Amounts, add
from openagents_json.cli.text import short_time
from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.ids import SHORT_LENGTH
from openagents_json.job.events import Event
from openagents_json.job.model import ErrorInfo, JobStatus, StepStatus

ERRORS_KEPT = 50
_ITEM_STEP = re.compile(r"([^.\[]+)\[(\d+)\]\.([^.\[]+)")  # a step right in an item of a top-level foreach

ENDED = frozenset({StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})


@dataclass(slots=True)
class Row:
    """One top-level step. Written by `JobView` only."""

    id: str
    body: int | None = None  # steps in each item, for a foreach
    is_finally: bool = False
    status: StepStatus = StepStatus.PENDING
    started_us: int | None = None
    ended_us: int | None = None
    attempt: int = 0  # of the step itself; a foreach has none
    retry_at_us: int | None = None
    error: ErrorInfo | None = None  # the last one, of the step or of anything in it
    total: int | None = None  # items; None until they are known
    done: int = 0  # items that have ended, failed ones included
    failed: int = 0
    retries: int = 0  # attempts inside that failed and are tried again
    fraction: float = 0.0  # as last reported by the step itself
    message: str = ""  # as last reported by anything in it
    is_taken_over: bool = False  # its result is of the job that this one retries, or was set by hand
    active: dict[str, int] = field(default_factory=dict)  # path → attempt of what runs now, oldest first
    rate_from_us: int | None = None  # since when `rate_done` counts: the job's last start
    rate_done: int = 0
    _left: dict[int, int] = field(default_factory=dict)  # item → steps of it that have not ended; begun items only
    _failed_items: set[int] = field(default_factory=set)

    @property
    def is_foreach(self) -> bool:
        return self.body is not None

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    def share(self) -> float:
        """How much of the step is done, from 0 to 1."""
        if self.is_ended:
            return 1.0
        if self.is_foreach:
            return self.done / self.total if self.total else 0.0
        return self.fraction

    def rate(self, now_us: int) -> float | None:
        """Items per second since the job last started; None while that says little."""
        if self.rate_from_us is None or self.rate_done < 2:
            return None
        seconds = ((self.ended_us or now_us) - self.rate_from_us) / SECOND_US
        return self.rate_done / seconds if seconds > 0 else None

    def item_step_ended(self, index: int, status: StepStatus) -> None:
        """A step right in an item has ended. The item has, when all of them have or one failed."""
        if index in self._failed_items:
            return
        left = self._left.pop(index, self.body or 1) - 1
        if status == StepStatus.FAILED:
            self._failed_items.add(index)
            self.failed += 1
        elif left > 0:
            self._left[index] = left
            return
        self.done += 1
        self.rate_done += 1


class JobView:
    """A job as its events tell. `outline` is the definition's document; without it rows appear as they begin."""

    def __init__(self, outline: Mapping[str, Any] | None = None) -> None:
        self.rows: dict[str, Row] = {}
        self.job_id = ""
        self.workflow_id = ""
        self.version = ""
        self.status = JobStatus.CREATED
        self.number = 0  # of the last event taken
        self.last_us = 0
        self.request: str | None = None  # a pause or cancel that is asked for and not effective yet
        self.wake_us: int | None = None
        self.is_spent = False  # it is paused, or will be, because its budget is
        self.budget: Amounts = {}
        self.spent: Amounts = {}  # what steps have reported, and what children have told
        self._children_spent: dict[str, Amounts] = {}
        self.errors: list[ErrorInfo] = []  # the last ERRORS_KEPT that ended a step or the job
        self.error_count = 0
        self._active_us = 0  # time RUNNING before `_running_from_us`
        self._running_from_us: int | None = None
        self._best = 0.0  # the progress shown never falls
        for key in ("steps", "finally"):
            for step in (outline or {}).get(key, ()):
                body = len(step["steps"]) if "foreach" in step else None
                self.rows[step["id"]] = Row(step["id"], body, is_finally=key == "finally")

    @property
    def is_final(self) -> bool:
        return self.status.is_final

    @property
    def after_pause(self) -> str:
        """The commands after which a PAUSED job goes on."""
        return ("`openagents jobs add-budget` and " if self.is_spent else "") + "`openagents jobs resume`"

    def elapsed_s(self, now_us: int) -> float:
        """Seconds during which the job was RUNNING: waiting in a queue, pauses and dead workers do not count."""
        since = self._running_from_us
        return (self._active_us + (0 if since is None else max(now_us - since, 0))) / SECOND_US

    def progress(self) -> float:
        """From 0 to 1: the mean of the steps' shares, never falling."""
        rows = [row for row in self.rows.values() if not row.is_finally]
        if self.status == JobStatus.COMPLETED:
            self._best = 1.0
        elif rows:
            self._best = max(self._best, sum(row.share() for row in rows) / len(rows))
        return self._best

    # ── taking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, event: Event) -> Row | None:
        """Fold the next event; the row it concerns, None if it is the job's. Events taken before change nothing."""
        if event.number <= self.number:
            return None
        if "spent" in event.data:
            self._spend(event)
        path: str = event.data.get("path", "")
        row = self._row(path) if path else None
        if row is not None and path.endswith("[undo]"):  # its step has ended, and stays what it is
            row.message = _UNDO.get(event.type, row.message)
            self.number, self.last_us = event.number, event.at_us
            return row
        if row is not None and (rule := _STEP_RULES.get(event.type)) is not None:
            rule(self, row, path, event)
        elif (job_rule := _JOB_RULES.get(event.type)) is not None:
            job_rule(self, event)
        self.number, self.last_us = event.number, event.at_us
        return row

    def report(self, path: str, fraction: float, message: str) -> None:
        """What a component says of its progress; no event, and lost when nobody listens."""
        row = self._row(path)
        if path == row.id:
            row.fraction = fraction
        if message:
            row.message = message

    def _row(self, path: str) -> Row:
        name = re.split(r"[\[.~]", path, maxsplit=1)[0]
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = Row(name, 1 if path.startswith(f"{name}[") else None)
        return row

    # ── the job ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _created(self, event: Event) -> None:
        self.job_id = event.data["job_id"]
        self.workflow_id = event.data["workflow_id"]
        self.version = event.data["version"]
        self.budget = dict(event.data.get("budget", {}))

    def _budget_added(self, event: Event) -> None:
        add(self.budget, event.data["amounts"])

    def _spend(self, event: Event) -> None:
        """What an attempt has spent since it said so last, or a child in all."""
        spent: Amounts = dict(event.data["spent"])
        if (child := event.data.get("child_id")) is not None:
            known, self._children_spent[child] = self._children_spent.get(child, {}), spent
            spent = {key: amount - known.get(key, 0) for key, amount in spent.items()}
        add(self.spent, spent)

    def _running(self, event: Event) -> None:
        self.status = JobStatus.RUNNING
        self.wake_us = None
        self._running_from_us = event.at_us
        for row in self.rows.values():
            row.rate_from_us, row.rate_done = event.at_us, 0

    def _resting(self, status: JobStatus, event: Event) -> None:
        """The job is with no worker."""
        if self._running_from_us is not None:
            self._active_us += max(event.at_us - self._running_from_us, 0)
            self._running_from_us = None
        self.status = status

    def _queued(self, event: Event) -> None:
        self.is_spent = False
        self._resting(JobStatus.QUEUED, event)

    def _waiting(self, event: Event) -> None:
        if self.status == JobStatus.PAUSED:  # a child of it runs again, to clean up
            self.request = "pause"
        self._resting(JobStatus.WAITING, event)
        self.wake_us = event.data.get("until_us")

    def _paused(self, event: Event) -> None:
        self._resting(JobStatus.PAUSED, event)
        self.request = None

    def _worker_lost(self, event: Event) -> None:
        if self._running_from_us is not None:  # nobody knows when it died: count up to the last word heard of it
            self._active_us += max(self.last_us - self._running_from_us, 0)
            self._running_from_us = None
        for row in self.rows.values():
            row.active.clear()

    def _pause_requested(self, event: Event) -> None:
        if self.status != JobStatus.PAUSED:  # else its parent is paused as well
            self.request = "pause"
            self.is_spent = "budget" in event.data

    def _cancel_requested(self, event: Event) -> None:
        self.request = "forced cancel" if event.data.get("force") else "cancel"

    def _withdrawn(self, event: Event) -> None:
        self.is_spent = False
        self.request = None

    def _final(self, event: Event) -> None:
        self._resting(JobStatus(event.type.removeprefix("job.").upper()), event)
        self.request = None
        error = event.data.get("error")
        if error is not None and error not in self.errors:
            self._note(error)
        for row in self.rows.values():
            row.active.clear()
            if not row.is_ended and row.status != StepStatus.PENDING:
                row.status, row.ended_us = StepStatus.CANCELLED, event.at_us

    def _troubled(self, event: Event) -> None:
        self._note(event.data["error"])

    def _note(self, error: ErrorInfo) -> None:
        self.error_count += 1
        self.errors.append(error)
        del self.errors[:-ERRORS_KEPT]

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _attempt_started(self, row: Row, path: str, event: Event) -> None:
        row.started_us = row.started_us or event.at_us
        row.status = StepStatus.RUNNING
        row.active[path] = event.data["attempt"]
        if path == row.id:
            row.attempt, row.retry_at_us, row.fraction = event.data["attempt"], None, 0.0

    def _attempt_failed(self, row: Row, path: str, event: Event) -> None:
        row.active.pop(path, None)
        row.error = event.data["error"]
        due_us = event.data.get("retry_at_us")
        if due_us is None:
            return
        row.retries += 1
        if path == row.id:
            row.status, row.retry_at_us = StepStatus.RETRYING, due_us

    def _attempt_lost(self, row: Row, path: str, event: Event) -> None:
        row.active.pop(path, None)
        row.retries += 1
        if path == row.id:
            row.status, row.retry_at_us = StepStatus.RETRYING, event.at_us

    def _attempt_cancelled(self, row: Row, path: str, event: Event) -> None:
        row.active.pop(path, None)
        self._ended(row, path, StepStatus.CANCELLED, event)

    def _expanded(self, row: Row, path: str, event: Event) -> None:
        if path != row.id:
            return  # a foreach inside an item
        row.started_us = row.rate_from_us = event.at_us
        row.status = StepStatus.RUNNING
        row.total = event.data["count"]

    def _begun(self, row: Row, path: str, event: Event) -> None:
        """A container, a handler or a child begins, or goes round again."""
        if path != row.id:
            return
        row.started_us = row.started_us or event.at_us
        row.status, row.retry_at_us = StepStatus.RUNNING, None
        data = event.data
        if event.type == "step.iterated":
            row.message = f"iteration {data['iteration'] + 1}"
        elif event.type == "step.caught":
            row.error = data["error"]
            row.message = f"its error {data['error']['type']} is being handled"
        elif event.type == "child.started":
            row.message = f"as job {data['workflow_id']}/{data['child_id'][-SHORT_LENGTH:]}"

    def _waits(self, row: Row, path: str, event: Event) -> None:
        if path != row.id:
            return
        row.started_us = row.started_us or event.at_us
        row.status = StepStatus.WAITING
        signal, until_us = event.data.get("signal"), event.data.get("until_us")
        row.message = f"for the signal {signal!r}" if signal is not None else f"until {_moment(until_us)}"

    def _again(self, row: Row, path: str, event: Event) -> None:
        """A container, a signal or a child failed and is begun again."""
        row.retries += 1
        row.error = event.data["error"]
        if path == row.id:
            row.attempt = event.data["attempt"]
            row.status, row.retry_at_us = StepStatus.RETRYING, event.data["retry_at_us"]

    def _doubted(self, row: Row, path: str, event: Event) -> None:
        row.active.pop(path, None)
        row.error = event.data["error"]
        self._note(event.data["error"])
        row.message = "did it happen? Say it by `openagents jobs resolve`"
        if path == row.id:
            row.status = StepStatus.WAITING

    def _resolved(self, row: Row, path: str, event: Event) -> None:
        row.message = ""

    def _completed(self, row: Row, path: str, event: Event) -> None:
        self._ended(row, path, StepStatus.COMPLETED, event)

    def _skipped(self, row: Row, path: str, event: Event) -> None:
        self._ended(row, path, StepStatus.SKIPPED, event)

    def _cancelled(self, row: Row, path: str, event: Event) -> None:
        self._ended(row, path, StepStatus.CANCELLED, event)

    def _taken_over(self, row: Row, path: str, event: Event) -> None:
        row.is_taken_over = True
        row.error = event.data.get("error")
        row.status, row.ended_us = StepStatus(event.data["status"]), event.at_us

    def _failed(self, row: Row, path: str, event: Event) -> None:
        row.error = event.data["error"]
        if row.error is not None and row.error not in self.errors[-1:]:  # a container fails with its item's error
            self._note(row.error)
        self._ended(row, path, StepStatus.FAILED, event)

    def _ended(self, row: Row, path: str, status: StepStatus, event: Event) -> None:
        row.active.pop(path, None)
        if path == row.id:
            row.status, row.ended_us, row.retry_at_us = status, event.at_us, None
            if status == StepStatus.COMPLETED and not row.is_foreach:
                row.error = None
            return
        found = _ITEM_STEP.fullmatch(path)
        if found is not None and status != StepStatus.CANCELLED:
            row.item_step_ended(int(found.group(2)), status)


def _moment(at_us: int | None) -> str:
    return "then" if at_us is None else short_time(as_datetime(at_us))


_UNDO = {
    "attempt.started": "is being undone",
    "step.completed": "is undone",
    "step.failed": "could not be undone",
    "step.cancelled": "was not undone",
    "attempt.cancelled": "was not undone",
}
_JOB_RULES: dict[str, Callable[[JobView, Event], None]] = {
    "job.created": JobView._created,
    "job.queued": JobView._queued,
    "job.budget_added": JobView._budget_added,
    "job.started": JobView._running,
    "job.continued": JobView._running,
    "job.waiting": JobView._waiting,
    "job.paused": JobView._paused,
    "job.worker_lost": JobView._worker_lost,
    "job.pause_requested": JobView._pause_requested,
    "job.pause_withdrawn": JobView._withdrawn,
    "job.cancel_requested": JobView._cancel_requested,
    "job.completed": JobView._final,
    "job.failed": JobView._final,
    "job.cancelled": JobView._final,
    "job.timed_out": JobView._troubled,
    "job.cleanup_timed_out": JobView._troubled,
}
_STEP_RULES: dict[str, Callable[[JobView, Row, str, Event], None]] = {
    "attempt.started": JobView._attempt_started,
    "attempt.failed": JobView._attempt_failed,
    "attempt.lost": JobView._attempt_lost,
    "attempt.cancelled": JobView._attempt_cancelled,
    "step.expanded": JobView._expanded,
    "step.chosen": JobView._begun,
    "step.forked": JobView._begun,
    "step.iterated": JobView._begun,
    "step.caught": JobView._begun,
    "child.started": JobView._begun,
    "step.waiting": JobView._waits,
    "step.retrying": JobView._again,
    "step.in_doubt": JobView._doubted,
    "step.resolved": JobView._resolved,
    "step.completed": JobView._completed,
    "step.skipped": JobView._skipped,
    "step.cancelled": JobView._cancelled,
    "step.failed": JobView._failed,
    "step.taken_over": JobView._taken_over,
}
