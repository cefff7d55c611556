"""Any definition loads or gives problems: never an exception, and never slowly.

How many are tried is set by OPENAGENTS_TEST_DEFINITIONS (a few thousand unless it says otherwise); half of them follow
the grammar, half are broken by mutation. A failure names the seed: `generated(SEED)` or `mutated(SEED)` makes it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openagents_json.components import ComponentRegistry, register_builtins
from openagents_json.errors import InvalidDefinition, Problem
from openagents_json.workflow import build_plan, check, load_workflow
from tests.property.definitions import generated, mutated

EXAMPLES = int(os.environ.get("OPENAGENTS_TEST_DEFINITIONS", "2000")) // 2
SETTINGS = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
LIMIT_S = 0.1  # of CPU, for up to 64 KiB
LIMIT_BYTES = 64 * 1024
SEEDS = st.integers(0, 2**32)
COMPONENTS = ComponentRegistry()
register_builtins(COMPONENTS)


def checked(document: Any) -> list[Problem]:
    """What the check finds; it has to be quick. The best of three counts, since the machine is not ours alone."""
    best_s = float("inf")
    for _ in range(3):
        started = time.thread_time()
        problems = check(document, COMPONENTS)
        best_s = min(best_s, time.thread_time() - started)
        if best_s < LIMIT_S:
            return problems
    assert len(json.dumps(document)) > LIMIT_BYTES, f"the check took {best_s:.3f} s"
    return problems


@pytest.mark.parametrize("make", [generated, mutated])
def test_any_definition_loads_or_gives_problems(make: Callable[[int], Any]) -> None:
    outcomes = {"loads": 0, "gives problems": 0}

    @SETTINGS
    @given(SEEDS)
    def holds(seed: int) -> None:
        document = make(seed)
        problems = checked(document)
        errors = [problem for problem in problems if problem.level == "error"]
        assert all(problem.path.startswith("$") and problem.message.isprintable() for problem in problems)
        if errors:
            outcomes["gives problems"] += 1
            return
        outcomes["loads"] += 1
        assert build_plan(load_workflow(document)).nodes

    holds()
    assert min(outcomes.values()) > EXAMPLES // 50, outcomes


def test_what_a_definition_breaks_in_the_shape_is_refused_by_the_loader_too() -> None:
    refused = 0
    for seed in range(200):
        document = mutated(seed)
        try:
            load_workflow(document)
        except InvalidDefinition as error:
            refused += 1
            assert error.problems
            assert any(problem.level == "error" for problem in check(document))
    assert refused > 50
