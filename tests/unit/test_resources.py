"""Amounts of resources, requirements and who meets them, what a worker has, and what a call may take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json.components import Isolation
from openagents_json.job.engine.capacities import (
    MIB,
    CallLimits,
    capacities_of,
    needs_of,
    usable_cores,
    usable_memory_mb,
)
from openagents_json.job.store.rules import serves
from openagents_json.resources import (
    MAX_AMOUNT,
    MAX_REQUIRED,
    REQUIRED_CHARACTERS,
    Offers,
    amount_of,
    components_of,
    had,
    needed,
    occupied,
    parts_of,
    problem_with,
    requirement,
    shortened,
)
from openagents_json.settings import Settings
from tests.unit.machine.drive import plan_of

AMOUNTS = st.floats(0, MAX_AMOUNT, allow_nan=False)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,9}", fullmatch=True)


# ── amounts ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("amount", "need", "have"),
    [(0, 0, 0), (1, 1_000, 1_000), (0.1, 100, 100), (0.29, 290, 290), (1 / 3, 334, 333), (1e-9, 1, 0),
     (0.0005, 1, 0), (2.0, 2_000, 2_000), (MAX_AMOUNT, 10**12, 10**12)],
)  # fmt: skip
def test_needs_are_rounded_up_and_what_there_is_down(amount: float, need: int, have: int) -> None:
    assert (needed(amount), had(amount)) == (need, have)


@given(AMOUNTS)
def test_amounts_of_thousandths_are_exact(amount: float) -> None:
    for units in (needed(amount), had(amount)):
        assert needed(amount_of(units)) == had(amount_of(units)) == units
    assert had(amount) <= needed(amount) <= had(amount) + 1


def test_limits_of_calls_and_needs_of_nothing_are_not_occupied() -> None:
    assert occupied({"gpu": 1, "cpu_s": 60, "browser": 0}) == {"gpu": 1_000}


def test_names_and_amounts_are_checked_at_the_limit_and_beyond() -> None:
    assert problem_with({"g" * 100: MAX_AMOUNT, "_a.b-c": 0, "f": 0.5}, 3) is None
    for wrong in ({"g" * 101: 1}, {"": 1}, {"1a": 1}, {"a b": 1}, {"ä": 1}, {"a\n": 1}, {3: 1}):
        assert "have the name" in (problem_with(wrong, 3) or "")
    for amount in (-0.1, MAX_AMOUNT + 1, float("nan"), float("inf"), True, "1", None):
        assert "an amount is a number" in (problem_with({"a": amount}, 3) or "")
    assert "name 4 resources; at most 3" in (problem_with(dict.fromkeys("abcd", 1), 3) or "")


# ── requirements ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(NAMES, st.dictionaries(NAMES, AMOUNTS, max_size=4))
def test_requirement_says_what_it_was_made_of(component: str, resources: dict[str, float]) -> None:
    needs = occupied(resources)
    text = requirement(component, needs)
    assert parts_of(text) == (component, tuple(sorted(needs.items())))
    assert Offers(frozenset({component}), {"more": 1} | resources).meets(text) == all(
        needs[name] <= had(resources[name]) for name in needs
    )


def test_worker_serves_who_requires_one_of_what_it_has() -> None:
    offers = Offers(frozenset({"a", "b"}), {"gpu": 1})
    served: list[tuple[str, ...]] = [(), ("a",), ("a", "c"), ('a {"gpu":1}',), ('a {"gpu":2}', "b")]
    left: list[tuple[str, ...]] = [("c",), ('a {"gpu":2}',), ('a {"gpu":1.001}', 'b {"tpu":1}'), ('c {"gpu":1}',)]
    assert all(serves(offers, required) for required in served)
    assert not any(serves(offers, required) for required in left)
    assert all(serves(None, required) for required in left)


def test_components_of_requirements_are_named_once() -> None:
    assert components_of(("b", 'a {"gpu":1}', 'a {"gpu":2}', "a")) == ["b", "a"]


def test_jobs_name_so_many_requirements_that_they_fit_into_an_index() -> None:
    assert shortened({"b", "a"}) == ["a", "b"]
    assert len(shortened(f"c{number}" for number in range(100))) == MAX_REQUIRED
    long = requirement("c" * 200, {f"{letter * 100}": 10**12 for letter in "abcdefgh"})
    both = requirement("c" * 200, {f"{letter * 100}": 10**12 for letter in "abcdefghijklmnop"})
    assert len(long) < REQUIRED_CHARACTERS < len(both) + 200 < 2_704, "what an index of PostgreSQL takes"
    assert shortened([long, long[:-1] + ',"x":1}']) == [long[:-1] + ',"x":1}']
    assert shortened([both]) == [both]


def test_new_job_requires_what_its_first_steps_occupy() -> None:
    def step(id: str, **fields: object) -> dict[str, object]:
        return {"id": id, "component": "c", "needs": []} | fields

    cases: dict[tuple[str, ...], list[dict[str, object]]] = {
        ("c",): [step("a"), step("b", resources={"gpu": 0, "cpu_s": 5})],
        ("c", 'c {"gpu":0.5}'): [step("a", resources={"gpu": 0.5}), step("b")],
        ('c {"browser":1,"gpu":2}',): [step("a", resources={"gpu": 2, "browser": 1})],
        (): [step(f"s{number}", resources={f"r{number}": 1}) for number in range(MAX_REQUIRED + 1)],
    }
    for required, steps in cases.items():
        assert plan_of(list(steps)).first_components == required


# ── what a worker has ─────────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def test_cores_are_those_that_the_process_may_use(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores(tmp_path) == cores
    assert usable_cores(write(tmp_path, cpu_DOT_max="max 100000\n")) == cores
    assert usable_cores(write(tmp_path, cpu_DOT_max="50000 100000\n")) == 0.5
    assert usable_cores(write(tmp_path, cpu_DOT_max="99900000 100000\n")) == cores


def test_cores_of_the_older_control_groups(tmp_path: Path) -> None:
    files = {"cpu__cpu_DOT_cfs_quota_us": "25000\n", "cpu__cpu_DOT_cfs_period_us": "100000\n"}
    assert usable_cores(write(tmp_path, **files)) == 0.25
    assert usable_cores(write(tmp_path, cpu__cpu_DOT_cfs_quota_us="-1\n")) >= 1


def test_memory_is_that_of_the_machine_or_less(tmp_path: Path) -> None:
    machine = usable_memory_mb(tmp_path)
    assert machine > 0
    assert usable_memory_mb(write(tmp_path, memory_DOT_max="max\n")) == machine
    assert usable_memory_mb(write(tmp_path, memory_DOT_max=f"{64 * MIB + 5}\n")) == 64
    assert usable_memory_mb(write(tmp_path, memory__memory_DOT_limit_in_bytes=f"{32 * MIB}\n")) == 32


def test_what_is_given_takes_the_place_of_what_a_worker_says_itself() -> None:
    given = Settings(max_threads=7, resources={"gpu": 1.0, "processes": 2, "cpu": 1.23456})
    capacities = capacities_of(given)
    assert (capacities["threads"], capacities["processes"], capacities["steps"]) == (7, 2, 1_000)
    assert (capacities["gpu"], capacities["cpu"]) == (1, 1.234)
    assert type(capacities["gpu"]) is int


# ── what a step needs ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("isolation", "resources", "amounts"),
    [
        ("inline", {}, {"steps": 1_000}),
        ("thread", {}, {"steps": 1_000, "threads": 1_000}),
        ("process", {"cpu_s": 5}, {"steps": 1_000, "processes": 1_000}),
        ("thread", {"threads": 0.5, "steps": 0.5}, {"steps": 1_000, "threads": 1_000}),
        ("process", {"processes": 2, "gpu": 0.1}, {"steps": 1_000, "processes": 2_000, "gpu": 100}),
        ("inline", {"threads": 1}, {"steps": 1_000, "threads": 1_000}),
    ],
)
def test_step_needs_itself_what_it_runs_in_and_what_it_says(
    isolation: Isolation, resources: dict[str, float], amounts: dict[str, int]
) -> None:
    needs = needs_of(isolation, resources)
    assert dict(needs.amounts) == amounts and needs.names == tuple(sorted(amounts))
    assert needs_of(isolation, resources) is needs


@pytest.mark.parametrize(
    ("resources", "timeout_s", "limits"),
    [
        ({}, 10, CallLimits()),
        ({"memory_mb": 100.2}, None, CallLimits(memory_mb=101)),
        ({"memory_mb": 0, "cpu_s": 0, "cpu": 0}, 10, CallLimits()),
        ({"cpu": 2}, None, CallLimits()),
        ({"cpu": 2}, 10, CallLimits(cpu_s=20)),
        ({"cpu": 2, "cpu_s": 5}, 10, CallLimits(cpu_s=5)),
        ({"cpu": 0.1, "cpu_s": 5}, 10, CallLimits(cpu_s=1)),
    ],
)
def test_call_may_take_what_it_said(resources: dict[str, float], timeout_s: float | None, limits: CallLimits) -> None:
    assert CallLimits.of(resources, timeout_s) == limits
