"""When things of a job happened: bars along the time for the job and each step run, as a history tells. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, StepRun, fold
from openagents_json.job.model import JobStatus, StepStatus
from openagents_json.pictures.marks import items_done
from openagents_json.pictures.wording import SIGNS, duration, line_of
from openagents_json.workflow import Plan

FOLDED = 8  # items of a foreach, or iterations of a repeat, that are shown one by one

# What a bar stands for. Of a step: an attempt by how it ended (`running`: it has not), waits, `inside` a container;
# `moment` has no length. Of the job: created, queued, held (a worker has it), resting (WAITING), paused.
BarKind = Literal[
    "ok", "failed", "stopped", "lost", "running", "backoff", "timer", "signal", "child", "decision", "inside", "moment",
    "created", "queued", "held", "resting", "paused",
]  # fmt: skip
BUSY = frozenset({"ok", "failed", "stopped", "lost", "running"})  # code of the job ran


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time, in UTC microseconds. An open one goes on after `end_us`, which is now."""

    kind: BarKind
    start_us: int
    end_us: int
    text: str = ""  # `attempt 2: http.429: too many requests`
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """The job, a step run, or a summary of several."""

    label: str
    depth: int
    status: StepStatus | JobStatus | None  # None: a summary
    note: str  # `1.2 s`, `1.2 s, attempt 3`, `190 completed, 2 failed`
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """All lines of a job, its own first, and the time that they span."""

    title: str
    start_us: int
    end_us: int
    is_final: bool
    lines: tuple[Line, ...]


def timeline_of(plan: Plan, history: Sequence[Event], now_us: int, *, is_folded: bool = True) -> Timeline:
    """The timeline of a job until `now_us`, or until its end. The history begins with `job.created`."""
    state = fold(plan, history)
    end_us = state.completed_us if state.completed_us is not None else max(now_us, history[-1].at_us)
    bars = _Bars(end_us, is_final=state.is_final)
    for event in history:
        bars.take(event)
    bars.finish(state)
    job = Line("job", 0, state.status, duration(end_us - state.created_us), tuple(bars.of_job))
    lines = (job, *_Lines(state, bars.of_path, end_us, is_folded=is_folded).all())
    return Timeline(f"{state.workflow_id} {state.version}", state.created_us, end_us, state.is_final, lines)


# ── bars ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Phase:
    """What a run is in since a time."""

    kind: BarKind
    start_us: int
    text: str


