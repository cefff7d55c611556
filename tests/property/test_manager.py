"""The manager as a state machine: every verb, the end of every call, time, crashes and restarts, in any order.

The model of each job is the pure machine (`manager_model`); the world is real (`manager_world`). A rule acts either at
rest, where the model says exactly what has to come of it, or in the middle of things, where several outcomes are right
and what was accepted must be told of in the end. Every example ends with a quiet time, in which every job has to become
final, and with the checker of the fault tests.

    MANAGER_STEPS=500000 MANAGER_SEED=7 pytest tests/property/test_manager.py     a longer run, and another one
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from openagents_json import JobManager, StepContext
from openagents_json.errors import InvalidTransition, JobNotFound, LeaseLost, StoreUnavailable
from openagents_json.job.bus import Bus
from openagents_json.job.engine.asking import Asker
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, Verb, resting
from openagents_json.job.machine.turn import Turn
from openagents_json.job.model import Job, JobPriority, JobStatus, StepStatus
from openagents_json.job.store import MemoryJobStore, Request
from tests.faults.checker import Evidence, read_records, violations
from tests.property.manager_flows import FLOWS, has_signal, plan_of
from tests.property.manager_model import Asked, Shadow, told
from tests.property.manager_world import Call, Host, World

STEPS = int(os.environ.get("MANAGER_STEPS", "24000"))  # rules executed, of both stores together
SEED = int(os.environ.get("MANAGER_SEED", "3"))
STEPS_PER_EXAMPLE = 80
MORE_ROUNDS = 6  # of a quarter of the rules each, while a window was not hit
SHARE = {"memory": 0.75, "sqlite": 0.25}  # threads and files make SQLite several times as slow

MAX_WORKERS = 2
MAX_JOBS = 5  # that are not final, children not counted
QUIET_ROUNDS = 120  # of the quiet time; each passes 5 s
TIMES_S = (0.06, 0.5, 2.0, 2.0, 4.0, 8.0, 20.0)
STALL_S = 31.0  # longer than a lease
VERBS: tuple[tuple[Verb, dict[str, Any]], ...] = (
    ("start", {}),
    ("pause", {}),
    ("pause", {}),
    ("resume", {}),
    ("resume", {}),
    ("cancel", {"force": False}),
    ("cancel", {"force": True}),
    ("set_priority", {"priority": "HIGH"}),
    ("set_priority", {"priority": "LOW"}),
    ("resolve_step", {"path": "a", "how": "retry"}),
    ("resolve_step", {"path": "a", "how": "output", "output": 7}),
)
CALM_VERBS = 9  # of these, what every job has a use for
WINDOWS = {
    "pause while a step runs",
    "pause during back-off",
    "pause takes effect with a result",
    "resume before the pause is effective",
    "cancel while a step runs",
    "cancel during back-off",
    "cancel while it waits for a signal",
    "cancel of a paused job",
    "cancel during finally or compensation",
    "force while finally or compensation runs",
    "force on a step that does not listen",
    "result of a step that was given up",
    "verb and result in one turn",
    "cancel and last result in one turn",
    "two verbs at once",
    "verb refused",
    "verb on a job that nobody holds",
    "verb on a job whose worker is dead",
    "verb on a job whose worker is down",
    "verb on a parent with a running child",
    "signal before a step waits for it",
    "signal to a job that waits for it",
    "signal while paused",
    "priority of a queued job",
    "timer due while paused",
    "step in doubt resolved",
    "crash between start and completion",
    "crash in the middle of a commit or a verb",
    "crash during back-off",
    "crash while paused",
    "crash while a request is undrained",
    "crash during finally or compensation",
    "close while a step runs",
    "job given up after three dead workers",
    "retry of a COMPLETED job",
    "retry of a FAILED job",
    "retry of a CANCELLED job",
    "worker taken for dead",
    "waited to the end",
    "waited for a pause",
    "watched to the end",
}
# Of the shorter run on SQLite: what only that can show, and the moments at which files and threads matter.
WINDOWS_OF_SQLITE = {
    "verb from another process on a job that runs",
    "two workers",
    "pause while a step runs",
    "cancel while a step runs",
    "cancel during back-off",
    "verb and result in one turn",
    "verb on a job that nobody holds",
    "verb on a job whose worker is dead",
    "crash between start and completion",
    "crash in the middle of a commit or a verb",
    "crash while a request is undrained",
    "crash while paused",
    "close while a step runs",
    "worker taken for dead",
    "waited to the end",
    "waited for a pause",
    "watched to the end",
}
DICE = st.integers(0, 2**32)
T = TypeVar("T")


@dataclass
class Tally:
    """What a whole run has done."""

    steps: int = 0
    examples: int = 0
    windows: Counter[str] = field(default_factory=Counter)


@dataclass
class Verbing:
    """A verb that is under way."""

    shadow: Shadow
    asked: Asked
    task: asyncio.Task[None]


class Managers(RuleBasedStateMachine):
    """One example."""

    kind = "memory"
    tally = Tally()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.kind)
        self.shadows: dict[str, Shadow] = {}
        self.dice = Random()
        self.tokens = 0
        self.faults = 0
        self.under_way: list[Verbing] = []
        self.waits: list[tuple[str, str, Host, asyncio.Task[Any]]] = []  # (job id, kind, …)
        self.watched: list[tuple[str, Host, list[Event], asyncio.Task[None]]] = []
        self.wrong: list[str] = []
        self.tally.examples += 1
        self.world.on_call = self.called
        self.world.open()

    # ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(dice=DICE)
    def create(self, dice: int) -> None:
        self.throw(dice)
        if len(self.living) < MAX_JOBS:
            self.create_one()
            self.go_on()
        else:
            self.pass_some_time(2.0)

    @rule(dice=DICE)
    def ask(self, dice: int) -> None:
        self.throw(dice)
        shadow, (verb, arguments) = self.pick(), self.one_of(VERBS[:CALM_VERBS])
        if self.below(3) == 0:
            if has_signal(shadow.plan.workflow.id):
                verb, arguments = "signal", {"name": "go", "payload": 1}
            elif shadow.plan.workflow.id == "once":
                verb, arguments = self.one_of(VERBS[CALM_VERBS:])
        if self.below(3):
            self.ask_at_rest(shadow, verb, arguments, self.host())
        else:
            self.begin(shadow, verb, arguments, self.host())
            self.go_on()

    @rule(dice=DICE)
    def ask_twice_at_once(self, dice: int) -> None:
        self.throw(dice)
        shadow = self.pick(alive=True)
        for _ in range(2):
            verb, arguments = self.one_of(VERBS[:CALM_VERBS])
            self.begin(shadow, verb, arguments, self.host())
        self.hit("two verbs at once")
        self.go_on()

    @rule(dice=DICE)
    def answer(self, dice: int) -> None:
        self.throw(dice)
        if call := self.pick_call():
            self.finish(call)
        else:
            self.pass_some_time(2.0)
        self.go_on()

    @rule(dice=DICE)
    def answer_and_ask(self, dice: int) -> None:
        """The end of a call against a verb: who wins is told the same to everybody."""
        self.throw(dice)
        call, (verb, arguments) = self.pick_call(), self.one_of(VERBS[:CALM_VERBS])
        if call is None:
            self.begin(self.pick(), verb, arguments, self.host())
            self.go_on()
            return
        shadow = self.shadows[call.context.job_id]
        answers_first = self.below(2)
        if answers_first:
            self.finish(call)
            self.world.turn(self.below(5))
        self.begin(shadow, verb, arguments, self.host())
        if not answers_first:
            self.world.turn(self.below(5))
            self.finish(call)
        self.hit("verb and result in one turn")
        if verb == "cancel" and shadow.plan.workflow.id == "one":
            self.hit("cancel and last result in one turn")
        self.go_on()

    @rule(dice=DICE)
    def wait_a_while(self, dice: int) -> None:
        self.throw(dice)
        seconds = self.one_of(TIMES_S)
        if self.below(3):
            self.pass_some_time(seconds)
        else:
            self.world.clock.advance(min(seconds, 8.0))
            self.go_on()

    @rule(dice=DICE)
    def crash(self, dice: int) -> None:
        """A worker is killed; perhaps another comes, perhaps not before its lease is over."""
        self.throw(dice)
        self.world.turn(self.below(8))
        if self.world.workers and self.below(3):
            host = self.one_of(self.world.workers)
            self.note_crash(host)
            self.faults += 1
            self.world.crash(host)
            if not self.world.workers and self.living and self.below(2):
                self.begin(self.pick(alive=True), *self.one_of(VERBS[:CALM_VERBS]), self.world.asker)
        if not self.world.workers and self.below(2):
            if self.below(2):
                self.pass_some_time(STALL_S)
            self.world.open()
        self.look()

    @rule(dice=DICE)
    def close(self, dice: int) -> None:
        """A worker is closed as it should be, or one comes if there is none."""
        self.throw(dice)
        if self.world.workers and self.below(2):
            host = self.one_of(self.world.workers)
            if any(call.host is host for call in self.world.calls):
                self.hit("close while a step runs")
            self.faults += 1
            self.world.close(host)
        elif not self.world.workers:
            self.world.open()
        self.look()

    @rule(dice=DICE)
    def disturb(self, dice: int) -> None:
        """One more process, or a process whose clock jumps: the others take it for dead."""
        self.throw(dice)
        workers = self.world.workers
        if self.kind == "sqlite" and len(workers) < MAX_WORKERS:
            self.world.open()
            if workers:
                self.hit("two workers")
            self.look()
        elif self.below(3):
            self.go_on()
        else:
            for host in workers:
                host.was_stalled = True
            self.faults += 1
            self.world.clock.advance(STALL_S)
            if workers:
                self.hit("worker taken for dead")
            self.go_on()

    @rule(dice=DICE)
    def retry(self, dice: int) -> None:
        """A new job from one that has ended, or the end of the old one's record."""
        self.throw(dice)
        self.settle()
        ended = [shadow for shadow in self.shadows.values() if shadow.state.is_final]
        shadow = self.one_of(ended) if ended and self.below(4) else self.pick()
        manager, from_step = self.host().manager, self.one_of([None, *shadow.plan.root.by_id])
        if not shadow.state.is_final:
            with pytest.raises(InvalidTransition):
                self.world.run(manager.retry_job(shadow.id, from_step))
        elif len(self.living) < MAX_JOBS:
            new_id = self.world.run(manager.retry_job(shadow.id, from_step, start=self.below(4) != 0))
            self.shadows[new_id] = Shadow.of(new_id, shadow.plan)
            self.hit(f"retry of a {shadow.status} job")
        else:
            self.delete(shadow, manager)
        self.settle()

    @rule(dice=DICE)
    def wait_for_a_job(self, dice: int) -> None:
        self.throw(dice)
        shadow, host = self.pick(), self.host()
        if self.kind == "memory" and not host.is_worker:
            host = self.world.open()
        match self.below(3):
            case 0:
                self.begin_wait(shadow, "final", host, host.manager.wait_final(shadow.id))
            case 1:
                self.begin_wait(shadow, "paused", host, host.manager.wait_paused(shadow.id))
            case _:
                events: list[Event] = []
                task = self.world.loop.create_task(_watch(host.manager, shadow.id, events))
                self.watched.append((shadow.id, host, events, task))
        self.go_on()

    def teardown(self) -> None:
        try:
            self.quiet_time()
            self.check_all()
        finally:
            self.world.end()

    # ── choices ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def living(self) -> list[Shadow]:
        return [shadow for shadow in self.shadows.values() if not shadow.state.is_final]

    def throw(self, dice: int) -> None:
        """A rule begins: its choices come from one number, which is far cheaper than a draw each."""
        self.tally.steps += 1
        self.dice = Random(dice)

    def below(self, limit: int) -> int:
        return self.dice.randrange(limit)

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def create_one(self) -> Shadow:
        name, priority = self.one_of(FLOWS), self.one_of(list(JobPriority))
        create = self.host().manager.create_job(name, priority=priority, start=self.below(5) != 0)
        job_id = self.world.run(create)
        shadow = self.shadows[job_id] = Shadow.of(job_id, plan_of(name))
        return shadow

    def pick(self, *, alive: bool = False) -> Shadow:
        """A job, mostly one that is not final; a new one if there is none."""
        shadows = self.living if alive or self.below(8) else list(self.shadows.values())
        return self.one_of(shadows) if shadows else self.create_one()

    def pick_call(self) -> Call | None:
        waiting = [call for call in self.world.calls if not call.end and call.context.job_id in self.shadows]
        return self.one_of(waiting) if waiting else None

    def host(self) -> Host:
        """Who asks: a worker, or a process that only asks. The memory store belongs to one process at a time."""
        workers = self.world.workers
        if not workers or (self.kind == "sqlite" and self.below(3) == 0):
            return self.world.asker
        return self.one_of(workers)

    def hit(self, window: str) -> None:
        self.tally.windows[window] += 1

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def go_on(self) -> None:
        """To rest, or only a few turns of the loop."""
        if self.below(2):
            self.settle()
        else:
            self.world.turn(self.below(10))

    def settle(self) -> None:
        self.world.settle()
        self.look()

    def pass_some_time(self, seconds: float) -> None:
        for shadow in self.living:
            due = shadow.state.next_due()
            if shadow.status == JobStatus.PAUSED and due and due[0] <= self.world.clock.now_us() + seconds * 1e6:
                self.hit("timer due while paused")
        self.world.pass_time(seconds)
        self.look()

    def finish(self, call: Call) -> None:
        shadow = self.shadows[call.context.job_id]
        if shadow.state.is_final or call.context.cancelled:
            self.hit("result of a step that was given up")
        if shadow.state.pause_requested:
            self.hit("pause takes effect with a result")
        call.finish(self.one_of(("ok", "ok", "ok", "retry", "retry", "fail")))

    def called(self, context: StepContext) -> None:
        """A component is called."""
        shadow = self.shadows.get(context.job_id)
        if shadow is not None and shadow.is_at_rest:
            story = [(event.number, event.type, event.data.get("worker", "")) for event in shadow.events[-8:]]
            who = f"attempt {context.attempt}, token {context.fencing_token}"
            self.wrong.append(f"{context.step} ({who}) of {context.job_id} is called after {shadow.status}: {story}")

    def note_crash(self, host: Host) -> None:
        states = [shadow.state for shadow in self.living]
        if any(call.host is host for call in self.world.calls):
            self.hit("crash between start and completion")
        if not self.world.is_quiet:
            self.hit("crash in the middle of a commit or a verb")
        if any(_is_backing_off(state) for state in states):
            self.hit("crash during back-off")
        if any(state.status == JobStatus.PAUSED for state in states):
            self.hit("crash while paused")
        if any(state.outcome is not None for state in states):
            self.hit("crash during finally or compensation")
        if any(shadow.requests for shadow in self.living):
            self.hit("crash while a request is undrained")

    def begin_wait(self, shadow: Shadow, kind: str, host: Host, wait: Coroutine[Any, Any, Job]) -> None:
        self.waits.append((shadow.id, kind, host, self.world.loop.create_task(wait)))

    def delete(self, shadow: Shadow, manager: JobManager) -> None:
        """A final job, with the children that belong to it."""
        if shadow.state.parent is not None or any(one.state.parent for one in self.living):
            return  # whether all children have ended is not known here
        self.world.run(manager.delete_job(shadow.id))
        gone = {shadow.id} | {
            one.id for one in self.shadows.values() if (one.state.parent or {}).get("job_id") == shadow.id
        }
        for job_id in gone:
            del self.shadows[job_id]
            with pytest.raises(JobNotFound):
                self.world.run(manager.get_job(job_id))
        self.waits = [wait for wait in self.waits if wait[0] not in gone]
        self.watched = [watch for watch in self.watched if watch[0] not in gone]

    # ── verbs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, shadow: Shadow, verb: Verb, arguments: Mapping[str, Any], host: Host) -> Verbing:
        """Call a verb and let it go its way."""
        self.tokens += 1
        asked = Asked(verb, f"v{self.tokens}", dict(arguments), len(shadow.events))
        self.note_verb(shadow, asked, host)
        if verb in ("resume", "cancel", "resolve_step"):
            for one in self.family(shadow):
                one.is_at_rest = one.state.is_final
        verbing = Verbing(shadow, asked, self.world.loop.create_task(_call(host.manager, shadow.id, asked)))
        self.under_way.append(verbing)
        return verbing

    def family(self, shadow: Shadow) -> list[Shadow]:
        """The job and its children, which hear of what is asked of it."""
        return [one for one in self.shadows.values()
                if one is shadow or (one.state.parent or {}).get("job_id") == shadow.id]  # fmt: skip

    def ask_at_rest(self, shadow: Shadow, verb: Verb, arguments: Mapping[str, Any], host: Host) -> None:
        """Call a verb when nothing else happens: what comes of it is known before."""
        self.settle()
        stored = self.world.run(self.world.store.read(shadow.id))
        assert stored is not None
        is_exact = stored.owner is None and not shadow.requests and (not host.is_worker)
        before, has_children = len(shadow.events), bool(shadow.state.children)
        verbing = self.begin(shadow, verb, arguments, host)
        asked = verbing.asked
        now_us = self.world.clock.now_us()
        refused = shadow.is_refused_early(verb) if verb != "signal" else shadow.state.is_final
        if stored.owner is None and not shadow.requests and not shadow.state.is_final:
            refused = refused or shadow.is_refused(asked)
        events = shadow.next_events(asked, now_us) if is_exact and not refused and not shadow.state.is_final else None
        self.world.settle()
        assert verbing.task.done(), f"{verb} does not return"
        error = verbing.task.exception()
        assert isinstance(error, InvalidTransition) == refused, f"{verb} of a {shadow.shown} job gave {error!r}"
        self.look()
        if refused:
            self.hit("verb refused")
            assert isinstance(error, InvalidTransition) and error.job_id == shadow.id
            assert not is_exact or len(shadow.events) == before, "a refused verb has changed something"
        elif events is not None and not self.world.workers:
            recorded = told(shadow.events[before:])
            recorded = recorded[: len(events)] if has_children else recorded  # what they answer comes after
            assert recorded == events, f"{asked} recorded {recorded}, and the machine says {events}"

    def note_verb(self, shadow: Shadow, asked: Asked, host: Host) -> None:
        """Which windows a verb falls into."""
        state, verb = shadow.state, asked.verb
        runs = bool(self.world.calls_of(shadow.id))
        if state.is_final:
            return
        if verb == "pause" and runs:
            self.hit("pause while a step runs")
        if verb == "pause" and _is_backing_off(state):
            self.hit("pause during back-off")
        if verb == "resume" and state.pause_requested:
            self.hit("resume before the pause is effective")
        if verb == "cancel":
            self.note_cancel(shadow, asked, runs=runs)
        if verb == "signal":
            waits = "go" in state.awaiting
            if state.status == JobStatus.PAUSED:
                self.hit("signal while paused")
            self.hit("signal to a job that waits for it" if waits else "signal before a step waits for it")
        if verb == "set_priority" and state.status == JobStatus.QUEUED:
            self.hit("priority of a queued job")
        if verb == "resolve_step" and "a" in state.in_doubt:
            self.hit("step in doubt resolved")
        if state.status in (JobStatus.QUEUED, JobStatus.WAITING, JobStatus.PAUSED):
            self.hit("verb on a job that nobody holds")
        if not self.world.workers:
            is_held = state.status == JobStatus.RUNNING
            self.hit("verb on a job whose worker is dead" if is_held else "verb on a job whose worker is down")
        elif host is self.world.asker and runs:
            self.hit("verb from another process on a job that runs")
        if any(self.world.calls_of(child) for child in state.children):
            self.hit("verb on a parent with a running child")

    def note_cancel(self, shadow: Shadow, asked: Asked, *, runs: bool) -> None:
        state, force = shadow.state, asked.arguments["force"]
        if runs:
            self.hit("cancel while a step runs")
        if _is_backing_off(state):
            self.hit("cancel during back-off")
        if state.awaiting:
            self.hit("cancel while it waits for a signal")
        if state.status == JobStatus.PAUSED:
            self.hit("cancel of a paused job")
        if state.outcome is not None:
            self.hit("force while finally or compensation runs" if force else "cancel during finally or compensation")
        if force and any(call.is_stubborn for call in self.world.calls_of(shadow.id)):
            self.hit("force on a step that does not listen")

    # ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """Read on, and take note of verbs and waits that have returned."""
        self.collect()
        over = [wait for wait in self.waits if wait[3].done() or wait[2].is_gone]  # before the events are read
        self.world.run(self._look())
        self.collect_waits(over)
        assert self.wrong == [], self.wrong

    async def _look(self) -> None:
        was_quiet, writes = self.world.is_quiet, self.world.writes
        for shadow in list(self.shadows.values()):
            if not shadow.state.is_final or shadow.accepted:
                await self.read_on(shadow)
        if not was_quiet:
            return
        resting = [one for one in self.shadows.values() if not (one.is_at_rest and one.state.is_final)]
        for shadow in resting:
            await shadow.check_row(self.world.store)
        is_asked = self.under_way or any(one.accepted or one.requests for one in self.shadows.values())
        if self.world.writes == writes:  # nothing happened meanwhile
            for shadow in resting:
                if shadow.state.is_final or (shadow.status == JobStatus.PAUSED and not is_asked):
                    shadow.is_at_rest = True
                    await self.check_rest(shadow)

    async def read_on(self, shadow: Shadow) -> None:
        for event in await shadow.look(self.world.store):
            if event.type == "child.started":
                child_id = event.data["child_id"]
                child = self.shadows[child_id] = Shadow.of(child_id, plan_of(event.data["workflow_id"]))
                await self.read_on(child)
            elif event.type == "job.failed" and event.data["error"]["type"] == "worker_lost":
                self.hit("job given up after three dead workers")

    async def check_rest(self, shadow: Shadow) -> None:
        """PAUSED and final mean that no code of the job runs, or the row counts what does."""
        running = [call for call in self.world.calls_of(shadow.id) if not call.host.is_gone and not call.end]
        if running and not any(call.host.was_stalled for call in running):
            summary = await self.world.store.read_summary(shadow.id)
            assert summary is not None and len(running) <= summary.abandoned, (
                f"{len(running)} calls of the {shadow.status} job {shadow.id} run, its row counts {summary}"
            )

    def collect(self) -> None:
        """Verbs that have returned: what was accepted has to be told of, what was refused never."""
        for verbing in [one for one in self.under_way if one.task.done()]:
            self.under_way.remove(verbing)
            shadow, asked, task = verbing.shadow, verbing.asked, verbing.task
            error = None if task.cancelled() else task.exception()
            if task.cancelled() or isinstance(error, StoreUnavailable | LeaseLost):
                continue  # its process is gone: it may have been accepted or not
            if isinstance(error, InvalidTransition):
                shadow.refused.add(asked.token)
            elif isinstance(error, JobNotFound):
                assert shadow.id not in self.shadows
            elif error is not None:
                raise error
            else:
                shadow.accepted[asked.token] = asked

    def collect_waits(self, over: Sequence[tuple[str, str, Host, asyncio.Task[Any]]]) -> None:
        """Waits that have come to something, or whose process is gone."""
        for wait in over:
            self.waits.remove(wait)
            job_id, kind, _, task = wait
            if not task.done() or task.cancelled():
                task.cancel()
                continue
            shadow, error = self.shadows[job_id], task.exception()
            if isinstance(error, StoreUnavailable):
                continue
            if kind == "final":
                assert error is None and task.result().status == shadow.status, f"wait_final gave {error or task}"
                self.hit("waited to the end")
            elif isinstance(error, InvalidTransition):
                assert error.status == shadow.status and shadow.state.is_final
            else:
                assert error is None and task.result().status == JobStatus.PAUSED
                assert any(event.type == "job.paused" for event in shadow.events)
                self.hit("waited for a pause")

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def quiet_time(self) -> None:
        """Nothing bad happens any more, and everybody answers: every job has to become final."""
        self.settle()
        self.world.lets_all_pass = True
        if not self.world.workers:
            self.world.open()
        for call in list(self.world.calls):
            call.finish("ok")
        for _ in range(QUIET_ROUNDS):
            self.settle()
            self.help_on()
            if not self.living and not self.under_way:
                break
            self.world.pass_time(5)
        self.settle()
        stuck = {shadow.id: (str(shadow.status), told(shadow.events)[-3:]) for shadow in self.living}
        assert not stuck, f"never final: {stuck}"
        assert not self.under_way, "a verb does not return"

    def help_on(self) -> None:
        """Do what a job may wait for."""
        for shadow in self.living:
            with contextlib.suppress(InvalidTransition):  # it has changed since it was looked at
                self.world.run(self.help(shadow, self.world.workers[0].manager))

    async def help(self, shadow: Shadow, manager: JobManager) -> None:
        state = shadow.state
        if state.status == JobStatus.CREATED:
            await manager.start_job(shadow.id)
        elif state.status == JobStatus.PAUSED or state.pause_requested:
            for one in self.family(shadow):
                one.is_at_rest = one.state.is_final
            await manager.resume_job(shadow.id)
        elif "go" in state.awaiting:
            await manager.signal(shadow.id, "go")
        for path in list(state.in_doubt):
            await manager.resolve_step(shadow.id, path, retry=True)

    def check_all(self) -> None:
        """The checker of the fault tests, and every reader against the history."""
        self.world.pass_time(0.6, step_s=0.06)  # so that every process hears of what the others have written
        records = self.world.run(read_records(self.world.store))
        evidence = Evidence(
            records,
            accepted=set(self.shadows),
            effects=[one for _, one in sorted(self.world.effects.items()) if one.job_id in self.shadows],
            faults=self.faults + 1,
            concurrency=20,
            prefixes={shadow.id: shadow.events for shadow in self.shadows.values()},
            finals={shadow.id: str(shadow.status) for shadow in self.shadows.values()},
        )
        found = violations(evidence)
        assert found == [], found
        assert {record.id for record in records} == set(self.shadows), "there are jobs that nobody made"
        for host in self.world.hosts:
            for shadow in self.shadows.values():
                assert self.world.run(host.manager.get_summary(shadow.id)).status == shadow.status
        self.look()
        assert self.waits == [], "somebody waits for what has come"
        for job_id, host, events, task in self.watched:
            whole = self.shadows[job_id].events
            seen = [event.number for event in events]
            assert events == (whole[: len(events)] if host.is_gone else whole), f"of {len(whole)} a watcher saw {seen}"
            if not host.is_gone:
                task.result()
                self.hit("watched to the end")


