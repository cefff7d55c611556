"""Admission: who gets a slot, and who is next."""

from __future__ import annotations

from openagents_json.job.engine.slots import MAX_ABANDONED, Slots


def test_slots_are_given_until_none_is_left() -> None:
    slots: Slots[str] = Slots(2, {"thread": 1})
    assert slots.take("inline", "j") is True
    assert slots.take("thread", "j") is True
    assert slots.take("inline", "j") is None
    slots.give_back("inline")
    assert slots.take("thread", "j") is False
    assert slots.take("inline", "j") is True


def test_waiters_are_woken_in_order_once_each() -> None:
    slots: Slots[str] = Slots(1, {"thread": 1})
    slots.take("inline", "first")
    for waiter in ("second", "third", "second"):
        assert slots.take("inline", waiter) is None
    assert slots.next_waiter() is None
    slots.give_back("inline")
    assert [slots.next_waiter() for _ in range(3)] == ["second", "third", None]


def test_who_waits_for_a_thread_is_woken_only_when_one_is_free() -> None:
    slots: Slots[str] = Slots(5, {"thread": 1})
    slots.take("thread", "first")
    assert slots.take("thread", "second") is False
    assert slots.next_waiter() is None
    slots.give_back("thread")
    assert slots.next_waiter() == "second"


def test_eight_abandoned_threads_stop_further_ones() -> None:
    slots: Slots[str] = Slots(100, {"thread": 100})
    slots.abandoned = MAX_ABANDONED - 1
    assert slots.take("thread", "j") is True
    slots.abandoned = MAX_ABANDONED
    assert slots.take("thread", "j") is False
    assert slots.take("inline", "j") is True
    assert MAX_ABANDONED == 8


def test_forgotten_waiter_is_never_woken() -> None:
    slots: Slots[str] = Slots(1, {"thread": 1})
    slots.take("inline", "first")
    slots.take("inline", "second")
    slots.forget("second")
    slots.forget("nobody")
    slots.give_back("inline")
    assert slots.next_waiter() is None