class _Bars:
    """Reads events into bars. Each run is in one phase at a time; an event ends it and may begin the next."""

    def __init__(self, end_us: int, *, is_final: bool) -> None:
        self.of_path: dict[str, list[Bar]] = defaultdict(list)
        self.of_job: list[Bar] = []
        self._end_us = end_us
        self._is_final = is_final
        self._phases: dict[str, _Phase] = {}
        self._job: _Phase | None = None

    def take(self, event: Event) -> None:
        """Read the next event."""
        rule = _RULES.get(event.type)
        if rule is not None:
            rule(self, event)

    def finish(self, state: JobState) -> None:
        """End what is still on: now, or with the job."""
        for path in list(self._phases):
            run = state.runs.get(path)
            over_us = None if run is None else run.ended_us
            phase = self._phases[path]
            if over_us is not None and phase.start_us >= over_us:
                del self._phases[path]  # such as the wait after an attempt that was lost and is not tried again
            else:
                self.close(path, self._end_us, is_open=not self._is_final)
        if self._job is not None and not self._is_final:
            self.of_job.append(Bar(self._job.kind, self._job.start_us, self._end_us, self._job.text, is_open=True))

    def begin(self, path: str, kind: BarKind, at_us: int, text: str = "") -> None:
        self.close(path, at_us)
        self._phases[path] = _Phase(kind, at_us, text)

    def close(
        self, path: str, at_us: int, kind: BarKind | None = None, text: str = "", *, is_open: bool = False
    ) -> None:
        """End the phase of a run. `kind` tells how an attempt ended."""
        phase = self._phases.pop(path, None)
        if phase is None:
            return
        ended: BarKind = phase.kind if kind is None else kind
        if ended == "running" and not is_open:
            ended = "stopped"
        whole = ": ".join(one for one in (phase.text, text) if one)
        self.of_path[path].append(Bar(ended, phase.start_us, at_us, whole, is_open))

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _started(self, event: Event) -> None:
        self.begin(event.data["path"], "running", event.at_us, f"attempt {event.data['attempt']}")

    def _failed_attempt(self, event: Event) -> None:
        path = event.data["path"]
        self.close(path, event.at_us, "failed", _error_text(event))
        if event.data.get("retry_at_us") is not None:
            self.begin(path, "backoff", event.at_us, "until the next attempt")

    def _stopped(self, event: Event) -> None:
        self.close(event.data["path"], event.at_us, "stopped", line_of(str(event.data["reason"])))

    def _lost(self, event: Event) -> None:
        path = event.data["path"]
        self.close(path, event.at_us, "lost", line_of(str(event.data["reason"])))
        self.begin(path, "backoff", event.at_us, "until another worker goes on")

    def _in_doubt(self, event: Event) -> None:
        path = event.data["path"]
        self.close(path, event.at_us, "lost", _error_text(event))
        self.begin(path, "decision", event.at_us, "until somebody says whether it happened")

    def _resolved(self, event: Event) -> None:
        path = event.data["path"]
        self.close(path, event.at_us, None, f"resolved by {line_of(event.data['how'])}")
        if event.data["how"] == "retry":
            self.begin(path, "backoff", event.at_us, "until the next attempt")

    def _inside(self, event: Event) -> None:
        path = event.data["path"]
        phase = self._phases.get(path)
        if phase is None or phase.kind != "inside":
            self.begin(path, "inside", event.at_us)

    def _caught(self, event: Event) -> None:
        path = event.data["path"]
        self.close(path, event.at_us)
        self.begin(path, "inside", event.at_us, f"its handler: {_error_text(event)}")

    def _waiting(self, event: Event) -> None:
        path, name = event.data["path"], event.data.get("signal")
        if name is None:
            self.begin(path, "timer", event.at_us, "until its time comes")
        else:
            self.begin(path, "signal", event.at_us, f"for the signal {line_of(name)}")

    def _retrying(self, event: Event) -> None:
        path = event.data["path"]
        self.close(path, event.at_us, "failed", _error_text(event))
        self.begin(path, "backoff", event.at_us, "until it begins again")

    def _child(self, event: Event) -> None:
        self.begin(event.data["path"], "child", event.at_us, f"child job {event.data['child_id']}")

    def _child_ended(self, event: Event) -> None:
        self.close(event.data["path"], event.at_us, None, str(event.data["status"]))

    def _ended(self, event: Event) -> None:
        path = event.data["path"]
        phase = self._phases.get(path)
        if phase is not None and phase.kind == "running":
            self.close(path, event.at_us, "ok" if event.type == "step.completed" else "failed", _error_text(event))
        elif phase is not None:
            self.close(path, event.at_us)
        elif not self.of_path[path]:
            self.of_path[path].append(
                Bar("moment", event.at_us, event.at_us, event.type.removeprefix("step.").replace("_", " "))
            )

    # ── the job ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _rest(self, kind: BarKind | None, event: Event, text: str = "") -> None:
        if self._job is not None and event.at_us > self._job.start_us:
            self.of_job.append(Bar(self._job.kind, self._job.start_us, event.at_us, self._job.text))
        self._job = None if kind is None else _Phase(kind, event.at_us, text)

    def _job_created(self, event: Event) -> None:
        self._rest("created", event, "created, not started")

    def _job_queued(self, event: Event) -> None:
        self._rest("queued", event, f"queued: {line_of(str(event.data.get('reason')))}")

    def _job_running(self, event: Event) -> None:
        self._rest("held", event, f"held by {line_of(str(event.data['worker']))}")

    def _job_waiting(self, event: Event) -> None:
        self._rest("resting", event, "waiting, held by no worker")

    def _job_paused(self, event: Event) -> None:
        self._rest("paused", event, "paused")

    def _job_ended(self, event: Event) -> None:
        self._rest(None, event)


def _error_text(event: Event) -> str:
    error = event.data.get("error")
    return line_of(f"{error.get('type')}: {error.get('message')}") if isinstance(error, dict) else ""


