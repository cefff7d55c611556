"""Grants in any order of events: no limit is ever exceeded, no rate either, and what can be granted is."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from openagents_json.clock import SECOND_US
from openagents_json.job.store.grants import Cap, Grants, Known, Want, cap_key, decide_grants
from openagents_json.job.store.limits import Place

WORKERS = ("w1", "w2", "w3")
LIMITS = {cap_key("concurrency", "c", n): n + 1 for n in range(2)}
RATE = Cap(cap_key("rate", "c"), 3, 7 * SECOND_US)

workers = st.sampled_from(WORKERS)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("want"), workers, st.sampled_from(sorted(LIMITS)), st.booleans()),
        st.tuples(st.just("ask"), workers, st.booleans()),
        st.tuples(st.just("end"), workers, st.integers(0, 5)),
        st.tuples(st.just("withdraw"), workers, st.integers(0, 5)),
        st.tuples(st.just("die"), workers),
        st.tuples(st.just("pass"), st.integers(1, 20_000_000)),
    ),
    max_size=60,
)


@dataclass
class Worker:
    """What a worker knows of itself."""

    held: list[str] = field(default_factory=list)  # keys of its slots
    waiting: deque[Want] = field(default_factory=deque)
    touched: set[str] = field(default_factory=set)


@dataclass
class World:
    """A store by its rules, and its workers."""

    grants: dict[str, dict[str, Grants]] = field(default_factory=dict)
    buckets: dict[str, int] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=lambda: {name: Worker() for name in WORKERS})
    now_us: int = 1_000_000
    count: int = 0
    begun: list[int] = field(default_factory=list)  # when tokens were taken

    def ask(self, name: str, *, is_heard: bool) -> None:
        """Ask for all that wait. An answer that is not heard is lost; what was granted is put right by the next."""
        worker = self.workers[name]
        wants = list(worker.waiting)
        held = Counter(worker.held)
        keys = worker.touched | {cap.key for want in wants for cap in want.caps}
        known = Known({key: dict(self.grants.get(key, {})) for key in keys}, dict(self.buckets))
        decided = decide_grants(name, {key: held[key] for key in keys}, wants, known, self.now_us)
        for key, one in decided.grants.items():
            if one is None:
                self.grants.get(key, {}).pop(name, None)
            else:
                self.grants.setdefault(key, {})[name] = one
        self.buckets |= decided.buckets
        granted = [want for want, answer in zip(wants, decided.answers, strict=True) if answer is None]
        self.begun += [self.now_us for want in granted for cap in want.caps if cap == RATE]
        if not is_heard:
            return
        worker.touched = set()
        for want in granted:
            worker.waiting.remove(want)
            worker.held += [cap.key for cap in want.caps if cap.per_us is None]

    def do(self, action: tuple[object, ...]) -> None:
        match action:
            case ("want", str(name), str(key), bool(is_rated)):
                self.count += 1
                caps = (Cap(key, LIMITS[key]), *((RATE,) if is_rated else ()))
                place = Place(self.now_us, self.count)
                self.workers[name].waiting.append(Want("job", str(self.count), place, self.now_us, caps))
            case ("ask", str(name), bool(is_heard)):
                self.ask(name, is_heard=is_heard)
            case ("end", str(name), int(which)) if held := self.workers[name].held:
                self.workers[name].touched.add(held.pop(which % len(held)))
            case ("withdraw", str(name), int(which)) if waiting := self.workers[name].waiting:
                want = waiting[which % len(waiting)]
                waiting.remove(want)
                self.workers[name].touched |= {cap.key for cap in want.caps}
            case ("die", str(name)):
                self.workers[name] = Worker()
                for of_key in self.grants.values():
                    of_key.pop(name, None)
            case ("pass", int(time_us)):
                self.now_us += time_us
        self.check()

    def check(self) -> None:
        for key, limit in LIMITS.items():
            assert sum(worker.held.count(key) for worker in self.workers.values()) <= limit
            rows = self.grants.get(key, {})
            assert sum(one.held for one in rows.values()) <= limit
            assert all(one.held >= 0 and not one.is_empty for one in rows.values())
        window_us = RATE.limit * RATE.token_us
        for first, at_us in enumerate(self.begun):
            within = [other for other in self.begun[first:] if other < at_us + window_us]
            assert len(within) <= 2 * RATE.limit, "a full bucket, and what comes in that time"


@given(actions)
def test_limits_hold_nothing_leaks_and_all_are_served(done: list[tuple[object, ...]]) -> None:
    world = World()
    for action in done:
        world.do(action)
    for _ in range(4 * (world.count + 1)):  # from now on nothing is lost: whoever waits is served in the end
        world.now_us += RATE.token_us
        for name, worker in world.workers.items():
            worker.touched |= set(worker.held)
            worker.held = []
            world.ask(name, is_heard=True)
            world.check()
    assert not any(worker.waiting for worker in world.workers.values())
    for name, worker in world.workers.items():
        worker.touched |= {*worker.held, *LIMITS, RATE.key}
        worker.held = []
        world.ask(name, is_heard=True)
    assert not any(rows for rows in world.grants.values()), "all is given back"


@given(st.lists(st.tuples(st.sampled_from(WORKERS), st.integers(1, 5)), min_size=1, max_size=12))
def test_of_all_that_wait_the_first_is_served_first(arrivals: list[tuple[str, int]]) -> None:
    """With one slot, and workers that ask again and again in any order, it goes round in the order of arrival."""
    world, key = World(), min(LIMITS)
    for name, time_us in arrivals:
        world.now_us += time_us
        world.do(("want", name, key, False))
    for name in WORKERS:
        world.ask(name, is_heard=True)
    served: list[Place] = []
    waiting = {want.place: name for name, worker in world.workers.items() for want in worker.waiting}
    while waiting:
        for name, worker in world.workers.items():  # whoever has it gives it back, and then all ask
            worker.touched |= set(worker.held)
            worker.held = []
            before = {want.place for want in worker.waiting}
            world.ask(name, is_heard=True)
            for place in sorted(before - {want.place for want in worker.waiting}):
                served.append(place)
                del waiting[place]
    assert served == sorted(served)
