"""Admission: which steps start with the resources of a worker, and why the others wait. Pure bookkeeping.

A step starts when all that it needs is free, and takes it all at once: nobody holds one thing while waiting for
another, so there is no deadlock. Those that wait stand in the order of their jobs (`standing`, earlier is sooner), and
within a job in the order of its steps. The rule, for whoever asks and for whoever is to be woken:

    Go through those that wait, in order. Who finds all that it needs gets it. Who does not, and is the first that is
    short of some resource, has all that it needs set aside. Everybody behind sees only what is left, and waits if there
    stands somebody in front who waits for resources of the same names.

So a wide step is not starved: from the moment that it is the first to be short of something, nothing that it needs is
given to others behind it. And what does not touch the short resources passes. At most one step for each resource has
something set aside.

The cost of a decision does not grow with the number of those that wait. They are grouped by the names of what they
need; if the first of a group is short of something, so are all behind it. So only the first of each group is looked
at, and those that can start.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from openagents_json.job.store.shortages import Short
from openagents_json.resources import STEPS, THREADS, UNIT, amount_of

MAX_ABANDONED = 8  # abandoned threads of a manager; with more, no thread step starts
JOBS_NAMED = 10  # of those that hold a resource, and of those that come first


class Job(Protocol):
    """What waits: a job with steps that could start. Compared by identity."""

    @property
    def job_id(self) -> str:
        """Its id."""

    @property
    def standing(self) -> tuple[int, int]:
        """Its place among the jobs: earlier is sooner. Whoever changes it calls `Admission.reorder`."""


Waiter = TypeVar("Waiter", bound=Job)
Key: TypeAlias = tuple[tuple[int, int], int]  # standing, and a number above 0 that gives the order within a job


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step occupies while it runs: (name, thousandths > 0), sorted by name. Always some of `steps`."""

    amounts: tuple[tuple[str, int], ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, amounts: Mapping[str, int]) -> Needs:
        """These, and at least the one step that it is."""
        known = {name: units for name, units in amounts.items() if units > 0}
        known[STEPS] = max(known.get(STEPS, 0), UNIT)
        return cls(tuple(sorted(known.items())), tuple(sorted(known)))


ANY_STEP = Needs.of({})
_NEVER: Mapping[tuple[str, ...], int] = {}  # since when a job waits that does not


