"""Faults planted into the shipped examples and a fixture with every kind of step: the static check finds them."""

from __future__ import annotations

import pytest

from openagents_json.workflow import check
from tests.fixtures.planted import COMPONENTS, FAULTS, FILES, RESOURCES, WORKFLOWS, Fault

# Faults that are not found at their own place, and why. The static check promises 57 of 60.
ELSEWHERE = {
    "$.steps[3].switch[0].steps[1].set.approved": "expressions are compiled value by value: the path is that of `set`",
}


def finds(fault: Fault) -> bool:
    problems = check(fault.planted(), COMPONENTS[fault.definition], resources=RESOURCES, workflows=WORKFLOWS)
    return any(one.path == fault.path and fault.words in str(one) and one.level != "note" for one in problems)


@pytest.mark.parametrize("name", FILES)
def test_good_definition_raises_no_alarm(name: str) -> None:
    assert check(FILES[name], COMPONENTS[name], resources=RESOURCES, workflows=WORKFLOWS) == []
    assert check(FILES[name]) == []


def test_at_least_57_of_60_planted_faults_are_found_at_their_place() -> None:
    unfound = [fault for fault in FAULTS if not finds(fault)]
    assert len(FAULTS) >= 60
    assert {fault.path for fault in unfound} <= ELSEWHERE.keys()
    assert len(unfound) <= len(FAULTS) * 3 / 60


@pytest.mark.parametrize("part", ["catch", "finally", "switch", "compensate", "repeat", "parallel", "foreach"])
def test_faults_are_planted_into_every_nesting(part: str) -> None:
    places = " ".join(fault.place.replace("steps[1].steps", "foreach") for fault in FAULTS)
    assert places.count(part) >= 3