async def _watch(manager: JobManager, job_id: str, events: list[Event]) -> None:
    async for event in manager.watch(job_id):
        events.append(event)


async def _call(manager: JobManager, job_id: str, asked: Asked) -> None:
    by, arguments = asked.token, asked.arguments
    match asked.verb:
        case "start":
            await manager.start_job(job_id, by=by)
        case "pause":
            await manager.pause_job(job_id, by=by)
        case "resume":
            await manager.resume_job(job_id, by=by)
        case "cancel":
            await manager.cancel_job(job_id, arguments["force"], by=by)
        case "set_priority":
            await manager.set_priority(job_id, arguments["priority"], by=by)
        case "signal":
            await manager.signal(job_id, "go", arguments["payload"], by=by)
        case "resolve_step" if arguments["how"] == "retry":
            await manager.resolve_step(job_id, "a", retry=True, by=by)
        case "resolve_step":
            await manager.resolve_step(job_id, "a", output=arguments["output"], by=by)


def _is_backing_off(state: JobState) -> bool:
    return any(state.runs[path].status == StepStatus.RETRYING for path in state.delayed)


def live_through(kind: str, tally: Tally, steps: int, *, number: int = SEED, shrinks: bool = True) -> None:
    """So many rules, in examples that the seed decides."""
    run_state_machine_as_test(
        seed(number)(type("Machine", (Managers,), {"kind": kind, "tally": tally})),
        settings=settings(
            max_examples=max(steps // STEPS_PER_EXAMPLE, 1),
            stateful_step_count=STEPS_PER_EXAMPLE,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    """The engine has much to say of so many crashes."""
    caplog.set_level(logging.CRITICAL + 1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_whatever_is_asked_and_whatever_breaks_the_manager_does_as_the_machine_says(kind: str) -> None:
    tally, steps = Tally(), int(STEPS * SHARE[kind])
    wanted = WINDOWS if kind == "memory" else WINDOWS_OF_SQLITE
    began_s = time.process_time()
    try:
        live_through(kind, tally, steps)
        for more in range(1, MORE_ROUNDS + 1):  # a rare window may need a few more examples, but not any number
            if wanted <= set(tally.windows):
                break
            live_through(kind, tally, steps // 4, number=SEED + more)
    finally:
        took_s = time.process_time() - began_s
        print(f"\nMANAGER_STEPS={STEPS} MANAGER_SEED={SEED}: {kind}: {tally.steps} rules in {tally.examples} examples, "
              f"{took_s:.0f} s of CPU, {tally.steps / took_s:.0f} rules/s")  # fmt: skip
        for window, count in sorted(tally.windows.items()):
            print(f"{count:>8}  {window}")
    assert wanted <= set(tally.windows), f"never hit: {sorted(wanted - set(tally.windows))}"
    assert tally.steps >= steps * 0.85  # some examples are shorter than asked for


# ── what has to be noticed ────────────────────────────────────────────────────────────────────────────────────────


def _lose_requests(patch: pytest.MonkeyPatch) -> None:
    """The store acknowledges a request to a job that is held, and forgets it."""
    put = MemoryJobStore._put

    def forgetful(self: MemoryJobStore, job: Any, request: Request) -> None:
        if job.owner is None:
            put(self, job, request)

    patch.setattr(MemoryJobStore, "_put", forgetful)


def _forget_to_refuse(patch: pytest.MonkeyPatch) -> None:
    async def agree(self: Asker, job_id: str, verb: Verb) -> None:
        """Everything is allowed."""

    patch.setattr(Asker, "_refuse_early", agree)


def _wake_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bus, "publish", lambda self, state, events: None)


def _start_while_paused(patch: pytest.MonkeyPatch) -> None:
    """A pause is shown at once, although something runs."""
    conclude = resting.conclude

    def hasty(turn: Turn) -> None:
        if turn.state.pause_requested and turn.is_held and turn.state.live:
            turn.record("job.paused", {})
        else:
            conclude(turn)

    patch.setattr(resting, "conclude", hasty)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("weaken", [_lose_requests, _forget_to_refuse, _wake_nobody, _start_while_paused])
def test_weakened_manager_is_noticed(weaken: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        weaken(patch)
        with pytest.raises((AssertionError, ExceptionGroup)):
            live_through("memory", Tally(), 4_000, shrinks=False)
