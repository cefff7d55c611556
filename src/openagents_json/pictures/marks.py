"""What a job has made of each step so far: a fold of its history, summed up per step of the definition. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from openagents_json.job.machine import JobState, StepRun
from openagents_json.job.model import StepStatus
from openagents_json.pictures.wording import SIGNS, duration, line_of
from openagents_json.workflow.plan import Node

# Of several runs of one step, the status that the step is shown with: the first of these that one of them has.
_TELLING = (
    StepStatus.FAILED,
    StepStatus.RETRYING,
    StepStatus.RUNNING,
    StepStatus.WAITING,
    StepStatus.PENDING,
    StepStatus.CANCELLED,
    StepStatus.COMPLETED,
    StepStatus.SKIPPED,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of a step. `status` is None for a step that did not come to run (yet)."""

    status: StepStatus | None
    text: str  # `COMPLETED in 1.2 s`; of several runs `✗ 1 failed, ✓ 17 completed, median 1.2 s`
    details: tuple[str, ...] = ()  # `17 of 20 items`, `attempt 3`, `http.429: too many requests`
    is_tally: bool = False  # it stands for several runs; their signs are in the text


class Marks:
    """The marks of a job's steps at a time."""

    def __init__(self, state: JobState, now_us: int) -> None:
        self._state = state
        self._now_us = now_us
        self._current: dict[str, bool] = {}  # key of a scope → whether no retry of a container has replaced it
        self._runs: dict[str, list[StepRun]] = defaultdict(list)
        for run in state.runs.values():
            if self._is_current(run.scope):
                self._runs[run.step_id].append(run)
        self._begun = {
            (scope.step_id, scope.label) for scope in state.scopes.values() if self._is_current(scope.key)
        }  # (step id, label)

    def of(self, node: Node) -> Mark:
        """The mark of a step."""
        runs = self._runs.get(node.id, [])
        if not runs:
            return Mark(None, "not reached" if self._is_over(node) else "not yet")
        status = next(one for one in _TELLING if any(run.status == one for run in runs))
        details = tuple(self._details(node, runs))
        if len(runs) == 1:
            return Mark(status, self._text(runs[0]), details)
        return Mark(status, self._tally(runs), details, is_tally=True)

    def has_begun(self, node: Node, label: str) -> bool:
        """Whether a case, branch or handler of a step was taken."""
        return (node.id, label) in self._begun

    def _is_over(self, node: Node) -> bool:
        """Whether a step that has not come to run never will: the job has ended, or what it stands inside."""
        if self._state.is_final:
            return True
        owner = node.block.owner
        around = [] if owner is None else self._runs.get(owner.id, [])
        return bool(around) and all(run.ended_us is not None for run in around)

    def _is_current(self, key: str) -> bool:
        scope = self._state.scopes[key]
        if not scope.owner:
            return True
        if key not in self._current:
            owner = self._state.runs[scope.owner]
            self._current[key] = owner.inner(scope.label) == key and self._is_current(owner.scope)
        return self._current[key]

    def _took_us(self, run: StepRun) -> int | None:
        if run.started_us is None:
            return None
        end_us = run.ended_us if run.ended_us is not None else self._state.completed_us
        return (self._now_us if end_us is None else end_us) - run.started_us

    def _text(self, run: StepRun) -> str:
        took_us = self._took_us(run)
        if run.status == StepStatus.SKIPPED or took_us is None:
            return str(run.status)
        is_over = run.ended_us is not None or self._state.is_final
        return f"{run.status} {'in' if is_over else 'for'} {duration(took_us)}"

    def _tally(self, runs: Sequence[StepRun]) -> str:
        tally = Counter(run.status for run in runs)
        counts = [f"{SIGNS[one]} {tally[one]:,} {one.lower()}" for one in _TELLING if tally[one]]
        took = [took_us for run in runs if run.ended_us is not None and (took_us := self._took_us(run)) is not None]
        return ", ".join(counts) + (f", median {duration(statistics.median(took))}" if took else "")

    def _details(self, node: Node, runs: Sequence[StepRun]) -> Iterator[str]:
        kind = node.step.kind
        if len(runs) == 1 and runs[0].taken:
            yield "taken over"
        elif kind == "foreach":
            done = sum(items_done(self._state, run) for run in runs)
            yield f"{done:,} of {sum(run.count for run in runs):,} items"
            if failed := sum(len(run.item_errors) for run in runs):
                yield f"{failed:,} failed"
        elif kind == "repeat" and (rounds := sum(run.count for run in runs)):
            yield f"{rounds:,} iteration{'s' if rounds > 1 else ''}"
        if retried := sum(max(run.attempt - 1, 0) for run in runs):
            again = "1 retry" if retried == 1 else f"{retried:,} retries"
            yield f"attempt {runs[0].attempt}" if len(runs) == 1 else again
        if any(run.in_doubt for run in runs):
            yield "in doubt: somebody has to say"
        if len(runs) == 1 and (due_us := self._state.delayed.get(runs[0].path)) is not None:
            yield f"{'goes on' if kind in ('wait', 'repeat') else 'next try'} in {duration(due_us - self._now_us)}"
        error = next((run.error for run in runs if run.error is not None), None)
        if error is not None:
            yield line_of(f"{error.get('type')}: {error.get('message')}")


def items_done(state: JobState, run: StepRun) -> int:
    """How many items of a foreach have ended by themselves, well or with an error of theirs."""
    return len(run.item_errors) + sum(state.scopes[run.inner(str(index))].ended_well for index in range(run.opened))
