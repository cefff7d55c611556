"""What runs of a job: attempts of its steps and of releases, from the decision to call them to the end of the code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from openagents_json.clock import SECOND_US
from openagents_json.job.engine.abandoning import Abandoned
from openagents_json.job.engine.admission import Grant
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.engine.calls import ReleaseOf, begin_attempt, begin_release, make_attempt, make_release
from openagents_json.job.engine.exchange import release_ended
from openagents_json.job.engine.spending import Spending
from openagents_json.job.engine.tracking import Tracking
from openagents_json.job.events import Event
from openagents_json.job.machine import AttemptSucceeded, Call, Decision, Happening, Resource

if TYPE_CHECKING:
    from openagents_json.job.engine.runner import Runner
    from openagents_json.job.engine.worker import Worker

Granted: TypeAlias = tuple[Sequence[Grant], Sequence[Grant]]  # for the calls of a turn, and for its releases
NO_GRANTS: Granted = ((), ())


class Running:
    """Of one runner, to which it tells what becomes of them."""

    def __init__(self, worker: Worker, runner: Runner) -> None:
        self._worker = worker
        self._runner: Runner | None = runner  # None: it has let go of the job, and hears no more
        self._job_id = runner.job_id
        self._attempts: dict[str, Attempt] = {}  # by path; the ones whose end is not reported yet
        self._releases: dict[str, Attempt] = {}  # by id of their resource; the same
        self._tracking = Tracking(runner.tell)
        self._spending = Spending(runner, worker.clock, worker.loop.call_soon_threadsafe)
        self._abandoned: Abandoned | None = None  # made when the first attempt is

    def __bool__(self) -> bool:
        return bool(self._attempts or self._releases)

    def stop(self, reason: str, grace_s: float) -> None:
        """Tell all of them to stop."""
        for attempt in [*self._attempts.values(), *self._releases.values()]:
            attempt.stop(reason, grace_s)

    def committed(self, events: Sequence[Event]) -> None:
        """These are in the store."""
        for event in events:
            if event.data.get("abandoned"):
                self._those_abandoned().committed((event.data["path"], event.data["attempt"]))

    def carry_out(self, decision: Decision, grants: Granted) -> None:
        """Stop, call, release and answer what was decided. The commit of it is in the store."""
        for run, reason in decision.stops:
            if (attempt := self._attempts.get(run.path)) is not None:
                if reason == "force_cancelled":
                    attempt.kill(reason)
                else:
                    attempt.stop(reason, self._worker.settings.cancel_grace_s)
        if any(event.type == "job.cancel_requested" and event.data["force"] for event in decision.events):
            for attempt in list(self._attempts.values()):  # also those that a gentle cancel has told before
                attempt.kill("force_cancelled")
        assert self._runner is not None, "who has let go of a job decides nothing"
        calls, releases = grants
        for call, grant in zip(decision.calls, calls, strict=True):
            self._call(self._runner, call, grant)
        for resource, grant in zip(decision.releases, releases, strict=True):
            self._release(self._runner, resource, grant)
        for answer in decision.answers:
            self._tracking.answer(answer)

    def end(self) -> None:
        """The runner has let go of the job. What still runs is on its own."""
        self._runner = None
        self._spending.stop()
        self._tracking.end()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, runner: Runner, call: Call, grant: Grant) -> None:
        attempt = make_attempt(
            self._worker, runner.state, call.run, grant, self._ended, self._code_ended, self._tracking, self._spending
        )
        self._attempts[attempt.path] = attempt
        self._worker.grants.begin(attempt, runner)
        if runner.state.node(call.run).step.preemptible:
            self._worker.preemption.began(attempt, runner)
        begin_attempt(self._worker, runner.state, call, attempt)

    def _release(self, runner: Runner, resource: Resource, grant: Grant) -> None:
        def report(attempt: Attempt, happening: Happening) -> None:
            del self._releases[resource.id]
            self._tell(release_ended(resource.id, token, happening))

        state, token = runner.state, resource.token
        of = ReleaseOf(
            state.job_id, state.workflow_id, resource.path, resource.id, resource.tries, token, resource.release,
            resource.inputs,
        )  # fmt: skip
        left_s = max((resource.deadline_us - self._worker.clock.now_us()) / SECOND_US, 0.0)
        attempt = self._releases[resource.id] = make_release(self._worker, of, grant, left_s, report)
        begin_release(self._worker, of, attempt)

    def _tell(self, happening: Happening) -> None:
        if self._runner is not None:
            self._runner.tell(happening)

    def _ended(self, attempt: Attempt, happening: Happening) -> None:
        """The attempt's outcome is known."""
        if self._attempts.get(attempt.path) is attempt:
            del self._attempts[attempt.path]
        self._spending.ends((attempt.path, attempt.token))
        if isinstance(happening, AttemptSucceeded) and self._runner is not None:
            state = self._runner.state
            if (run := state.runs.get(attempt.path)) is not None:
                took_us = self._worker.clock.now_us() - attempt.began_us
                self._worker.seen.add(state.workflow_id, run.step_id, took_us)
        self._tell(happening)

    def _code_ended(self, attempt: Attempt) -> None:
        self._worker.code_ended(attempt)
        self._worker.preemption.code_ended(attempt)
        if attempt.is_abandoned:
            self._those_abandoned().ended((attempt.path, attempt.number))

    def _those_abandoned(self) -> Abandoned:
        if self._abandoned is None:
            worker = self._worker
            self._abandoned = Abandoned(worker.thread_counted, partial(worker.thread_ended, self._job_id))
        return self._abandoned
