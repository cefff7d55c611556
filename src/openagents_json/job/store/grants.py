"""Grants: leave to begin an attempt of a component that has limits. The rules are here once, for every store. Pure.

A component may limit how many of its attempts run at a time (`concurrency`) and how many begin in a time
(`rate_limit`), over all workers of a store, of each value of a key. A worker asks for its attempts before they begin,
and says with each question how many slots of the keys it holds: in absolute numbers, so that a question may be
repeated, and one whose answer was lost does no harm.

- Slots are held by workers, not by jobs: those of a dead worker count no more, so none leaks.
- A rate is a token bucket that begins full, as one number: when it will be full again. It outlives workers and
  programs; once it is full there is nothing to keep.
- What is refused waits. Each worker's first in line for a key is known to the store, and what is free goes to the first
  of all of them; one that waits for a slot holds no token up, and one that waits for a token no slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from openagents_json.job.store.limits import ALL_JOBS, Place, limit_key
from openagents_json.jsondata import decode, encode

WAITS_KEPT = 10  # of the attempts of a worker that wait for a key, the first ones: those that others are told of
WORKERS_SHOWN = 10  # of those that hold slots of a key
SWEPT_AT_ONCE = 100  # full buckets that are forgotten when another one is written

GrantKind: TypeAlias = Literal["concurrency", "rate"]


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit of a component for one value of its key. Attempts with the same `key` share it."""

    key: str  # "concurrency" or "rate", the component's name, and the key's value as canonical JSON if there is one
    limit: int  # so many at a time, or in `per_us`
    per_us: int | None = None  # microseconds; None: at a time

    @property
    def kind(self) -> GrantKind:
        return "concurrency" if self.per_us is None else "rate"

    @property
    def component(self) -> str:
        return self.key.split(" ")[1]

    @property
    def value(self) -> Any:
        """The key's value; None if the limit has no key."""
        text = self.key.split(" ", 2)[2:]
        return decode(text[0].encode()) if text else None

    @property
    def token_us(self) -> int:
        """How long a token of the bucket takes to come, rounded up: no more begin than may."""
        return -(-(self.per_us or 0) // self.limit)


def cap_key(kind: GrantKind, component: str, value: Any = ALL_JOBS) -> str:
    """The key of a component's limit for one value, or for all its attempts."""
    return limit_key(f"{kind} {component}", value)


@dataclass(frozen=True, slots=True)
class Want:
    """An attempt that is to begin, and the limits that concern it; it needs room in all of them at once."""

    job_id: str
    path: str
    place: Place  # in the order of all that wait
    since_us: int
    caps: tuple[Cap, ...]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why an attempt may not begin yet: the first of its limits that has no room."""

    job_id: str
    path: str
    cap: Cap
    held_by: tuple[str, ...]  # workers that hold the slots, `WORKERS_SHOWN` at most, in order; of a rate nobody
    since_us: int
    next_us: int | None  # when the next token comes, by the store's clock; None for slots: nobody knows
    wait_us: int | None = None  # how long that is from now


class Waiting(NamedTuple):
    """An attempt that waits, as the store keeps it."""

    sort_at: int
    handle: int
    job_id: str
    path: str
    since_us: int


@dataclass(frozen=True, slots=True)
class Grants:
    """What the store keeps of one worker and one key. Nothing held and nobody waiting: it is not kept."""

    cap: Cap
    held: int
    waits: tuple[Waiting, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.held and not self.waits


@dataclass(frozen=True, slots=True)
class Known:
    """What the store has of the keys in question: grants of live workers, and the buckets that are not full."""

    grants: Mapping[str, Mapping[str, Grants]]  # by key, then by worker
    buckets: Mapping[str, int]  # when they will be full


@dataclass(slots=True)
class Decided:
    """What became of a question. `answers` are in the order of the wants: None is a grant. The rest is to be written:
    what is kept of the worker from now on, by key (None: nothing), and when buckets will be full."""

    answers: list[Blocked | None]
    grants: dict[str, Grants | None] = field(default_factory=dict)
    buckets: dict[str, int] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        return bool(self.grants or self.buckets)


def keys_of(holds: Iterable[str], wants: Iterable[Want]) -> list[str]:
    """The keys that a question concerns, in order."""
    return sorted({*holds, *(cap.key for want in wants for cap in want.caps)})


def decide_grants(worker: str, holds: Mapping[str, int], wants: Sequence[Want], known: Known, now_us: int) -> Decided:
    """Who may begin. `holds` says how many slots the worker has, of all keys of which that has changed, of which it
    wants one, or of which nobody of it waits any more."""
    hall = _Hall(worker, holds, known, now_us)
    answers: dict[int, Blocked | None] = {}
    for number, want in sorted(enumerate(wants), key=lambda one: one[1].place):
        answers[number] = hall.ask(want)
    decided = Decided([answers[number] for number in range(len(wants))], buckets=hall.taken)
    caps = {cap.key: cap for want in wants for cap in want.caps}
    for key in keys_of(holds, wants):
        before = known.grants.get(key, {}).get(worker)
        cap = caps.get(key) or (before.cap if before is not None else Cap(key, 1))
        after = Grants(cap, hall.held(key), tuple(hall.waits.get(key, ())[:WAITS_KEPT]))
        if before != (kept := None if after.is_empty else after):
            decided.grants[key] = kept
    return decided


class _Hall:
    """The limits while their wants are asked one after the other."""

    def __init__(self, worker: str, holds: Mapping[str, int], known: Known, now_us: int) -> None:
        self._worker = worker
        self._known = known
        self._now_us = now_us
        self._held = dict(holds)
        self.taken: dict[str, int] = {}  # buckets of which tokens were taken: when they will be full
        self.waits: dict[str, list[Waiting]] = {}

    def held(self, key: str) -> int:
        """How many slots of a key the worker has."""
        if key not in self._held:
            before = self._known.grants.get(key, {}).get(self._worker)
            self._held[key] = 0 if before is None else before.held
        return self._held[key]

    def ask(self, want: Want) -> Blocked | None:
        for cap in want.caps:
            if self._free(cap) <= self._ahead(cap, want.place):
                waiting = Waiting(*want.place, want.job_id, want.path, want.since_us)
                self.waits.setdefault(cap.key, []).append(waiting)
                return self._blocked(want, cap)
        for cap in want.caps:
            if cap.per_us is None:
                self._held[cap.key] = self.held(cap.key) + 1
            else:
                self.taken[cap.key] = self._full_us(cap) + cap.token_us
        return None

    def _others(self, cap: Cap) -> dict[str, Grants]:
        grants = self._known.grants.get(cap.key, {})
        return {worker: one for worker, one in grants.items() if worker != self._worker}

    def _free(self, cap: Cap) -> int:
        if cap.per_us is None:
            return cap.limit - self.held(cap.key) - sum(one.held for one in self._others(cap).values())
        return (cap.limit * cap.token_us - (self._full_us(cap) - self._now_us)) // cap.token_us

    def _ahead(self, cap: Cap, place: Place) -> int:
        """How many other workers have somebody who comes first."""
        return sum(1 for one in self._others(cap).values() if one.waits and one.waits[0][:2] < place)

    def _full_us(self, cap: Cap) -> int:
        full_us = self.taken.get(cap.key, self._known.buckets.get(cap.key, 0))
        return max(full_us, self._now_us)

    def _blocked(self, want: Want, cap: Cap) -> Blocked:
        held_by = _holders({**self._others(cap), self._worker: Grants(cap, self.held(cap.key))})
        next_us = next_token_us(cap, self._full_us(cap), self._now_us)
        wait_us = None if next_us is None else next_us - self._now_us
        return Blocked(want.job_id, want.path, cap, held_by, want.since_us, next_us, wait_us)


def next_token_us(cap: Cap, full_us: int, now_us: int) -> int | None:
    """When the next token of a rate comes: if there is one now, others are before us, and it is the one after it."""
    if cap.per_us is None:
        return None
    next_us = full_us - (cap.limit - 1) * cap.token_us
    return next_us if next_us > now_us else now_us + cap.token_us


def blocked_in(job_id: str, worker: str, known: Known, now_us: int) -> list[Blocked]:
    """What a job of this worker waits for, as far as the store was told: of each key the first `WAITS_KEPT`."""
    found = []
    for key, workers in sorted(known.grants.items()):
        own = workers.get(worker)
        for one in own.waits if own is not None else ():
            if own is not None and one.job_id == job_id:
                full_us = max(known.buckets.get(key, 0), now_us)
                next_us = next_token_us(own.cap, full_us, now_us)
                found.append(Blocked(job_id, one.path, own.cap, _holders(workers), one.since_us, next_us))
    return found


def _holders(workers: Mapping[str, Grants]) -> tuple[str, ...]:
    return tuple(sorted(worker for worker, one in workers.items() if one.held)[:WORKERS_SHOWN])


# ── as the SQL stores keep it ─────────────────────────────────────────────────────────────────────────────────────


def grants_values(one: Grants) -> tuple[int, int, int | None, bytes]:
    """The columns held, most, per_us and waits."""
    return one.held, one.cap.limit, one.cap.per_us, encode([list(wait) for wait in one.waits])


def grants_of(key: str, held: int, most: int, per_us: int | None, waits: bytes) -> Grants:
    """The reverse."""
    return Grants(Cap(key, most, per_us), held, tuple(Waiting(*wait) for wait in decode(waits)))
