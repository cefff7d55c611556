"""Attempts whose component has limits: what this worker asks the store for, and what it holds.

A turn of a job asks here whether an attempt may begin (`may_begin`). There is leave in hand, or the attempt waits: a
loop of the worker asks the store for all that wait, and the job looks again when there is leave. The store is asked
when something here has changed, when others have written, when a token of a rate comes, and each `LOOK_S` in any case.

What is granted is held from before the attempt's start is committed until its code has really ended. A job that is
given back, paused, or has no use for it any more, gives it back unused; only the token of a rate is spent then. Leave
in hand is kept while this worker has no slot of its own for the attempt: given back, others might for ever come first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from openagents_json.clock import SECOND_US
from openagents_json.components.limits import ComponentLimit
from openagents_json.errors import ExpressionError
from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.machine import StepRun
from openagents_json.job.store.grants import WAITS_KEPT, Blocked, Cap, GrantKind, Want, cap_key
from openagents_json.job.store.limits import ALL_JOBS, Place
from openagents_json.workflow import key_value, limits

if TYPE_CHECKING:
    from openagents_json.job.engine.runner import Runner
    from openagents_json.job.engine.worker import Worker

ASKED_AT_ONCE = 256  # attempts, in one question
SAID_AT_ONCE = 1_000  # keys of which a question says how many slots we have, and nothing more
LOOK_S = 1.0  # after so long the store is asked again: word of others may have been lost


@dataclass(slots=True)
class _Waiter:
    """An attempt that is to begin."""

    runner: Runner
    want: Want
    is_granted: bool = False
    blocked: Blocked | None = None  # why not, when the store was asked last

    @property
    def keys(self) -> tuple[str, ...]:
        """Those of which it has slots when it is granted."""
        return tuple(cap.key for cap in self.want.caps if cap.per_us is None)


class Grants:
    """One per worker. Everything here runs in its event loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # Attempts that wait, or have leave in hand, by path. By runner, not by job: one may still be letting go of a
        # job that runs here again.
        self._waiters: dict[Runner, dict[str, _Waiter]] = {}
        self._begun: dict[Attempt, tuple[str, ...]] = {}  # keys of the slots that attempts have, until their code ends
        self._held: Counter[str] = Counter()  # slots that we have, by key: in hand or of attempts
        self._unsaid: dict[str, None] = {}  # keys of which the store has to hear how many we have, or want no more
        self._stirred = asyncio.Event()  # there may be something to ask or to say
        self._timer: Any = None

    # ── what a job asks, and tells ────────────────────────────────────────────────────────────────────────────────

    def caps(self, component: str, inputs: Callable[[], Mapping[str, Any]]) -> tuple[Cap, ...]:
        """As `machine.Caps`."""
        its_limits = self._worker.component_or_missing(component).limits
        return caps_of(component, its_limits, inputs()) if its_limits else ()

    def may_begin(self, runner: Runner, run: StepRun, caps: tuple[Cap, ...]) -> bool:
        """As `machine.Granted`. Of a job's attempts with the same caps the machine asks for the first ones only."""
        waiter = self._waiters.get(runner, {}).get(run.path)
        if waiter is None:
            place = Place(runner.sort_at, runner.claim.handle)
            waiter = _Waiter(runner, Want(runner.job_id, run.path, place, self._worker.clock.now_us(), caps))
            self._waiters.setdefault(runner, {})[run.path] = waiter
            self._stirred.set()
        return waiter.is_granted

    def begin(self, attempt: Attempt, runner: Runner) -> None:
        """Its start is committed: it has what was in hand for it."""
        if (waiter := self._waiters.get(runner, {}).pop(attempt.path, None)) is not None and waiter.is_granted:
            self._begun[attempt] = waiter.keys

    def code_ended(self, attempt: Attempt) -> None:
        """The code of an attempt has really ended."""
        self._give_back(self._begun.pop(attempt, ()))

    def keep(self, runner: Runner, paths: Collection[str]) -> None:
        """Of a job only the steps at these paths still wait, or have a use for what is in hand."""
        if (of_job := self._waiters.get(runner)) is None:
            return
        for path in [path for path in of_job if path not in paths]:
            waiter = of_job.pop(path)
            if waiter.is_granted:
                self._give_back(waiter.keys)
            else:
                self._say(cap.key for cap in waiter.want.caps)
        if not of_job:
            del self._waiters[runner]

    def blocked_of(self, runner: Runner) -> list[Blocked]:
        """What the attempts of a job that we run wait for."""
        waiters = self._waiters.get(runner, {}).values()
        return [one.blocked for one in waiters if one.blocked is not None and not one.is_granted]

    # ── what the worker tells ─────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """Others have written: perhaps they gave something back."""
        if self._waiters:
            self._stirred.set()

    def say_all(self) -> None:
        """The store has perhaps taken us for dead, and forgotten what we hold."""
        self._say(key for key, count in self._held.items() if count)

    async def ask(self) -> None:
        """A loop of the worker: when there is a reason, say what has changed, and ask for those that wait."""
        await self._stirred.wait()
        self._stirred.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            for waiters in self._questions():
                await self._ask(waiters)
            while self._unsaid:
                await self._ask([])
        except BaseException:
            self._stirred.set()
            raise
        self._look_again_in(self._patience_s())

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _waiting(self) -> Iterator[_Waiter]:
        return (one for of_job in self._waiters.values() for one in of_job.values() if not one.is_granted)

    def _questions(self) -> list[list[_Waiter]]:
        """Those that wait, in their order, as many questions as they need: of those with the same keys only as many as
        could be granted or are told of, for the others follow them."""
        asked: Counter[tuple[str, ...]] = Counter()
        chosen = []
        for waiter in sorted(self._waiting(), key=lambda one: one.want.place):
            caps = waiter.want.caps
            keys = tuple(cap.key for cap in caps)
            if asked[keys] < min(max(WAITS_KEPT, *(cap.limit for cap in caps)), ASKED_AT_ONCE):
                asked[keys] += 1
                chosen.append(waiter)
        return [chosen[first : first + ASKED_AT_ONCE] for first in range(0, len(chosen), ASKED_AT_ONCE)]

    async def _ask(self, waiters: list[_Waiter]) -> None:
        wants = [waiter.want for waiter in waiters]
        keys = {cap.key: None for want in wants for cap in want.caps}
        keys |= dict.fromkeys(islice(self._unsaid, SAID_AT_ONCE))
        for key in keys:
            self._unsaid.pop(key, None)
        try:
            holds = {key: self._held[key] for key in keys}
            answers = await self._worker.store.take_grants(self._worker.id, holds, wants)
        except BaseException:
            self._say(keys)
            raise
        granted: dict[Runner, None] = {}
        blocked = {}
        for waiter, answer in zip(waiters, answers, strict=True):
            if self._waiters.get(waiter.runner, {}).get(waiter.want.path) is not waiter:
                if answer is None:  # it has gone meanwhile, and the store believes that we have its slots
                    self._say(waiter.keys)
            elif answer is None:
                waiter.is_granted, waiter.blocked = True, None
                self._held.update(waiter.keys)
                granted[waiter.runner] = None
            else:
                waiter.blocked = blocked[waiter.want.caps] = answer
        for follower in self._waiting():
            if follower.blocked is None and (answer := blocked.get(follower.want.caps)) is not None:
                follower.blocked = _of(follower.want, answer)
        for runner in granted:
            runner.look_again()
        if granted:
            self._stirred.set()  # for those that follow them

    def _give_back(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
            self._say([key])

    def _say(self, keys: Iterable[str]) -> None:
        self._unsaid |= dict.fromkeys(keys)
        if self._unsaid:
            self._stirred.set()

    def _patience_s(self) -> float | None:
        """After how long the store is asked again; None: not until something happens."""
        waits = [LOOK_S if one.blocked is None or one.blocked.wait_us is None else one.blocked.wait_us / SECOND_US
                 for one in self._waiting()]  # fmt: skip
        return min([*waits, LOOK_S]) if waits else None

    def _look_again_in(self, seconds: float | None) -> None:
        if seconds is not None and not self._stirred.is_set():
            self._timer = self._worker.clock.call_later(seconds, self._stirred.set)


def caps_of(component: str, its_limits: Iterable[ComponentLimit], inputs: Mapping[str, Any]) -> tuple[Cap, ...]:
    """The limits of an attempt with these inputs. `ExpressionError` (limit.key) when a key has no value, or too long a
    one."""
    caps = []
    for one in its_limits:
        value = ALL_JOBS
        if one.key is not None:
            try:
                value = key_value(one.key, inputs)
            except ExpressionError as error:
                raise _no_key(component, one, f"cannot be worked out of its inputs: {error}") from None
        kind: GrantKind = "concurrency" if one.per_seconds is None else "rate"
        key = cap_key(kind, component, value)
        length = len(key) - len(kind) - len(component) - 2
        if length > limits.CONCURRENCY_KEY_CHARACTERS:
            at_most = limits.CONCURRENCY_KEY_CHARACTERS
            raise _no_key(component, one, f"has {length:,} characters as JSON; {at_most} are allowed.")
        caps.append(Cap(key, one.limit, None if one.per_seconds is None else round(one.per_seconds * SECOND_US)))
    return tuple(caps)


def _no_key(component: str, limit: ComponentLimit, why: str) -> ExpressionError:
    return ExpressionError(f"The key of `{limit.option}` of component {component!r} {why}", code="limit.key")


def _of(want: Want, answer: Blocked) -> Blocked:
    """The same of one that follows."""
    return Blocked(want.job_id, want.path, answer.cap, answer.held_by, want.since_us, answer.next_us, answer.wait_us)
