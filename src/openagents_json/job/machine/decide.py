"""decide(state, happenings, now) → events + commands. Pure: reads no clock, does no I/O, draws no randomness itself.

One call is one turn. Everything that arrived since the last commit is taken in together; each event is applied as it
is recorded, so that later decisions of the turn see it; at the end the turn says what to call and what to stop. The
caller commits the events first and carries out the commands after the commit.

This file takes in what happened; what was asked for is in `asking`. What follows for steps is in `steps`, for attempts
in `attempts`, what jobs and their children tell each other in `family`, where a job stands when nothing more follows in
`resting`, and how it ends in `ending`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openagents_json.amounts import Amounts
from openagents_json.clock import SECOND_US
from openagents_json.job.machine import asking, attempts, budgets, ending, family, ledger, resting, steps
from openagents_json.job.machine.happenings import (
    NOT_TOLD,
    AttemptFailed,
    AttemptStopped,
    AttemptSucceeded,
    Claimed,
    Happening,
    Interrupted,
    Offered,
    Released,
    ReleaseEnded,
    Requested,
    ResourceTracked,
    Spent,
    Stop,
    Tick,
)
from openagents_json.job.machine.state import FINALLY, RELEASE, ROOT, UNDO, JobState, StepRun, new_state
from openagents_json.job.machine.taking import Takeover
from openagents_json.job.machine.turn import (
    NOTHING_STARTS,
    Decision,
    Terms,
    Turn,
    error_info,
    with_one,
)
from openagents_json.job.model import ErrorInfo, JobPriority, JobStatus
from openagents_json.job.retry import next_delay_s
from openagents_json.workflow.plan import Plan

_OF_THE_JOB = (ROOT, UNDO, FINALLY, RELEASE)
MAX_DEATHS = 3  # workers that may die under a job without progress between (guarantee G6)


def create(
    plan: Plan,
    job_id: str,
    inputs: dict[str, Any],
    *,
    now_us: int,
    priority: JobPriority = JobPriority.MEDIUM,
    metadata: dict[str, Any] | None = None,
    tags: Iterable[str] = (),
    start_at_us: int | None = None,
    idempotency_key: str | None = None,
    parent: dict[str, Any] | None = None,
    takeover: Takeover | None = None,
    budget: Amounts | None = None,
    start: bool = False,
    share: str | None = None,
    deadline_us: int | None = None,
    expected_us: int = 0,
) -> tuple[JobState, list[Any]]:
    """A new job: its state and first events. `inputs` are validated already; `takeover` is of a job that retries.
    `expected_us` is what its attempts are expected to take, for its `share` and its deadline."""
    turn = Turn(new_state(plan), now_us, NOTHING_STARTS)
    data: dict[str, Any] = {
        "job_id": job_id,
        "workflow_id": plan.workflow.id,
        "version": plan.workflow.version,
        "definition": plan.workflow.content_hash,
        "inputs": inputs,
        "priority": str(priority),
        "tags": list(tags),
        "metadata": metadata or {},
    }
    if start_at_us is not None:
        data["start_at_us"] = start_at_us
    if idempotency_key is not None:
        data["idempotency_key"] = idempotency_key
    if budget:
        data["budget"] = budget
    if parent is not None:
        data["parent"] = parent
    if share is not None:
        data["share"] = share
    if deadline_us is not None:
        data["deadline_us"] = deadline_us
    if share is not None or deadline_us is not None:
        data["expected_us"] = expected_us
    turn.record("job.created", data | (takeover.about if takeover is not None else {}))
    for result in takeover.results if takeover is not None else ():
        turn.record("step.taken_over", result)
    if start:
        turn.record("job.queued", {"reason": "started"})
    return turn.state, turn.decision.events


def decide(state: JobState, happenings: Iterable[Happening], now_us: int, terms: Terms) -> Decision:
    """Take in what happened and decide what follows.

    Changes `state`, which is then ahead of the store until the commit.
    """
    turn = Turn(state, now_us, terms)
    before = family.pause_of(state)
    told = None if state.parent is None else budgets.told_before(turn)
    for happening in happenings:
        _take(turn, happening)
    if turn.spent and not state.is_final:
        budgets.record(turn)
    if state.budget and not state.is_final:
        _close_containers(turn)  # what ends with what has ended, before it is seen whether anything is left to do
        budgets.heed(turn)
    _go_on(turn)
    if turn.offer is not None and state.status == JobStatus.QUEUED:
        _take_claim(turn, turn.offer)
        _go_on(turn)
    family.tell_parent(turn, before)
    if told:
        budgets.tell_parent(turn, told)
    return turn.decision


def _go_on(turn: Turn) -> None:
    while _advance(turn) and attempts.start(turn):
        pass
    ledger.start(turn)
    resting.conclude(turn)


# ── what happened ─────────────────────────────────────────────────────────────────────────────────────────────────


def _take(turn: Turn, happening: Happening) -> None:
    if turn.state.is_final:
        if isinstance(happening, Requested):
            asking.take(turn, happening)
        elif isinstance(happening, ResourceTracked):
            ledger.take_tracked(turn, happening)
        return
    match happening:
        case AttemptSucceeded():
            if run := _live_run(turn, happening.path, happening.token):
                data = {"path": run.path, "attempt": run.attempt, "output": happening.output}
                if turn.spent:
                    data |= turn.spending(run.path)
                turn.record("step.completed", data)
        case AttemptFailed():
            if run := _live_run(turn, happening.path, happening.token):
                _take_failure(turn, run, happening)
        case AttemptStopped():
            if run := _live_run(turn, happening.path, happening.token):
                _take_stop(turn, run, happening)
        case Claimed():
            _take_claim(turn, happening)
        case Offered():
            turn.offer = happening
        case Interrupted():
            _take_interruption(turn, happening.worker)
        case Requested():
            asking.take(turn, happening)
        case Spent():
            budgets.take(turn, happening)
        case ResourceTracked():
            ledger.take_tracked(turn, happening)
        case ReleaseEnded():
            ledger.take_ended(turn, happening)
        case Released():
            turn.releasing = happening
        case Tick():
            _take_tick(turn)


def _live_run(turn: Turn, path: str, token: int) -> StepRun | None:
    """The run whose attempt this is, unless the attempt has ended already: then its result comes too late."""
    run = turn.state.runs.get(path)
    return run if run is not None and run.live and run.token == token else None


def _take_claim(turn: Turn, claimed: Claimed | Offered) -> None:
    state = turn.state
    data: dict[str, Any] = {"worker": claimed.worker, "epoch": claimed.epoch}
    if claimed.sort_at is not None:
        data["sort_at"] = claimed.sort_at
    if isinstance(claimed, Claimed) and claimed.preempted is not None:
        data["preempted"] = claimed.preempted
    timeout_s = state.plan.workflow.timeout
    if state.started_us is not None:
        turn.record("job.continued", data)
    else:
        if timeout_s is not None:
            data["deadline_us"] = turn.now_us + round(timeout_s * SECOND_US)
        turn.record("job.started", data)
    resting.look_at_deadline(turn)


def _take_failure(turn: Turn, run: StepRun, failed: AttemptFailed) -> None:
    step = turn.state.node(run).step
    is_cut = turn.state.scopes[run.scope].is_cut
    if step.effect == "once" and failed.error["type"].startswith("timeout.") and not is_cut:
        _doubt(turn, run, failed.error, failed.stop)
        return
    delay_s = None
    if not is_cut:
        delay_s = next_delay_s(
            step.retry or failed.default_retry,
            failed.error,
            run.attempt - run.lost,
            (turn.now_us - (run.started_us or turn.now_us)) / SECOND_US,
            turn.terms.random(),
            failed.asked_delay_s,
        )
    data: dict[str, Any] = {"path": run.path, "attempt": run.attempt, "error": failed.error} | failed.stop.as_data
    data |= turn.spending(run.path)
    if delay_s is not None:
        data["retry_at_us"] = turn.now_us + round(delay_s * SECOND_US)
    turn.record("attempt.failed", data)
    if delay_s is None:
        steps.fail(turn, run, failed.error)


def _take_stop(turn: Turn, run: StepRun, stopped: AttemptStopped) -> None:
    is_wanted = turn.state.scopes[run.scope].is_cut
    if not is_wanted and turn.state.node(run).step.effect == "once":
        message = f"The attempt was ended ({stopped.reason}); whether its effect happened is unknown."
        _doubt(turn, run, error_info("in_doubt", message, run), stopped.stop)
        return
    data: dict[str, Any] = {"path": run.path, "attempt": run.attempt, "reason": stopped.reason} | stopped.stop.as_data
    if stopped.by is not None and not is_wanted:
        data["by"] = stopped.by
    data |= turn.spending(run.path)
    turn.record("attempt.cancelled" if is_wanted else "attempt.lost", data)


def _doubt(turn: Turn, run: StepRun, error: ErrorInfo, stop: Stop = NOT_TOLD, *, seen_us: int | None = None) -> None:
    """An effect that may happen only once may have happened: nobody but a person can say how the step goes on."""
    data: dict[str, Any] = {"path": run.path, "attempt": run.attempt, "error": error} | stop.as_data
    if seen_us is not None:
        data["seen_us"] = seen_us
    turn.record("step.in_doubt", data | turn.spending(run.path))


def _take_interruption(turn: Turn, worker: str | None) -> None:
    state = turn.state
    if state.status != JobStatus.RUNNING:
        return  # it was claimed, but nothing was recorded: it goes back as it is
    deaths, seen_us = state.deaths + 1, state.seen_us
    for run in [run for run in state.runs.values() if run.live]:
        if state.node(run).step.effect == "once" and not state.scopes[run.scope].is_cut:
            message = "The worker died during the attempt; whether its effect happened is unknown."
            _doubt(turn, run, error_info("worker_lost", message, run), seen_us=seen_us)
        else:
            lost = {"path": run.path, "attempt": run.attempt, "reason": "worker_lost", "seen_us": seen_us}
            turn.record("attempt.lost", lost)
    turn.record("job.worker_lost", {"worker": worker or state.worker or "unknown", "deaths": deaths})
    if deaths >= MAX_DEATHS:
        message = f"{deaths} workers died under this job with no recorded progress between; it is not tried again."
        error = error_info("worker_lost", message, step=state.current_step)
        if state.releasing:  # its releases are what kills them
            ledger.give_up_all(turn, error)
        else:
            ending.finish(turn, JobStatus.FAILED, {"error": error})
    if state.is_final or RELEASE in state.closing:
        return
    if state.pause_requested:
        family.pause_if_children_are(turn)
    else:
        turn.record("job.queued", {"reason": "worker_lost"})


def _take_tick(turn: Turn) -> None:
    state = turn.state
    if state.status == JobStatus.CREATED and state.start_at_us is not None and state.start_at_us <= turn.now_us:
        turn.record("job.queued", {"reason": "start_at"})


# ── what follows ──────────────────────────────────────────────────────────────────────────────────────────────────


def _advance(turn: Turn) -> bool:
    """Work off what became ready, ended, is due or is to be stopped. True when steps stand ready to start."""
    state = turn.state
    while not state.is_final:
        if state.to_stop:
            _stop(turn, state.runs[state.to_stop.pop()])
        elif (path := _next_closing(turn)) is not None:
            if path in _OF_THE_JOB:
                ending.close_job(turn, path)
            else:
                steps.close(turn, path)
        elif turn.may_start and state.agenda:
            steps.begin(turn, state.agenda.popleft())
        elif not (turn.may_start and _take_due(turn)):
            break
    return turn.may_start and bool(state.startable)


def _close_containers(turn: Turn) -> None:
    """Record the end of what has ended inside of the job. A pause does not hold this up either."""
    state = turn.state
    while not state.is_final:
        if state.to_stop:
            _stop(turn, state.runs[state.to_stop.pop()])
        elif path := next((path for path in state.closing if path not in _OF_THE_JOB), None):
            steps.close(turn, path)
        else:
            break


def _next_closing(turn: Turn) -> str | None:
    if not turn.state.closing:
        return None
    return next((path for path in turn.state.closing if ending.may_close(turn, path)), None)


def _take_due(turn: Turn) -> bool:
    """Do the earliest thing whose time has come; False when there is none. So timers and signals that came while the
    job was paused take effect in the order of their times."""
    due = turn.state.pop_due(turn.now_us)
    if due is None:
        return False
    _, what, name = due
    if what == "delayed":
        steps.go_on(turn, name)
    elif what == "leak":
        ledger.expire(turn, name)
    elif what == "release":
        pass  # its turn comes with the others
    elif what == "deadline":
        steps.expire(turn, name)
    else:
        steps.deliver(turn, name)
    return True


def _stop(turn: Turn, run: StepRun) -> None:
    """A run's scope was stopped: tell its attempt or its child, or end it here."""
    cancel = turn.state.cancel
    if run.live:
        reason = "sibling_failed" if cancel is None else "force_cancelled" if cancel["force"] else "cancelled"
        turn.decision.stops = with_one(turn.decision.stops, (run, reason))
    elif run.child is not None and run.child in turn.state.children:
        if run.child not in turn.told:
            reason = f"step {run.path} of its parent is not needed any more"
            turn.post(run.child, "cancel", {"force": False}, None, reason)
    elif run.ended_us is None:
        turn.record("step.cancelled", {"path": run.path})
