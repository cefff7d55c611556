"""Laws of the machine: random workflows, driven through random interleavings of all that can happen to a job."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from openagents_json.job.events import Event
from openagents_json.job.machine import (
    Claimed,
    Happening,
    Interrupted,
    ReleaseEnded,
    Requested,
    ResourceTracked,
    Takeover,
    Tick,
    Verb,
    fold,
)
from openagents_json.job.machine.state import FINALLY, ROOT, Scope
from openagents_json.job.model import JobStatus
from openagents_json.workflow.plan import Plan
from tests.unit.machine.drive import Drive, call, error, plan_of, reloaded, takeover_of

SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=False)
INPUTS = {"n": 2, "yes": True, "no": False, "list": [1, 2, 3], "empty": []}
VERBS: tuple[Verb, ...] = ("start", "pause", "pause", "resume", "resume", "cancel", "set_priority")
TURNS = 2_000  # more than any of these jobs needs to end once it is answered

# ── random workflows ──────────────────────────────────────────────────────────────────────────────────────────────


class Names:
    """Gives ids, and remembers which steps can be referred to."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> str:
        self.count += 1
        return f"s{self.count}"


LEAVES = ("call", "call", "call", "set", "wait", "signal", "raise")
CONTAINERS = ("foreach", "foreach", "repeat", "switch", "parallel")


@dataclass(frozen=True)
class Place:
    """Where a step stands: how deep, what it can refer to, and which names exist there. `is_calm`: only what gives
    the same outputs whenever things end (no races, no failures)."""

    depth: int = 0
    seen: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    is_calm: bool = False
    is_finally: bool = False  # nothing there can be undone
    children: tuple[str, ...] = ()  # workflows that steps can start

    def inside(self, *roots: str) -> Place:
        return replace(self, depth=self.depth + 1, roots=self.roots + roots)


@st.composite
def workflows(draw: DrawFn, is_calm: bool = False, children: tuple[str, ...] = ()) -> dict[str, Any]:
    names = Names()
    document: dict[str, Any] = {"steps": _steps(draw, names, Place(is_calm=is_calm, children=children))}
    if draw(st.booleans()):
        place = Place(1, is_calm=is_calm, is_finally=True, children=children)
        document["finally"] = _steps(draw, names, place)
    if not is_calm and draw(st.integers(0, 5)) == 0:
        document["timeout"] = draw(st.sampled_from([50.0, 1_000.0]))
    return document


def _steps(draw: DrawFn, names: Names, place: Place) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    own: list[str] = []
    for _ in range(draw(st.integers(1, 4 if place.depth == 0 else 2))):
        step = _step(draw, names, replace(place, seen=place.seen + tuple(own)))
        if own and draw(st.integers(0, 2)) == 0:
            step["needs"] = draw(st.lists(st.sampled_from(own), unique=True, max_size=2))
        if draw(st.integers(0, 3)) == 0:
            step["condition"] = _condition(draw, place.seen + tuple(own))
        steps.append(step)
        own.append(step["id"])
    return steps


def _step(draw: DrawFn, names: Names, place: Place) -> dict[str, Any]:
    id = names.next()
    kinds = LEAVES + (CONTAINERS if place.depth < 2 else ()) + (("workflow",) * 6 if place.children else ())
    kind = draw(st.sampled_from([one for one in kinds if not (place.is_calm and one == "raise")]))
    step = {"id": id} | _KINDS[kind](draw, names, place, id)
    if kind in (*CONTAINERS, "workflow") and not place.is_calm:
        if draw(st.integers(0, 4)) == 0:
            step["retry"] = {"max_attempts": 2, "delay_seconds": draw(st.sampled_from([0.0, 60.0]))}
        if draw(st.integers(0, 6)) == 0:
            step["timeout"] = draw(st.sampled_from([0.5, 100.0]))
    if draw(st.integers(0, 5)) == 0 and place.depth < 3:
        step["catch"] = [{"steps": _steps(draw, names, replace(place.inside("error"), depth=3))}]
        if draw(st.booleans()):
            step["catch"][0]["type"] = draw(st.sampled_from(["http", "expression", "timeout"]))
    if draw(st.integers(0, 4)) == 0 and not place.is_finally:
        step["compensate"] = {"component": "do", "inputs": {"value": f"{{{{ steps.{id}.output }}}}"}}
    if draw(st.integers(0, 7)) == 0:
        step["continue_on_error"] = True
    if draw(st.integers(0, 5)) == 0:
        step["fail_fast"] = False
    return step