@dataclass(slots=True, eq=False)
class Grant:
    """What a step occupies until its code is known to have ended. Given back once."""

    job_id: str
    needs: Needs


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a step: a grant, or what it is short of."""

    grant: Grant | None
    short: tuple[str, ...] = ()  # names; `Admission.why` tells the rest
    is_full: bool = False  # no step starts at all


@dataclass(slots=True, eq=False)
class _Wait(Generic[Waiter]):
    """A job that waits with what its first step of these names needs. Those of its steps behind it wait with it."""

    waiter: Waiter
    needs: Needs
    since_us: int
    key: Key  # by which it is sorted; the standing is its waiter's when it was put in or reordered last
    is_woken: bool = False  # its job was told to ask again, and has not yet


@dataclass(slots=True)
class _Left:
    """What is left for those further behind. There is one for each turn of a job, so it is kept small: the sets are
    empty as a rule, and are replaced and not changed."""

    amounts: dict[str, int]
    closed: frozenset[str] = frozenset()  # resources that somebody in front was short of: below 0 by now
    blocked: frozenset[tuple[str, ...]] = frozenset()  # names for which somebody in front waits

    def set_aside(self, needs: Needs) -> tuple[str, ...]:
        """Take what is needed off, for good or for somebody who waits: the names of what is short, none if it fits.
        Who is only short of what others in front are short of has nothing set aside."""
        amounts = self.amounts
        short = tuple([name for name, units in needs.amounts if units > amounts[name]])
        if short:
            self.blocked |= {needs.names}
        if not short or not self.closed.issuperset(short):
            for name, units in needs.amounts:
                amounts[name] -= units
            if short:
                self.closed |= set(short)
        return short


class Admission(Generic[Waiter]):
    """What a worker has, who occupies it, and who waits. `capacities` by name, in thousandths, `steps` among them."""

    def __init__(self, capacities: Mapping[str, int]) -> None:
        self.capacities = dict(capacities)
        self.abandoned = 0  # threads that were given up and still run; the worker counts them
        self._free = dict(self.capacities)  # below 0 after `take_anyway`
        self._steps = 0
        # For each resource the jobs that occupy some of it, with how many grants; who has had one longest comes first.
        self._holders: dict[str, dict[str, int]] = {name: {} for name in self.capacities}
        self._waits: dict[Waiter, dict[tuple[str, ...], _Wait[Waiter]]] = {}
        self._groups: dict[tuple[str, ...], list[_Wait[Waiter]]] = {}  # the same waits, by names; each sorted by key
        self._number = 0

    # ── what there is ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def steps(self) -> int:
        """How many steps occupy something."""
        return self._steps

    def used(self, name: str) -> float:
        """How much of a resource is occupied."""
        return amount_of(self.capacities[name] - self._free[name])

    def can_ever_fit(self, needs: Needs) -> bool:
        """Whether a step with these needs starts here once enough is free."""
        for name, units in needs.amounts:  # noqa: SIM110 - every step is asked, and a generator takes longer
            if units > self.capacities.get(name, 0):
                return False
        return True

    def within(self, needs: Needs) -> Needs:
        """The needs cut down to what there is at all: for what has to run here, whatever it says."""
        if self.can_ever_fit(needs):
            return needs
        return Needs.of({name: min(units, self.capacities.get(name, 0)) for name, units in needs.amounts})

    def fits(self, needs: Needs) -> bool:
        """Whether so much is free now and kept for nobody."""
        left = self._look()
        return all(units <= left.amounts.get(name, 0) for name, units in needs.amounts)

    # ── taking and giving back ────────────────────────────────────────────────────────────────────────────────────

    def ask(self, waiter: Waiter, now_us: int) -> Asking[Waiter]:
        """A job takes its turn: it asks for its steps one after the other. What it has waited for so far is forgotten;
        what it is refused now it waits for."""
        since: Mapping[tuple[str, ...], int] = _NEVER
        if (waits := self._waits.get(waiter)) is not None:
            since = {names: wait.since_us for names, wait in waits.items()}
            self.forget(waiter)
        return Asking(self, waiter, self._look(before=(waiter.standing, 0)), since, now_us)

    def take_anyway(self, needs: Needs, job_id: str) -> Grant:
        """A grant beyond the capacities if need be: for what a person asks for by hand. Needs that are `within`."""
        return self._grant(needs, job_id)

    def give_back(self, grant: Grant) -> None:
        """The code of a step has ended, or will never run."""
        self._steps -= 1
        for name, units in grant.needs.amounts:
            self._free[name] += units
            holders = self._holders[name]
            holders[grant.job_id] -= 1
            if not holders[grant.job_id]:
                del holders[grant.job_id]

    # ── those that wait ───────────────────────────────────────────────────────────────────────────────────────────

    def wake(self) -> list[Waiter]:
        """The jobs, in order, that have a step which can start now and were not told yet: they are to take a turn.
        What they wait for is kept for them until then."""
        if not self._waits:
            return []
        woken: dict[Waiter, None] = {}
        can_start: list[_Wait[Waiter]] = []
        self._look(can_start=can_start)
        for wait in can_start:
            if not wait.is_woken:
                wait.is_woken = True
                woken.setdefault(wait.waiter)
        return list(woken)

    def forget(self, waiter: Waiter) -> None:
        """It waits for nothing any more."""
        for wait in self._waits.pop(waiter, {}).values():
            self._take_out(wait)

    def reorder(self, waiter: Waiter) -> None:
        """Its standing has changed. Whoever can start now has to be woken."""
        for wait in self._waits.get(waiter, {}).values():
            self._take_out(wait)
            wait.key = waiter.standing, wait.key[1]
            self._put_in(wait)

    def waits(self, waiter: Waiter) -> bool:
        """Whether it has steps that wait."""
        return waiter in self._waits

    def first_waiting(self, limit: int, since_us: int) -> list[Waiter]:
        """Those that have steps that have waited since then, the first ones, in order."""
        patient = (
            waiter for waiter, waits in self._waits.items() if any(one.since_us <= since_us for one in waits.values())
        )
        return heapq.nsmallest(limit, patient, key=lambda waiter: waiter.standing)

    def why(self, waiter: Waiter) -> tuple[Short, ...]:
        """What the steps of a job that were refused are short of, as it is now; each resource once, for the first step
        that is short of it. () if none waits, or if one of them is about to start."""
        found: dict[str, Short] = {}
        for wait in self._waits.get(waiter, {}).values():
            left = self._look(before=wait.key)
            short = [(name, units) for name, units in wait.needs.amounts if units > left.amounts[name]]
            if not short:
                return ()
            for name, units in short:
                if name not in found:
                    found[name] = self._short(wait, name, units, left)
        return tuple(found.values())

    def _short(self, wait: _Wait[Waiter], name: str, units: int, left: _Left) -> Short:
        ahead: dict[str, None] = {}
        groups = [group for names, group in self._groups.items() if name in names]
        for other in heapq.merge(*groups, key=_key):
            if other.key >= wait.key or len(ahead) == JOBS_NAMED:
                break
            ahead.setdefault(other.waiter.job_id)
        return Short(
            name,
            amount_of(units),
            amount_of(self.capacities[name]),
            amount_of(max(left.amounts[name], 0)),
            tuple(islice(self._holders[name], JOBS_NAMED)),
            tuple(ahead),
            wait.since_us,
        )

    # ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self, before: Key | None = None, can_start: list[_Wait[Waiter]] | None = None) -> _Left:
        """Go through those that wait, by the rule; with `before`, through those that come before that key. Those that
        fit are added to `can_start`."""
        left = _Left(self._free.copy())
        if self.abandoned >= MAX_ABANDONED and THREADS in left.amounts:
            left.amounts[THREADS] = min(left.amounts[THREADS], 0)
        if not self._groups:
            return left
        # Keys differ, so nothing behind them is compared.
        heads = [(waits[0].key, 0, waits) for waits in self._groups.values()]
        heapq.heapify(heads)
        while heads:
            key, place, waits = heads[0]
            if before is not None and key >= before:
                break
            wait = waits[place]
            if left.set_aside(wait.needs):
                if STEPS in left.closed:
                    break  # everybody needs one
                heapq.heappop(heads)  # all behind it are short of the same
                continue
            if can_start is not None:
                can_start.append(wait)
            if place + 1 < len(waits):
                heapq.heapreplace(heads, (waits[place + 1].key, place + 1, waits))
            else:
                heapq.heappop(heads)
        return left

    def _grant(self, needs: Needs, job_id: str) -> Grant:
        self._steps += 1
        for name, units in needs.amounts:
            self._free[name] -= units
            holders = self._holders[name]
            holders[job_id] = holders.get(job_id, 0) + 1
        return Grant(job_id, needs)

    def _wait_for(self, waiter: Waiter, needs: Needs, since_us: int) -> None:
        self._number += 1
        wait = _Wait(waiter, needs, since_us, (waiter.standing, self._number))
        self._waits.setdefault(waiter, {})[needs.names] = wait
        self._put_in(wait)

    def _put_in(self, wait: _Wait[Waiter]) -> None:
        insort(self._groups.setdefault(wait.needs.names, []), wait, key=_key)

    def _take_out(self, wait: _Wait[Waiter]) -> None:
        group = self._groups[wait.needs.names]
        del group[bisect_left(group, wait.key, key=_key)]
        if not group:
            del self._groups[wait.needs.names]


class Asking(Generic[Waiter]):
    """One turn of a job, during which nobody else asks or gives back."""

    def __init__(
        self,
        admission: Admission[Waiter],
        waiter: Waiter,
        left: _Left,
        since: Mapping[tuple[str, ...], int],
        now_us: int,
    ) -> None:
        self._admission = admission
        self._waiter = waiter
        self._left = left  # behind those that come before this job, and what it has got or been refused in this turn
        self._since = since  # when it was first refused what it had waited for until this turn
        self._now_us = now_us
        # The answers to the first steps that were refused, by names; None as long as none was.
        self._refused: dict[tuple[str, ...], Verdict] | None = None

    def take(self, needs: Needs) -> Verdict:
        """The answer for the next step, whose needs can be met here ever."""
        names = needs.names
        if self._refused is not None and (refused := self._refused.get(names)) is not None:
            return refused
        if names in self._left.blocked:
            return self._refuse(needs, tuple([name for name in names if name in self._left.closed]))
        short = self._left.set_aside(needs)
        return self._refuse(needs, short) if short else Verdict(self._admission._grant(needs, self._waiter.job_id))

    def _refuse(self, needs: Needs, short: tuple[str, ...]) -> Verdict:
        is_full = STEPS in self._left.closed
        if self._refused is None:
            self._refused = {}
        verdict = self._refused[needs.names] = Verdict(None, short, is_full)
        self._wait_with(needs)
        if is_full and ANY_STEP.names not in self._refused:
            # The other steps will not be asked for now: so the job is woken when any step can start.
            self._refused[ANY_STEP.names] = verdict
            self._wait_with(ANY_STEP)
        return verdict

    def _wait_with(self, needs: Needs) -> None:
        self._admission._wait_for(self._waiter, needs, self._since.get(needs.names, self._now_us))


def _key(wait: _Wait[Any]) -> Key:
    return wait.key