_RULES: dict[str, Callable[[_Bars, Event], None]] = {
    "attempt.started": _Bars._started,
    "attempt.failed": _Bars._failed_attempt,
    "attempt.cancelled": _Bars._stopped,
    "attempt.lost": _Bars._lost,
    "step.in_doubt": _Bars._in_doubt,
    "step.resolved": _Bars._resolved,
    "step.expanded": _Bars._inside,
    "step.chosen": _Bars._inside,
    "step.forked": _Bars._inside,
    "step.iterated": _Bars._inside,
    "step.caught": _Bars._caught,
    "step.waiting": _Bars._waiting,
    "step.retrying": _Bars._retrying,
    "child.started": _Bars._child,
    "child.ended": _Bars._child_ended,
    "step.completed": _Bars._ended,
    "step.failed": _Bars._ended,
    "step.skipped": _Bars._ended,
    "step.cancelled": _Bars._ended,
    "step.taken_over": _Bars._ended,
    "job.created": _Bars._job_created,
    "job.queued": _Bars._job_queued,
    "job.started": _Bars._job_running,
    "job.continued": _Bars._job_running,
    "job.waiting": _Bars._job_waiting,
    "job.paused": _Bars._job_paused,
    "job.completed": _Bars._job_ended,
    "job.failed": _Bars._job_ended,
    "job.cancelled": _Bars._job_ended,
}


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Lines:
    """Puts step runs under the runs that they stand inside."""

    def __init__(self, state: JobState, bars: dict[str, list[Bar]], end_us: int, *, is_folded: bool) -> None:
        self._state = state
        self._bars = bars
        self._end_us = end_us
        self._is_folded = is_folded
        self._runs: dict[str, list[StepRun]] = defaultdict(list)  # key of a scope → its runs
        self._scopes: dict[str, list[str]] = defaultdict(list)  # path of a run → keys of its scopes, in order of begin
        for run in state.runs.values():
            self._runs[run.scope].append(run)
        for key, scope in state.scopes.items():
            if scope.owner:
                self._scopes[scope.owner].append(key)

    def all(self) -> Iterator[Line]:
        """The lines of all runs, a run's own before those inside it."""
        for key, scope in self._state.scopes.items():
            if not scope.owner:
                yield from self._of_scope(key, 0, "finally: " if key else "")

    def _of_scope(self, key: str, depth: int, prefix: str) -> Iterator[Line]:
        for run in sorted(self._runs[key], key=lambda one: self._state.node(one).index):
            name = "" if run.step_id.endswith("]") else run.step_id  # an undo, or a child that stands for an item
            yield self._line(run, depth, prefix + name)
            yield from self._inside(run, depth + 1)

    def _inside(self, run: StepRun, depth: int) -> Iterator[Line]:
        keys = self._scopes.get(run.path, [])
        many = [key for key in keys if self._state.scopes[key].label.isdecimal()]
        is_loop = self._state.node(run).step.kind in ("foreach", "repeat")
        hidden = set(many[FOLDED:]) if is_loop and self._is_folded and len(many) > FOLDED + 1 else set()
        is_told = False
        for key in keys:
            if key not in hidden:
                yield from self._of_scope(key, depth, key[len(run.path) :] + " ")
            elif not is_told:
                is_told = True
                yield self._summary(run, [key for key in keys if key in hidden], depth)

    def _line(self, run: StepRun, depth: int, label: str) -> Line:
        notes = []
        if run.started_us is not None:
            over_us = run.ended_us if run.ended_us is not None else self._end_us
            notes.append(duration(over_us - run.started_us))
        elif run.status == StepStatus.PENDING:
            notes.append("waits for a slot")
        if run.attempt > 1:
            notes.append(f"attempt {run.attempt}")
        if run.taken:
            notes.append("taken over")
        elif self._state.node(run).step.kind == "foreach":
            notes.append(f"{items_done(self._state, run):,} of {run.count:,} items")
        if run.status in (StepStatus.FAILED, StepStatus.RETRYING) and run.error is not None:
            notes.append(line_of(str(run.error.get("type"))))
        return Line(label.strip(), depth, run.status, ", ".join(notes), tuple(self._bars.get(run.path, ())))

    def _summary(self, run: StepRun, keys: Sequence[str], depth: int) -> Line:
        """One line for the scopes that are not shown: how many, how their runs ended, and when something ran."""
        inner = [one for key in keys for one in self._runs_below(key)]
        tally = Counter(one.status for one in inner)
        note = "  ".join(f"{SIGNS[status]} {tally[status]:,}" for status in SIGNS if tally[status])
        if to_come := run.count - run.opened if self._state.node(run).step.kind == "foreach" else 0:
            note += f"  {to_come:,} to come"
        what = "items" if self._state.node(run).step.kind == "foreach" else "iterations"
        bars = [bar for one in inner for bar in self._bars.get(one.path, ()) if bar.kind != "inside"]
        return Line(f"… {len(keys):,} more {what}", depth, None, note, tuple(merged(bars)))

    def _runs_below(self, key: str) -> Iterator[StepRun]:
        for run in self._runs[key]:
            yield run
            for inner in self._scopes.get(run.path, ()):
                yield from self._runs_below(inner)


def merged(bars: Iterable[Bar]) -> Iterator[Bar]:
    """The same stretches of time with those of one kind that overlap or touch as one bar; by kind, then by time."""
    by_kind: dict[tuple[BarKind, bool], list[Bar]] = defaultdict(list)
    for bar in bars:
        by_kind[bar.kind, bar.is_open].append(bar)
    for (kind, is_open), same in sorted(by_kind.items()):
        same.sort(key=lambda one: one.start_us)
        start_us, end_us = same[0].start_us, same[0].end_us
        for bar in same[1:]:
            if bar.start_us > end_us:
                yield Bar(kind, start_us, end_us, is_open=is_open)
                start_us = bar.start_us
            end_us = max(end_us, bar.end_us)
        yield Bar(kind, start_us, end_us, is_open=is_open)
