"""Laws of the machine: random workflows, driven through random interleavings of all that can happen to a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from openagents_json.job.events import Event
from openagents_json.job.machine import Claimed, Happening, Interrupted, Requested, Tick, Verb, fold
from openagents_json.job.machine.state import FINALLY, ROOT, Scope
from openagents_json.job.model import JobStatus
from openagents_json.workflow.graph import Plan
from tests.unit.machine.drive import Drive, call, plan_of, reloaded, snapshot

SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=False)
INPUTS = {"n": 2, "yes": True, "no": False, "list": [1, 2, 3], "empty": []}
VERBS: tuple[Verb, ...] = ("start", "pause", "resume", "cancel", "set_priority")
TURNS = 2_000  # more than any of these jobs needs to end once it is answered

# ── random workflows ──────────────────────────────────────────────────────────────────────────────────────────────


class Names:
    """Gives ids, and remembers which steps can be referred to."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> str:
        self.count += 1
        return f"s{self.count}"


@st.composite
def workflows(draw: DrawFn) -> dict[str, Any]:
    names = Names()
    document: dict[str, Any] = {"steps": _steps(draw, names, depth=0, seen=[], in_foreach=False)}
    if draw(st.booleans()):
        document["finally"] = _steps(draw, names, depth=1, seen=[], in_foreach=False)
    return document


def _steps(draw: DrawFn, names: Names, depth: int, seen: list[str], in_foreach: bool) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    own: list[str] = []
    for _ in range(draw(st.integers(1, 4 if depth == 0 else 2))):
        step = _step(draw, names, depth, seen + own, in_foreach)
        if own and draw(st.integers(0, 2)) == 0:
            step["needs"] = draw(st.lists(st.sampled_from(own), unique=True, max_size=2))
        if draw(st.integers(0, 3)) == 0:
            step["condition"] = _condition(draw, seen + own)
        steps.append(step)
        own.append(step["id"])
    return steps


def _step(draw: DrawFn, names: Names, depth: int, seen: list[str], in_foreach: bool) -> dict[str, Any]:
    id = names.next()
    kind = draw(st.sampled_from(["call", "call", "set", "foreach", "foreach"] if depth < 2 else ["call", "set"]))
    if kind == "set":
        return {"id": id, "set": _value(draw, seen, in_foreach)}
    if kind == "call":
        step = call(id, inputs={"value": _value(draw, seen, in_foreach)})
        if draw(st.booleans()):
            delay_s = draw(st.sampled_from([0.0, 1.0, 60.0]))
            step["retry"] = {"max_attempts": draw(st.integers(1, 3)), "delay_seconds": delay_s}
        return step
    step = {
        "id": id,
        "foreach": draw(st.sampled_from(["{{ inputs.list }}", "{{ inputs.empty }}", [1, 2], ["a", {"b": 1}, None, 4]])),
        "on_item_error": draw(st.sampled_from(["fail", "skip", "collect"])),
        "steps": _steps(draw, names, depth + 1, seen, in_foreach=True),
    }
    if draw(st.booleans()):
        step["concurrency"] = draw(st.integers(1, 2))
    if draw(st.integers(0, 3)) == 0:
        step["output"] = f"{{{{ [index, steps.{step['steps'][0]['id']}.output] }}}}"
    return step


def _value(draw: DrawFn, seen: list[str], in_foreach: bool) -> str:
    values = ["{{ inputs.n }}", "{{ inputs.n + 1 }}", "{{ job.id }}"]
    if in_foreach:
        values += ["{{ item }}", "{{ index }}"]
    if seen:
        values += [f"{{{{ steps.{draw(st.sampled_from(seen))}.output }}}}"] * 2
        values += [f"{{{{ steps.{draw(st.sampled_from(seen))}.output.absent }}}}"]  # fails
    return draw(st.sampled_from(values))