def _call(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    step = call(id, inputs={"value": _value(draw, place)})
    if draw(st.booleans()):
        delay_s = draw(st.sampled_from([0.0, 1.0, 60.0]))
        step["retry"] = {"max_attempts": draw(st.integers(1, 3)), "delay_seconds": delay_s}
    if draw(st.integers(0, 5)) == 0:
        step["effect"] = "once"
    return step


def _foreach(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    step: dict[str, Any] = {
        "foreach": draw(st.sampled_from(["{{ inputs.list }}", "{{ inputs.empty }}", [1, 2], ["a", {"b": 1}, None, 4]])),
        "on_item_error": draw(st.sampled_from(["fail", "skip", "collect"])),
        "steps": _steps(draw, names, place.inside("item", "index")),
    }
    if draw(st.booleans()):
        step["concurrency"] = draw(st.integers(1, 2))
    if draw(st.integers(0, 3)) == 0:
        step["output"] = f"{{{{ [index, steps.{step['steps'][0]['id']}.output] }}}}"
    return step


def _repeat(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    repeat = {
        "until": draw(st.sampled_from(["{{ iteration == 1 }}", True, False, "{{ last is not none }}"])),
        "max_iterations": draw(st.integers(1, 3)),
        "delay_seconds": draw(st.sampled_from([0.0, 0.0, 60.0])),
        "initial": draw(st.sampled_from([None, "{{ inputs.n }}"])),
        "on_max": "continue" if place.is_calm else draw(st.sampled_from(["fail", "continue"])),
    }
    return {"repeat": repeat, "steps": _steps(draw, names, place.inside("iteration", "last"))}


def _switch(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    cases = [
        {"when": _condition(draw, place.seen), "steps": _steps(draw, names, place.inside())}
        for _ in range(draw(st.integers(1, 2)))
    ]
    default = _steps(draw, names, place.inside()) if draw(st.booleans()) else []
    return {"switch": cases, "default": default}


def _parallel(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    branches = {name: _steps(draw, names, place.inside()) for name in "abc"[: draw(st.integers(1, 3))]}
    ways: list[str | int] = ["all", "first", len(branches)]
    wait_for = "all" if place.is_calm else draw(st.sampled_from(ways))
    return {"parallel": branches, "wait_for": wait_for}


def _wait(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    return {"wait": {"seconds": draw(st.sampled_from([0, 1, 100]))}}


def _signal(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    step: dict[str, Any] = {"signal": draw(st.sampled_from(["go", "go", "stop"]))}
    if place.is_calm:
        step["signal"] = f"go-{id}"  # who takes which is no matter of order
    elif draw(st.integers(0, 2)) == 0:
        step |= {"timeout": 50.0, "on_timeout": draw(st.sampled_from(["fail", "continue"]))}
    return step


def _workflow(draw: DrawFn, names: Names, place: Place, id: str) -> dict[str, Any]:
    return {"workflow": draw(st.sampled_from(place.children)), "detached": draw(st.integers(0, 5)) == 0}


_KINDS: dict[str, Callable[[DrawFn, Names, Place, str], dict[str, Any]]] = {
    "call": _call,
    "set": lambda draw, names, place, id: {"set": _value(draw, place)},
    "wait": _wait,
    "signal": _signal,
    "raise": lambda draw, names, place, id: {"raise": {"type": "http.418", "message": "{{ job.id }}"}},
    "foreach": _foreach,
    "repeat": _repeat,
    "switch": _switch,
    "parallel": _parallel,
    "workflow": _workflow,
}


def _value(draw: DrawFn, place: Place) -> str:
    values = ["{{ inputs.n }}", "{{ inputs.n + 1 }}", "{{ job.id }}"]
    values += [f"{{{{ {root} }}}}" for root in place.roots]
    if place.seen:
        values += [f"{{{{ steps.{draw(st.sampled_from(place.seen))}.output }}}}"] * 2
        if not place.is_calm:
            values += [f"{{{{ steps.{draw(st.sampled_from(place.seen))}.output.absent }}}}"]  # fails
    return draw(st.sampled_from(values))


def _condition(draw: DrawFn, seen: Sequence[str]) -> str | bool:
    conditions: list[str | bool] = ["{{ inputs.yes }}", "{{ inputs.no }}", False]
    if seen:
        conditions += [f"{{{{ steps.{draw(st.sampled_from(seen))}.success }}}}"] * 2
    return draw(st.sampled_from(conditions))


# ── random lives ──────────────────────────────────────────────────────────────────────────────────────────────────


class Tape:
    """Choices drawn from a seed: far cheaper than a draw each, and evenly spread. Zeros when it is over."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._left = self._random.randrange(200)

    def __bool__(self) -> bool:
        return self._left > 0

    def below(self, limit: int) -> int:
        self._left -= 1
        return self._random.randrange(limit) if self else 0


SEEDS = st.integers(0, 2**32)


class Life(Drive):
    """A job to which anything may happen, in any order and together."""

    def __init__(self, plan: Plan, tape: Tape, takeover: Takeover | None = None) -> None:
        super().__init__(plan, INPUTS, start=False, takeover=takeover, cleanup_s=100)
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
        if choice in (4, 5):
            return Requested("signal", arguments={"name": ["go", "stop"][tape.below(2)], "payload": tape.below(9)})
        if choice == 6 and self.state.in_doubt:
            return self.resolution(tape.below(3))
        if choice in (7, 8) and self.being_released:
            return self.release_ended()
        if not running:
            return self.release_ended() if self.being_released and tape.below(2) else Tick()
        if choice in (9, 10):
            return self.resource_tracked(running[tape.below(len(running))])
        path = running[tape.below(len(running))]
        answers: list[Happening] = [
            self.succeeded(path, {"of": path}),
            self.succeeded(path, tape.below(5)),
            self.stopped(path) if path in self.told or self.releasing else self.succeeded(path, [path]),
            self.failed(path, "http.429", asked_delay_s=2.0 if tape.below(2) else None),
            self.failed(path, "fatal", retryable=False, abandoned=tape.below(2) == 0),
            self.failed(path, "timeout.attempt"),
        ]
        answer = answers[tape.below(len(answers))]
        self.old.append(answer)
        return answer

    def resource_tracked(self, path: str) -> ResourceTracked:
        """What an attempt acquires, in any of the ways."""
        until, keep = ["step", "job"][self.tape.below(2)], self.tape.below(4) == 0
        return ResourceTracked(path, self.run(path).token, 0, f"of {path}", "give_back", {}, until, keep)

    def release_ended(self) -> ReleaseEnded:
        """What became of a release that is on; or of an old try of one."""
        on = [one for one in self.state.ledger.values() if one.live]
        one, choice = on[self.tape.below(len(on))], self.tape.below(8)
        answer = ReleaseEnded(one.id, one.token, None if choice < 4 else error("stuck"), was_told=choice == 6)
        self.old.append(answer)
        return answer

    def resolution(self, choice: int) -> Requested:
        """What somebody says of a step in doubt."""
        path = next(iter(self.state.in_doubt))
        how = ["output", "error", "retry"][choice]
        arguments = {"path": path, "how": how, "output": answer_to(path), "error": "it did not happen"}
        return Requested("resolve_step", "somebody", None, arguments)

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
            elif self.being_released:
                on = [one for one in self.state.ledger.values() if one.live]
                self.turn(*(ReleaseEnded(one.id, one.token) for one in on))
            elif self.state.in_doubt:
                self.turn(self.resolution(0))
            elif self.state.awaiting:
                name = next(iter(self.state.awaiting))
                self.turn(Requested("signal", arguments={"name": name, "payload": {"for": name}}))
            else:
                due = self.state.next_due()
                self.slots = 1_000
                self.now_us = max(self.now_us, due[0] if due else 0, self.state.wake_us or 0)
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
        told = {run.path for run in state.runs.values() if run.live and state.scopes[run.scope].is_cut}
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
            assert not cancelled or (is_cleanup(plan, path) and not forced), "an attempt started after the cancel"
            assert path not in live and path not in ended
            assert data["attempt"] == attempts[path] + 1
            attempts[path] += 1
            live[path] = data["attempt"]
            check_needs(plan, path, ended)
        elif event.type in ("attempt.failed", "attempt.cancelled", "attempt.lost", "step.in_doubt") or (
            event.type == "step.completed" and "attempt" in data
        ):
            assert live.pop(path) == data["attempt"]
        assert not (event.type.startswith("step.") and path in live)
        if event.type in (
            "step.completed", "step.failed", "step.skipped", "step.cancelled", "step.taken_over", "attempt.cancelled"
        ):  # fmt: skip
            assert path not in ended, f"{path} ended twice"
            ended.add(path)
        pause_marked |= event.type == "job.pause_requested"
        pause_marked &= event.type not in ("job.pause_withdrawn", "job.paused", "job.cancel_requested")
        paused |= event.type == "job.paused"
        paused &= event.type not in ("job.resumed", "job.cancel_requested")
        cancelled |= event.type == "job.cancel_requested"
        forced |= event.type == "job.cancel_requested" and data["force"]
    assert not live


def check_ledger(history: list[Event]) -> None:
    """Every tracked resource was released, kept or leaked, once; its releases came one at a time, after their time had
    come, the newest first."""
    tracked: dict[str, dict[str, Any]] = {}
    open_: set[str] = set()
    due: set[str] = set()
    live: set[str] = set()
    tries: Counter[str] = Counter()
    busy: set[str] = set()  # paths of attempts that are on
    freed_us = 0  # when an attempt or a release ended last
    held_up = False
    for event in history:
        data = event.data
        if event.type == "attempt.started":
            busy.add(data["path"])
        elif event.type == "resource.tracked":
            tracked[data["id"]] = data
            open_.add(data["id"])
        elif ending := ended_attempt(event):
            path, number, well = ending
            busy.discard(path)
            freed_us = event.at_us
            for id in [id for id in open_ - due if (tracked[id]["path"], tracked[id]["attempt"]) == (path, number)]:
                _make_due(tracked[id], open_, due, well=well, until="step")
        elif event.type == "job.releasing":
            for id in open_ - due:
                _make_due(tracked[id], open_, due, well=data["outcome"] == "COMPLETED", until="job")
            assert len(open_) <= data["resources"]
        elif event.type == "release.started":
            id = data["id"]
            assert id in open_ and id in due and id not in live and not held_up
            assert data["attempt"] == tries[id] + 1
            tries[id] += 1
            live.add(id)
            for other in open_ & due - {id}:
                is_group = all(tracked[other][name] == tracked[id][name] for name in ("path", "attempt", "until"))
                assert not (is_group and other in live), "two of one attempt are released at once"
                assert not (is_group and int(other) > int(id) and not tries[other]), "an older one came first"
        elif event.type in ("release.failed", "resource.released", "resource.leaked"):
            id = data["id"]
            assert event.type == "resource.leaked" or id in live
            if event.type == "resource.leaked" and not tries[id] and data["error"]["type"] != "worker_lost":
                # Its turn did not come in time: newer ones were being released, or attempts had the slots, up to now.
                assert data["error"]["type"] == "timeout.release" and (live or busy or freed_us == event.at_us)
            if id in live:
                live.remove(id)
                freed_us = event.at_us
            if event.type != "release.failed":
                open_.remove(id)  # so it ends once
        elif event.type == "job.worker_lost":
            live.clear()
        held_up |= event.type in ("job.pause_requested", "job.paused")
        held_up &= event.type not in ("job.pause_withdrawn", "job.resumed", "job.cancel_requested")
    assert not open_ and not live


def _make_due(resource: dict[str, Any], open_: set[str], due: set[str], *, well: bool, until: str) -> None:
    if resource["until"] == "job" and until == "step" and well:
        return
    if well and resource["keep"]:
        open_.remove(resource["id"])
    else:
        due.add(resource["id"])


def ended_attempt(event: Event) -> tuple[str, int, bool] | None:
    """The path and number of an attempt that this event ends, and whether it went well."""
    is_end = event.type in ("attempt.failed", "attempt.cancelled", "attempt.lost", "step.in_doubt")
    if is_end or (event.type == "step.completed" and "attempt" in event.data):
        return event.data["path"], event.data["attempt"], not is_end
    return None


def is_cleanup(plan: Plan, path: str) -> bool:
    """Whether a step belongs to what runs after a cancel: the finally steps and the calls that undo."""
    return path.endswith("[undo]") or plan.nodes[re.split(r"[~\[]", path)[0]].block is plan.finally_block


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
@given(workflows(), SEEDS)
def test_whatever_happens_the_laws_hold_and_the_job_can_end(document: dict[str, Any], seed: int) -> None:
    life = Life(plan_of(document), Tape(seed))
    life.live_on()
    life.end()
    check_history(life.plan, life.history)
    check_ledger(life.history)
    leaked = [event.data["id"] for event in life.history if event.type == "resource.leaked"]
    assert [leak.id for leak in life.leaks] == leaked


@settings(SETTINGS, max_examples=100)
@given(workflows(is_calm=True), st.integers(0, 10_000))
def test_job_resumed_from_any_prefix_of_its_history_reaches_the_same_outputs(
    document: dict[str, Any], place: int
) -> None:
    plan = plan_of(document)
    whole = Life(plan, Tape(0))
    whole.end()
    assert whole.status == JobStatus.COMPLETED
    cut = whole.commits[place % len(whole.commits)]  # as a crash leaves it: whole commits
    resumed = Life(plan, Tape(0))
    resumed.history = list(whole.history[:cut])
    resumed.state = fold(plan, resumed.history)
    resumed.now_us = whole.now_us
    if resumed.status == JobStatus.RUNNING:
        resumed.turn(Interrupted("worker-1"))
    resumed.end()
    check_history(plan, resumed.history)
    assert resumed.status == JobStatus.COMPLETED
    assert resumed.state.outputs == whole.state.outputs


@settings(SETTINGS, max_examples=60)
@given(workflows(is_calm=True))
def test_retry_from_any_step_reaches_the_same_outputs(document: dict[str, Any]) -> None:
    plan = plan_of(document)
    whole = Life(plan, Tape(0))
    whole.end()
    for step_id in [None, *plan.root.by_id]:
        retry = Life(plan, Tape(0), takeover_of(whole.state, step_id))
        retry.end()
        check_history(plan, retry.history)
        assert retry.status == JobStatus.COMPLETED
        assert retry.state.outputs == whole.state.outputs


@settings(SETTINGS, max_examples=100)
@given(workflows(), SEEDS, st.integers(0, 1_000))
def test_whatever_happened_the_laws_hold_for_its_retry(document: dict[str, Any], seed: int, place: int) -> None:
    life = Life(plan_of(document), Tape(seed))
    life.live_on()
    life.end()
    steps = [None, *life.plan.root.by_id]
    retry = Life(life.plan, Tape(seed + 1), takeover_of(life.state, steps[place % len(steps)]))
    retry.live_on()
    retry.end()
    check_history(life.plan, retry.history)
    check_ledger(retry.history)
