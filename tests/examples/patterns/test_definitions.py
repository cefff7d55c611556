"""The folder of patterns as a whole: every definition is in order, described, shown in the docs and run by a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from examples.patterns.components import app
from openagents_json import check
from tests.docs.pages import ROOT, blocks_of, code, rows, section
from tests.examples.patterns.stage import PATTERNS

FILES = sorted(PATTERNS.glob("*.json"))
PAGE = ROOT / "docs" / "patterns.md"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_definition_is_described_and_has_no_problem_of_any_level(file: Path) -> None:
    definition = json.loads(file.read_text())
    assert definition["id"] == file.stem
    assert definition["description"]
    assert check(file, app.components) == []


def test_every_definition_is_run_by_a_test() -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    started = set(re.findall(r"\.start\(\s*\"([\w-]+)\"", tests))
    assert {file.stem for file in FILES} - started == {"one-page"}, "one-page is started by its parent"


def test_table_has_each_of_the_43_patterns_once_and_names_files_that_are_there() -> None:
    table = [row for heading in HEADINGS for row in rows(section("patterns.md", heading))]
    assert sorted(int(row[0]) for row in table) == list(range(1, 44))
    assert {row[2] for row in table} == {"yes", "partly", "no"}
    named = [name for row in table for name in code(row[4])]
    assert set(named) == {file.name for file in FILES} - {"one-page.json"}
    for number, _, answer, reason, file in table:
        assert reason, f"WCP-{number} has no reason"
        assert (answer == "no") == (file == ""), f"WCP-{number}: a file if and only if it can be said"


HEADINGS = (
    "Basic control flow", "Branching and joining", "Multiple instances", "State",
    "Cancelling", "Iteration", "Termination and triggers",
)  # fmt: skip


def test_definitions_shown_in_the_page_are_the_files() -> None:
    shown = [block for block in blocks_of(PAGE) if block.is_workflow]
    assert shown
    for block in shown:
        definition = json.loads(block.text)
        assert block.text == (PATTERNS / f"{definition['id']}.json").read_text(), block.place