def _condition(draw: DrawFn, seen: list[str]) -> str | bool:
    conditions: list[str | bool] = ["{{ inputs.yes }}", "{{ inputs.no }}", False]
    if seen:
        conditions += [f"{{{{ steps.{draw(st.sampled_from(seen))}.success }}}}"] * 2
    return draw(st.sampled_from(conditions))


# ── random lives ──────────────────────────────────────────────────────────────────────────────────────────────────


class Tape:
    """Choices in order, as hypothesis drew them: cheap to draw, and they shrink well. Zeros when it is over."""

    def __init__(self, choices: list[int]) -> None:
        self.choices = choices[::-1]

    def __bool__(self) -> bool:
        return bool(self.choices)

    def below(self, limit: int) -> int:
        return self.choices.pop() % limit if self.choices else 0


TAPES = st.lists(st.integers(0, 1_000), max_size=80).map(Tape)


class Life(Drive):
    """A job to which anything may happen, in any order and together."""

    def __init__(self, plan: Plan, tape: Tape) -> None:
        super().__init__(plan, INPUTS, start=False)
        self.tape = tape
        self.old: list[Happening] = []  # answers that were given already; they may come again

    def live_on(self) -> None:
        """Until the tape is over."""
        while self.tape and not self.state.is_final:
            self.slots = [1, 2, 1_000][self.tape.below(3)]
            self.now_us += [0, 1, 1_000_000, 90_000_000][self.tape.below(4)]
            happenings = [self._happening() for _ in range(1 + self.tape.below(3))]
            if self.tape.below(8) == 0:
                self.state = reloaded(self.state) if self.tape.below(2) else fold(self.plan, self.history)
            self.turn(*self._once(happenings))
            check_state(self)

    def _once(self, happenings: list[Happening | None]) -> Iterator[Happening]:
        """A claim or an interruption belongs to the status that the store has, so it comes first and alone."""
        for happening in happenings:
            if isinstance(happening, Claimed | Interrupted):
                self.releasing = None
                yield happening
                return
        yield from (one for one in happenings if one is not None)

    def _happening(self) -> Happening | None:
        tape, running = self.tape, self.running
        choice = tape.below(16)
        if choice == 0:
            arguments = {"force": tape.below(3) == 0, "priority": ["LOW", "HIGH"][tape.below(2)]}
            return Requested(VERBS[tape.below(len(VERBS))], "somebody", None, arguments)
        if choice == 1 and self.old:
            return self.old[tape.below(len(self.old))]
        if self.status == JobStatus.CREATED:
            return Requested("start")
        if self.status == JobStatus.QUEUED:
            self.epoch += 1
            return Claimed(f"worker-{self.epoch}", self.epoch)
        if self.status == JobStatus.PAUSED:
            return Requested("resume")
        if self.status == JobStatus.RUNNING and choice == 2:
            return Interrupted(f"worker-{self.epoch}")
        if self.status == JobStatus.RUNNING and choice == 3:
            self.releasing = "shutdown"
        if not running:
            return Tick()
        path = running[tape.below(len(running))]
        answers: list[Happening] = [
            self.succeeded(path, {"of": path}),
            self.succeeded(path, tape.below(5)),
            self.stopped(path) if path in self.told or self.releasing else self.succeeded(path, [path]),
            self.failed(path, "http.429", asked_delay_s=2.0 if tape.below(2) else None),
            self.failed(path, "fatal", retryable=False, abandoned=tape.below(2) == 0),
        ]
        answer = answers[tape.below(len(answers))]
        self.old.append(answer)
        return answer

    def end(self) -> None:
        """Answer everything until the job is final."""
        for _ in range(TURNS):
            if self.state.is_final:
                return
            if self.status == JobStatus.CREATED:
                self.start()
            elif self.status == JobStatus.QUEUED:
                self.claim()
            elif self.status == JobStatus.PAUSED or self.state.pause_requested:
                self.resume()
            elif self.running:
                path = self.running[0]
                self.turn(self.stopped(path) if path in self.told else self.succeeded(path, answer_to(path)))
            else:
                due_us = self.state.next_due_us()
                self.slots = 1_000
                self.now_us = max(self.now_us, due_us or 0, self.state.wake_us or 0)
                self.tick()
            check_state(self)
        raise AssertionError(f"the job does not end: {self.types[-20:]}")


