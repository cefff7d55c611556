"""What the explanation makes of a status: a sentence for each kind of wait, in order, with its command."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import openagents_json.job.views as views
from openagents_json.job.events import Event
from openagents_json.job.explaining.blockers import (
    _SENTENCES,
    Facts,
    blockers_of,
    estimate_of,
    score_of,
    summary_of_blockers,
)
from openagents_json.job.explaining.past import stays_in
from openagents_json.job.store.records import QueuePlace, StoredWorker, Waiting, WorkerInfo

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND_US = 1_000_000
NOW_US = round(NOW.timestamp()) * SECOND_US


def worker(jobs: int, max_jobs: int = 2, *components: str) -> StoredWorker:
    return StoredWorker(f"w{jobs}", WorkerInfo("host", 1, "1.0", components, max_jobs), 0, 0, 0, jobs)


def facts(
    *waits: dict[str, Any],
    status: str = "QUEUED",
    requests: tuple[dict[str, Any], ...] = (),
    place: QueuePlace | None = None,
    workers: tuple[StoredWorker, ...] = (),
    starts: tuple[float, ...] = (),
    share: str | None = None,
    has_begun: bool = False,
) -> Facts:
    found = {
        "status": status,
        "display_status": status,
        "waiting_for": waits,
        "requests": requests,
        "share": share,
        "started_at": NOW if has_begun else None,
    }
    began = [NOW - timedelta(seconds=ago) for ago in starts]
    required = next((wait["components"] for wait in waits if wait["kind"] == "worker"), ())
    return Facts("job-1234", "flow/1234", found, required, place, 3_600.0, workers, began, NOW)


def place(ahead: int, rank: int = 1, room_by: str | None = None, *, sooner_us: int = 0) -> QueuePlace:
    """Of a job that has come just now and had waited for 5 s before; `sooner_us` before the place that this gives."""
    first = [Waiting(f"job-{number:08}", 2, NOW_US - 9 * SECOND_US, None) for number in range(min(ahead, 3))]
    by_time_us = NOW_US - (5 + rank * 3_600) * SECOND_US
    return QueuePlace(rank, by_time_us - sooner_us, NOW_US, 5 * SECOND_US, ahead, first, room_by)


def test_every_kind_of_wait_has_a_sentence() -> None:
    kinds = set(re.findall(r'"kind": "(\w+)"', Path(views.__file__).read_text()))
    kinds |= set(re.findall(r'kind = "(\w+)" if .* else "(\w+)"', Path(views.__file__).read_text())[0])
    assert kinds == _SENTENCES.keys()


def test_requests_come_first_and_time_comes_last() -> None:
    asked = {"verb": "cancel", "at": NOW, "by": "ada", "reason": None, "force": False}
    timer = {"kind": "timer", "step": "sleeps", "at": NOW + timedelta(hours=1)}
    found = blockers_of(facts(timer, status="RUNNING", requests=(asked,)))
    assert [one.kind for one in found] == ["cancel", "timer"]
    assert found[0].message == "It is being cancelled by ada; what runs may end first, and nothing new starts."
    assert found[1].until == timer["at"]


def test_time_that_has_come_blocks_nothing() -> None:
    assert blockers_of(facts({"kind": "timer", "step": "sleeps", "at": NOW}, status="WAITING")) == []


@pytest.mark.parametrize(
    ("ago_s", "others", "kinds"),
    [(0.5, [], []), (5, [], ["slot"]), (5, [{"kind": "resource"}], ["resource"])],
    ids=["about to begin", "late", "said otherwise"],
)
def test_step_that_should_have_been_tried_again_waits_for_a_slot(
    ago_s: float, others: list[dict[str, Any]], kinds: list[str]
) -> None:
    retry = {"kind": "retry", "step": "t", "at": NOW - timedelta(seconds=ago_s)}
    amounts = {"resource": "gpu", "need": 1, "free": 0, "capacity": 1, "held_by": [], "ahead": []}
    found = blockers_of(facts(retry, *(one | amounts for one in others), status="RUNNING"))
    assert [one.kind for one in found] == kinds


@pytest.mark.parametrize(
    ("wait", "message", "command"),
    [
        ({"kind": "start", "at": None}, "Nobody has started it.", "openagents jobs start flow/1234"),
        (
            {"kind": "start", "at": NOW},
            "Nobody has started it. It starts by itself at its time.",
            "openagents jobs start flow/1234",
        ),
        (
            {"kind": "resume", "by": "ada", "reason": "lunch", "since": NOW},
            "It was paused by ada (lunch).",
            "openagents jobs resume flow/1234",
        ),
        (
            {"kind": "limit", "key": "acme", "limit": 2, "held_by": ["a-11111111", "b-22222222"]},
            "Its workflow lets 2 jobs with the key 'acme' be on at a time (`concurrency`), and on are: 11111111 and "
            "22222222.",
            "openagents jobs cancel a-11111111",
        ),
        ({"kind": "worker", "components": [], "workers": 0}, "No worker lives.", "openagents worker"),
        (
            {"kind": "child", "step": "s", "job_id": "child-12345678", "for": "end", "paused": True},
            "The step s waits for the end of the child job 12345678. It is paused.",
            "openagents jobs resume child-12345678",
        ),
        (
            {"kind": "decision", "step": "pay", "error": None},
            "Whether the effect of the step pay has happened is unknown: somebody has to say.",
            "openagents jobs resolve flow/1234 pay --retry",
        ),
    ],
)
def test_sentences_say_what_and_which_command_helps(wait: dict[str, Any], message: str, command: str) -> None:
    [found] = blockers_of(facts(wait, status="WAITING"))
    assert (found.kind, found.message, found.command) == (wait["kind"], message, command)


WORKER = {"kind": "worker", "components": ["pay"], "workers": 1}


def test_place_in_the_queue_with_its_parts() -> None:
    found = facts(WORKER, place=place(1_234), workers=(worker(2, 2, "pay"),))
    [blocker] = blockers_of(found)
    assert blocker.message == "1,234 jobs stand before it in the queue; the first is 00000000 (HIGH)."
    score = score_of(found)
    assert score is not None
    assert score.virtual_arrival == score.queued_at - timedelta(hours=1, seconds=5)
    assert (score.ahead, score.level, score.waited_s, len(score.before)) == (1_234, 1, 5.0, 3)
    assert score.by == "time"
    assert summary_of_blockers(found, [blocker, blocker]).endswith("(HIGH). One more thing blocks it.")


@pytest.mark.parametrize(
    ("sooner_us", "has_begun", "share", "by"),
    [
        (0, False, None, "time"),
        (1, True, None, "time"),
        (0, False, "tenant", "time"),
        (60 * SECOND_US, False, "tenant", "share"),
        (-60 * SECOND_US, True, "tenant", "share"),
        (60 * SECOND_US, False, None, "deadline"),
    ],
)
def test_place_says_what_has_put_the_job_there(sooner_us: int, has_begun: bool, share: str | None, by: str) -> None:
    placed = place(0, rank=2, sooner_us=sooner_us)
    score = score_of(facts(WORKER, place=placed, has_begun=has_begun, share=share))
    assert score is not None and score.by == by


def test_first_in_the_queue_waits_for_a_slot_or_for_nothing() -> None:
    busy = blockers_of(facts(WORKER, place=place(0, room_by="w1"), workers=(worker(2, 2, "pay"), worker(1, 1, "pay"))))
    assert [one.message for one in busy] == [
        "It is the next. All 2 workers that can run it are busy: all 3 job slots are taken. A job is making room for "
        "it."
    ]
    idle = facts(WORKER, place=place(0), workers=(worker(1, 2, "pay"), worker(0, 2, "other")))
    assert blockers_of(idle) == []
    assert summary_of_blockers(idle, []) == "It is QUEUED, and a worker takes it at any moment."
    estimate = estimate_of(idle)
    assert estimate is not None and estimate.begins_at == NOW


@pytest.mark.parametrize(
    ("starts", "begins_in_s", "basis"),
    [
        ((5.0, 15.0, 25.0), 4 * 10.0 - 5.0, "the last 3 jobs began at 6.0 a minute, and 3 stand before it"),
        ((5.0, 5.0, 5.0), 0.0, "the last 3 jobs began all at once, and 3 stand before it"),
        ((5.0, 15.0), None, "too few jobs have begun lately to say how fast others do"),
        ((1_200.0, 1_210.0, 1_220.0), None, "no job has begun for 20 minutes"),
    ],
)
def test_estimate_says_what_it_rests_on(starts: tuple[float, ...], begins_in_s: float | None, basis: str) -> None:
    estimate = estimate_of(facts(WORKER, place=place(3), workers=(worker(2, 2, "pay"),), starts=starts))
    assert estimate is not None and estimate.basis == basis
    begins = None if begins_in_s is None else NOW + timedelta(seconds=begins_in_s)
    assert estimate.begins_at == begins


def event(number: int, type: str, **data: Any) -> Event:
    return Event(number, type, number * SECOND_US, data)


def test_stays_are_told_from_the_history() -> None:
    stays = stays_in(
        [
            event(1, "job.created"),
            event(2, "job.queued", reason="started"),
            event(3, "job.started", worker="w1", epoch=1, sort_at=2 * SECOND_US),
            event(4, "job.queued", reason="preempted", by="urgent"),
            event(5, "job.paused"),
            event(6, "job.queued", reason="resumed"),
            event(7, "job.continued", worker="w2", epoch=2, preempted="other"),
            event(8, "job.queued", reason="elsewhere"),
        ]
    )
    assert [(one.reason, one.worker, one.made_room_for, one.preempted) for one in stays] == [
        ("started", "w1", None, None),
        ("resumed", "w2", None, "other"),
        ("elsewhere", None, None, None),
    ]
    assert stays[0].virtual_arrival is not None and stays[0].virtual_arrival.timestamp() == 2
    assert stays[-1].began_at is None
