"""A definition, a history and a snapshot that version 0.2 wrote stay readable (`tests/fixtures/stores`).

When this fails, what is stored by users cannot be read any more: change the reader, not the fixture. A later version
that writes otherwise adds a fixture of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openagents_json.job.events import Event, decode_events, encode_events, unknown_keys
from openagents_json.job.machine import FOLD_VERSION, JobState, decode_snapshot, encode_snapshot, fold
from openagents_json.job.store.records import JobRow, row_of
from openagents_json.jsondata import encode
from openagents_json.workflow import Plan, build_plan, stored_workflow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "stores" / "history-of-0.2.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIXTURE.read_text())
    return found


@pytest.fixture(scope="module")
def plan(document: dict[str, Any]) -> Plan:
    return build_plan(stored_workflow(document["definition"]))


@pytest.fixture(scope="module")
def events(document: dict[str, Any]) -> list[Event]:
    return decode_events(json.dumps(document["events"]))


def folded(plan: Plan, events: list[Event], start: JobState | None = None) -> JobState:
    return fold(plan, [event.copied() for event in events], start)


def test_definition_has_the_hash_under_which_it_was_stored(document: dict[str, Any], plan: Plan) -> None:
    assert plan.workflow.content_hash == document["definition_hash"]


def test_events_are_still_those_of_the_table(events: list[Event]) -> None:
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [(event.number, unknown_keys(event)) for event in events if unknown_keys(event)] == []
    assert len({event.type for event in events}) > 20, "the fixture tells of little"
    assert decode_events(encode_events(events)) == events


def test_history_folds_to_the_row_that_it_had(document: dict[str, Any], plan: Plan, events: list[Event]) -> None:
    state = folded(plan, events)
    assert row_of(state) == msgspec.convert(document["row"], JobRow)
    assert state.outputs == document["outputs"]


def test_every_beginning_of_the_history_folds(plan: Plan, events: list[Event]) -> None:
    for number in range(1, len(events) + 1):
        assert folded(plan, events[:number]).number == number


def test_snapshot_is_what_its_events_fold_to_or_is_not_used_any_more(
    document: dict[str, Any], plan: Plan, events: list[Event]
) -> None:
    if document["fold_version"] != FOLD_VERSION:
        assert document["fold_version"] < FOLD_VERSION  # stores pass it over
        return
    number = document["snapshot"]["events"]
    start = decode_snapshot(encode(document["snapshot"]["state"]), plan)
    assert start.number == number
    assert encode_snapshot(folded(plan, events[:number])) == encode_snapshot(start)
    assert row_of(folded(plan, events[number:], start)) == row_of(folded(plan, events))