def answer_to(path: str) -> Any:
    return {"of": path}


# ── laws ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_state(drive: Drive) -> None:
    """What holds between turns, beside what Drive checks."""
    state = drive.state
    for run in state.runs.values():
        concurrency = state.node(run).step.concurrency
        assert concurrency is None or len(run.open) <= concurrency
        assert run.live <= (run.ended_us is None)
    for scope in state.scopes.values():
        in_ready = [path for path in state.ready if state.runs[path].scope == scope.key]
        assert state.is_final or scope.ready == len(in_ready)
        assert not (scope.is_stopped and in_ready), "something is ready in a scope that was stopped"
    if not state.is_final:
        told = {run.path for run in state.runs.values() if run.live and state.scopes[run.scope].is_stopped}
        assert told <= drive.told.keys(), "an attempt in a stopped scope was not told to stop"
    else:
        assert not (state.ready or state.closing or state.delayed or state.live)


def check_history(plan: Plan, history: list[Event]) -> None:
    """What holds of every history."""
    live: dict[str, int] = {}  # path → number of the attempt that is on
    attempts: Counter[str] = Counter()
    ended: set[str] = set()
    paused = pause_marked = cancelled = forced = False
    for event in history:
        data, path = event.data, event.data.get("path", "")
        if event.type == "attempt.started":
            assert not paused and not pause_marked, "an attempt started although a pause was asked for"
            assert not cancelled or (is_finally(plan, path) and not forced), "an attempt started after the cancel"
            assert path not in live and path not in ended
            assert data["attempt"] == attempts[path] + 1
            attempts[path] += 1
            live[path] = data["attempt"]
            check_needs(plan, path, ended)
        elif event.type in ("attempt.failed", "attempt.cancelled", "attempt.lost"):
            assert live.pop(path) == data["attempt"]
        elif event.type == "step.completed" and "attempt" in data:
            assert live.pop(path) == data["attempt"]
        assert not (event.type.startswith("step.") and path in live)
        if event.type in ("step.completed", "step.failed", "step.skipped", "step.cancelled", "attempt.cancelled"):
            assert path not in ended, f"{path} ended twice"
            ended.add(path)
        pause_marked |= event.type == "job.pause_requested"
        pause_marked &= event.type not in ("job.pause_withdrawn", "job.paused", "job.cancel_requested")
        paused |= event.type == "job.paused"
        paused &= event.type not in ("job.resumed", "job.cancel_requested")
        cancelled |= event.type == "job.cancel_requested"
        forced |= event.type == "job.cancel_requested" and data["force"]
    assert not live


def is_finally(plan: Plan, path: str) -> bool:
    block = plan.nodes[path.split("[")[0]].block
    return block is plan.finally_block


def check_needs(plan: Plan, path: str, ended: set[str]) -> None:
    """Everything that the step of this path waits for in its own array has ended."""
    prefix, _, step_id = path.rpartition(".")
    node = plan.nodes[step_id]
    for before in node.block.nodes:
        if node.index in before.followers:
            assert f"{prefix}.{before.id}".lstrip(".") in ended, f"{path} started before {before.id} ended"


def ends_of(scope: Scope) -> bool:
    return scope.key in (ROOT, FINALLY)


@settings(SETTINGS, max_examples=250)
@given(workflows(), TAPES)
def test_whatever_happens_the_laws_hold_and_the_job_can_end(document: dict[str, Any], tape: Tape) -> None:
    life = Life(plan_of(document), tape)
    life.live_on()
    life.end()
    check_history(life.plan, life.history)
