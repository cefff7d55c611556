"""The steps that wait for leave to start: their order, and that a turn does not look at all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openagents_json.job.machine.startable import ALIKE_ASKED, NONE_ALIKE, Entry, Kind, Reply, Startable


class Asker:
    """Prepares what is offered, by the name before the dot in its path, and replies as it is told."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}  # by path, or by kind
        self.prepared: list[str] = []
        self.asked: list[str] = []

    def prepare(self, entry: Entry) -> bool:
        self.prepared.append(entry.path)
        entry.kind = kind_of(entry.path)
        return entry.kind[0] != "unwanted"

    def ask(self, entry: Entry) -> Reply:
        self.asked.append(entry.path)
        return self.replies.get(entry.path, self.replies.get(entry.path.partition(".")[0], True))


def kind_of(path: str) -> Kind:
    return path.partition(".")[0], "", ()


def offered(startable: Startable, replies: dict[str, Reply] | None = None) -> list[str]:
    """What was asked in one turn."""
    asker = Asker()
    asker.replies = replies or {}
    startable.offer(asker.prepare, asker.ask)
    return asker.asked


def filled(*paths: str) -> Startable:
    startable = Startable()
    for path in paths:
        startable.add(path)
    return startable


def test_steps_start_in_the_order_in_which_they_became_ready() -> None:
    startable = filled("a.1", "b.1", "a.2", "b.2")
    assert offered(startable, {"a": False, "b": False}) == ["a.1", "b.1", "a.2", "b.2"]
    startable.add("a.3")
    assert offered(startable) == ["a.1", "b.1", "a.2", "b.2", "a.3"]
    assert not startable


def test_none_of_a_kind_is_asked_after_one_has_heard_that_none_can_start() -> None:
    startable = filled("a.1", "b.1", "a.2", "b.2")
    for _ in range(2):  # new ones, and then those that were prepared
        assert offered(startable, {"a": NONE_ALIKE, "b": False}) == ["a.1", "b.1", "b.2"]
    assert list(startable) == ["a.1", "b.1", "a.2", "b.2"]
    assert offered(startable) == ["a.1", "b.1", "a.2", "b.2"]


def test_nobody_is_asked_after_none() -> None:
    startable = filled("a.1", "b.1", "a.2")
    assert offered(startable, {"b": None}) == ["a.1", "b.1"]
    assert offered(startable, {"b": None}) == ["b.1"]
    assert offered(startable) == ["b.1", "a.2"]


def test_so_many_alike_are_asked_in_a_turn() -> None:
    startable = filled(*(f"a.{number}" for number in range(ALIKE_ASKED + 5)), "b.1")
    for _ in range(2):
        assert len(offered(startable, {"a": False, "b": False})) == ALIKE_ASKED + 1


def test_none_comes_before_others_that_fall_under_the_same_limits() -> None:
    startable, asked = Startable(), list[str]()

    def prepare(entry: Entry) -> bool:
        entry.kind = entry.path.partition(".")[0], "", "the same"
        return True

    def ask(entry: Entry) -> Reply:
        asked.append(entry.path)
        return False

    for path in [*(f"a.{number}" for number in range(ALIKE_ASKED + 5)), "b.1"]:
        startable.add(path)
    for _ in range(2):  # new ones, and then those that were prepared
        startable.offer(prepare, ask)
        assert asked == [f"a.{number}" for number in range(ALIKE_ASKED)]
        asked.clear()


def test_kind_may_become_known_when_the_step_is_asked() -> None:
    startable, asked = Startable(), list[str]()

    def prepare(entry: Entry) -> bool:
        entry.kind = "a", "", None
        return True

    def ask(entry: Entry) -> Reply:
        asked.append(entry.path)
        entry.kind = "a", "", entry.path[-1]
        return False

    for number in range(3):
        startable.add(f"a.{number}")
    startable.offer(prepare, lambda entry: NONE_ALIKE)
    for _ in range(2):
        startable.offer(prepare, ask)
    assert asked == ["a.0", "a.1", "a.2"] * 2 and list(startable) == ["a.0", "a.1", "a.2"]


def test_step_is_prepared_once_and_goes_if_it_is_not_wanted() -> None:
    startable = filled("a.1", "unwanted.1")
    asker = Asker()
    asker.replies = {"a": False}
    for _ in range(2):
        startable.offer(asker.prepare, asker.ask)
    assert (asker.prepared, asker.asked) == (["a.1", "unwanted.1"], ["a.1", "a.1"])
    assert list(startable) == ["a.1"]


def test_step_that_was_discarded_is_asked_no_more_and_may_come_again_at_the_end() -> None:
    startable = filled("a.1", "a.2", "a.3")
    startable.discard("a.2")
    assert offered(startable, {"a": False}) == ["a.1", "a.3"]
    startable.discard("a.1")
    startable.add("a.1")
    startable.add("a.3")
    assert offered(startable) == ["a.3", "a.1"]


def test_kinds_are_those_of_steps_that_wait() -> None:
    startable = filled("a.1", "b.1")
    assert not startable.are_all({kind_of("a.1"), kind_of("b.1")}), "of a new one nobody knows it"
    offered(startable, {"a": False, "b": False})
    assert startable.are_all({kind_of("a.1"), kind_of("b.1")})
    assert not startable.are_all({kind_of("a.1")})
    startable.discard("b.1")
    assert startable.are_all({kind_of("a.1")})


@pytest.mark.parametrize("is_prepared", [False, True])
def test_error_of_who_is_asked_loses_no_step(is_prepared: bool) -> None:
    startable = filled("a.1", "a.2", "b.1")
    if is_prepared:
        offered(startable, {"a": False, "b": False})

    def fail(entry: Entry) -> Reply:
        if entry.path == "a.2":
            raise OSError
        return False

    with pytest.raises(OSError):
        startable.offer(Asker().prepare, fail)
    assert offered(startable) == ["a.1", "a.2", "b.1"]


STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 5)),
    st.tuples(st.just("discard"), st.sampled_from("abc"), st.integers(0, 5)),
    st.tuples(st.just("turn"), st.dictionaries(st.sampled_from("abc"), st.sampled_from([True, NONE_ALIKE, None]))),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_steps_are_asked_as_of_one_list(script: list[Any]) -> None:
    startable, model = Startable(), list[str]()
    for what, *rest in script:
        path = f"{rest[0]}.{rest[1]}" if what != "turn" else ""
        if what == "add":
            startable.add(path)
            model += [path] if path not in model else []
        elif what == "discard":
            startable.discard(path)
            model = [one for one in model if one != path]
        else:
            [replies] = rest
            asked, passed, left = [], set(), []
            for number, path in enumerate(model):
                kind = path[0]
                if kind in passed:
                    left.append(path)
                    continue
                asked.append(path)
                reply = replies.get(kind, True)
                if not reply:
                    left.append(path)
                    passed.add(kind)
                if reply is None:
                    left += model[number + 1 :]
                    break
            model = left
            assert offered(startable, replies) == asked
        assert list(startable) == model
        assert len(startable) == len(model) and bool(startable) == bool(model)
