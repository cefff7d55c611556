"""Admission: who starts with what is free, what is kept for whom, and why somebody waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from openagents_json.job.engine.admission import MAX_ABANDONED, Admission, Grant, Needs, Verdict
from openagents_json.job.store.shortages import Short
from openagents_json.resources import needed


@dataclass(eq=False)
class Job:
    """A job with a place in the order."""

    job_id: str
    place: int

    @property
    def standing(self) -> tuple[int, int]:
        return 0, self.place


JOBS = {name: Job(name, place) for place, name in enumerate("abcdefgh")}
A, B, C, D = (JOBS[name] for name in "abcd")


def needs(**amounts: float) -> Needs:
    return Needs.of({name: needed(amount) for name, amount in amounts.items()})


def worker(**amounts: float) -> Admission[Job]:
    return Admission({name: needed(amount) for name, amount in ({"steps": 100} | amounts).items()})


def ask(admission: Admission[Job], job: Job, *steps: Needs, now_us: int = 0) -> list[Verdict]:
    """One turn of a job, in which it asks for these steps until it hears that nothing starts."""
    asking, verdicts = admission.ask(job, now_us), list[Verdict]()
    for step in steps:
        verdicts.append(asking.take(step))
        if verdicts[-1].is_full:
            break
    return verdicts


def take(admission: Admission[Job], job: Job, step: Needs) -> Grant:
    [verdict] = ask(admission, job, step)
    assert verdict.grant is not None, verdict
    return verdict.grant


def started(verdicts: Iterable[Verdict]) -> list[bool]:
    return [verdict.grant is not None for verdict in verdicts]


def names(jobs: Iterable[Job]) -> list[str]:
    return [job.job_id for job in jobs]


def test_step_takes_all_that_it_needs_or_nothing() -> None:
    admission = worker(gpu=2, cpu=4)
    held = take(admission, A, needs(gpu=2, cpu=1))
    [refused] = ask(admission, B, needs(gpu=1, cpu=3))
    assert (refused.grant, refused.short, refused.is_full) == (None, ("gpu",), False)
    assert (admission.used("cpu"), admission.used("gpu"), admission.steps) == (1, 2, 1)
    admission.give_back(held)
    assert (admission.used("cpu"), admission.used("gpu"), admission.steps) == (0, 0, 0)


def test_amounts_do_not_drift() -> None:
    admission = worker(cpu=1)
    held = [take(admission, A, needs(cpu=0.1)) for _ in range(10)]
    assert admission.used("cpu") == 1
    for grant in held:
        admission.give_back(grant)
    assert admission.used("cpu") == 0 and started(ask(admission, A, needs(cpu=1))) == [True]


def test_those_that_wait_are_woken_in_the_order_of_their_jobs_and_once() -> None:
    admission = worker(gpu=1)
    held = take(admission, A, needs(gpu=1))
    for job in (D, B, C):
        assert started(ask(admission, job, needs(gpu=1))) == [False]
    assert admission.wake() == []
    admission.give_back(held)
    assert names(admission.wake()) == ["b"] and admission.wake() == []
    held = take(admission, B, needs(gpu=1))
    assert admission.wake() == []
    admission.give_back(held)
    assert names(admission.wake()) == ["c"]


def test_all_that_can_start_are_woken_together() -> None:
    admission = worker(gpu=3)
    held = [take(admission, A, needs(gpu=1)) for _ in range(3)]
    for job in (B, C, D):
        ask(admission, job, needs(gpu=1))
    for grant in held[:2]:
        admission.give_back(grant)
    assert names(admission.wake()) == ["b", "c"]


def test_what_a_woken_job_was_woken_for_is_kept_for_it() -> None:
    admission = worker(gpu=1)
    held = take(admission, A, needs(gpu=1))
    ask(admission, B, needs(gpu=1))
    admission.give_back(held)
    assert names(admission.wake()) == ["b"]
    assert started(ask(admission, C, needs(gpu=1))) == [False], "it comes behind"
    assert started(ask(admission, A, needs(gpu=1))) == [True], "it comes before"


def test_slot_goes_to_the_next_when_the_woken_one_does_not_take_it() -> None:
    admission = worker(steps=1)
    held = take(admission, A, needs())
    for job in (B, C):
        assert [verdict.is_full for verdict in ask(admission, job, needs())] == [True]
    admission.give_back(held)
    assert names(admission.wake()) == ["b"]
    ask(admission, B)  # it has nothing to start any more
    assert names(admission.wake()) == ["c"]
    admission.forget(C)
    assert admission.wake() == [] and not admission.waits(C)


def test_wide_step_is_not_starved_by_narrow_ones_behind_it() -> None:
    admission = worker(cpu=4)
    narrow = [take(admission, A, needs(cpu=1)) for _ in range(4)]
    assert started(ask(admission, B, needs(cpu=4))) == [False]
    for grant in narrow:
        assert started(ask(admission, C, needs(cpu=1))) == [False]
        admission.give_back(grant)
    assert names(admission.wake()) == ["b"]
    assert started(ask(admission, B, needs(cpu=4))) == [True]


def test_what_does_not_touch_the_short_resource_passes() -> None:
    admission = worker(gpu=1, cpu=4)
    take(admission, A, needs(gpu=1))
    assert started(ask(admission, B, needs(gpu=1, cpu=3))) == [False]
    assert started(ask(admission, C, needs(cpu=1), needs())) == [True, True]
    assert started(ask(admission, C, needs(cpu=1))) == [False], "the other three are kept for b"


def test_only_the_first_that_is_short_has_something_set_aside() -> None:
    admission = worker(gpu=1, cpu=4)
    take(admission, A, needs(gpu=1))
    ask(admission, B, needs(gpu=1, cpu=1))
    ask(admission, C, needs(gpu=1, cpu=3))
    assert started(ask(admission, D, needs(cpu=3))) == [True]


def test_steps_of_one_job_start_in_its_order_and_pass_each_other_by_the_same_rule() -> None:
    admission = worker(gpu=1, cpu=2)
    verdicts = ask(admission, A, needs(gpu=1), needs(gpu=1, cpu=1), needs(cpu=1), needs(cpu=1), needs())
    assert started(verdicts) == [True, False, True, False, True]
    assert [verdict.short for verdict in verdicts] == [(), ("gpu",), (), ("cpu",), ()]


def test_job_is_woken_for_a_step_that_it_did_not_ask_for_while_all_was_full() -> None:
    admission = worker(steps=3, gpu=1)
    held = [take(admission, A, needs(gpu=1)), take(admission, A, needs()), take(admission, A, needs())]
    assert started(ask(admission, B, needs(gpu=1), needs())) == [False], "it is told that nothing starts"
    admission.give_back(held[1])
    assert admission.wake() == [], "this one is kept for its first step"
    admission.give_back(held[2])
    assert names(admission.wake()) == ["b"], "for whatever it has besides"
    assert started(ask(admission, B, needs(gpu=1), needs())) == [False, True]


def test_change_of_standing_changes_who_is_next() -> None:
    admission, late = worker(gpu=1), Job("late", 99)
    held = take(admission, A, needs(gpu=1))
    for job in (B, late):
        ask(admission, job, needs(gpu=1))
    late.place = 0
    admission.reorder(late)
    admission.give_back(held)
    assert names(admission.wake()) == ["late"]
    admission.reorder(A)  # which waits for nothing


def test_more_than_there_is_never_fits_and_is_cut_down_where_it_must_run() -> None:
    admission = worker(gpu=1)
    assert admission.can_ever_fit(needs(gpu=1)) and not admission.can_ever_fit(needs(gpu=1.001))
    assert not admission.can_ever_fit(needs(tpu=1))
    assert admission.within(needs(gpu=3, tpu=1)) == needs(gpu=1)


def test_what_is_asked_for_by_hand_goes_beyond_the_capacity() -> None:
    admission = worker(gpu=1)
    held = [take(admission, A, needs(gpu=1)), admission.take_anyway(needs(gpu=1), "b")]
    assert admission.used("gpu") == 2 and not admission.fits(needs(gpu=1))
    admission.give_back(held[0])
    assert started(ask(admission, C, needs(gpu=1))) == [False]
    admission.give_back(held[1])
    assert names(admission.wake()) == ["c"] and not admission.fits(needs(gpu=1))
    admission.forget(C)
    assert admission.fits(needs(gpu=1))


@pytest.mark.parametrize("abandoned", [MAX_ABANDONED - 1, MAX_ABANDONED])
def test_no_thread_step_starts_while_too_many_threads_are_abandoned(abandoned: int) -> None:
    admission = worker(threads=100)
    admission.abandoned = abandoned
    assert started(ask(admission, A, needs(threads=1), needs())) == [abandoned < MAX_ABANDONED, True]


def test_why_says_what_is_short_who_has_it_and_who_comes_first() -> None:
    admission = worker(gpu=2, cpu=4)
    held = [take(admission, JOBS["e"], needs(gpu=1)), take(admission, JOBS["f"], needs(gpu=1, cpu=3))]
    ask(admission, B, needs(gpu=1), now_us=5)
    ask(admission, C, needs(gpu=2, cpu=2), needs(gpu=2, cpu=2), now_us=7)
    assert admission.why(A) == ()
    assert admission.why(B) == (Short("gpu", 1, 2, 0, ("e", "f"), (), 5),)
    assert admission.why(C) == (
        Short("cpu", 2, 4, 1, ("f",), (), 7),
        Short("gpu", 2, 2, 0, ("e", "f"), ("b",), 7),
    )
    ask(admission, C, needs(gpu=2, cpu=2), now_us=9)
    assert [short.since_us for short in admission.why(C)] == [7, 7], "it has waited since then"
    admission.give_back(held[0])
    assert admission.why(B) == (), "it is about to start"
    assert [(short.resource, short.free, short.ahead) for short in admission.why(C)] == [
        ("cpu", 1, ()),
        ("gpu", 0, ("b",)),
    ]


def test_why_names_ten_jobs_at_most() -> None:
    admission = worker(gpu=20)
    for number in range(20):
        take(admission, Job(f"holder {number}", number), needs(gpu=1))
    for number in range(20, 40):
        ask(admission, Job(f"waiter {number}", number), needs(gpu=1))
    last = Job("last", 50)
    ask(admission, last, needs(gpu=1))
    [short] = admission.why(last)
    assert short.holders == tuple(f"holder {number}" for number in range(10))
    assert short.ahead == tuple(f"waiter {number}" for number in range(20, 30))
