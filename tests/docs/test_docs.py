"""The documentation is true: its code runs, its tables are the code's, its links lead somewhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
import typer
import yaml

import openagents_json
from openagents_json import JobManager, JobStatus, Settings, StepContext
from openagents_json.cli.exit_codes import MEANINGS
from openagents_json.cli.root import app as cli
from openagents_json.errors import OpenAgentsError
from openagents_json.job.events import EVENT_TYPES, NEWS_TYPES
from openagents_json.job.machine import allowed_verbs
from openagents_json.job.manager import JobManager as Manager
from openagents_json.workflow import limits
from openagents_json.workflow.model import (
    RESERVED_IDS,
    Budget,
    Case,
    Catch,
    Compensate,
    Concurrency,
    Raise,
    Repeat,
    Retry,
    Step,
    Wait,
    Workflow,
)
from openagents_json.workflow.shape import KIND_FIELDS
from openagents_json.workflow.vocabulary import ALIASES, FILTERS, TESTS
from tests.docs.pages import NOT_RUN, PAGES, ROOT, Block, Reader, blocks_of, code, compare, prose, rows, section

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Reader(tmp_path).follow(blocks_of(page))


@pytest.fixture(autouse=True)
def without_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OPENAGENTS_")]:
        monkeypatch.delenv(name)


def test_blocks_that_do_not_run_are_the_ones_on_the_list() -> None:
    starts = {start for page in PAGES for block in blocks_of(page) for start in NOT_RUN if block.text.startswith(start)}
    assert starts == set(NOT_RUN)


@pytest.mark.parametrize("language", ["", "rust", "sh"])
def test_block_of_an_unknown_language_fails(language: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nobody knows"):
        Reader(tmp_path).follow([Block(ROOT / "README.md", 1, language, None, "x\n")])


STEPS = '{"id": "sum", "steps": [{"id": "s", "set": "{{ 1 + 1 }}"}]}'
BROKEN = '{"id": "broken", "steps": [{"id": "r", "raise": {"type": "no.luck"}}]}'


@pytest.mark.parametrize(
    ("workflow", "title", "text", "message"),
    [
        (STEPS, "outputs", '{"s": 3}', "{'s': 2}"),
        (STEPS, "error", '{"type": "no.luck"}', "COMPLETED"),
        (BROKEN, "error", '{"type": "no.luck", "step": "s"}', "no.luck"),
        (BROKEN, "outputs", '{"r": null}', "FAILED"),
    ],
)
def test_workflow_that_gives_something_else_than_the_page_says_fails(
    workflow: str, title: str, text: str, message: str, tmp_path: Path
) -> None:
    blocks = [Block(ROOT / "README.md", line, "json", name, body)
              for line, name, body in ((1, None, workflow), (2, title, text))]  # fmt: skip
    with pytest.raises(AssertionError, match=message):
        Reader(tmp_path).follow(blocks)


def test_output_that_differs_from_the_page_fails() -> None:
    block = Block(ROOT / "README.md", 1, "text", None, "files: done in 2.4 s\nmeasure: 3 items\n")
    compare(block, "files: done in 3 ms\nmeasure: 3 items\n")
    with pytest.raises(AssertionError, match="measure"):
        compare(block, "files: done in 2.4 s\nmeasure: 4 items\n")


# ── links and navigation ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_page_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_file(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, which has no such heading"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def test_navigation_lists_every_page_once() -> None:
    listed = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def leaves(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    members = nav.values() if isinstance(nav, dict) else nav
    assert not isinstance(members, (int, float, type(None)))
    return [leaf for member in members for leaf in leaves(member)]  # type: ignore[attr-defined]


# ── tables that are the code's ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("heading", "types"), [("Events", EVENT_TYPES), ("News", NEWS_TYPES)])
def test_lifecycle_lists_every_event_type_with_its_payload(heading: str, types: dict[str, tuple[str, str]]) -> None:
    table = {code(row[0])[0]: (row[1], " ".join(code(row[2]))) for row in rows(section("lifecycle.md", heading))}
    assert table == types


def test_watching_page_lists_everything_that_health_tells() -> None:
    async def keys() -> set[str]:
        async with JobManager("memory") as jobs:
            return set(await jobs.health())

    named = {name for row in rows(section("watching.md", "Health")) for name in code(row[0])}
    assert asyncio.run(keys()) - named == {"max_jobs", "max_steps", "max_threads", "max_processes"}


def test_lifecycle_lists_every_status_with_the_verbs_it_allows() -> None:
    table = {code(row[0])[0]: set(code(row[2])) for row in rows(section("lifecycle.md", "Statuses"))}
    assert table == {str(status): set(allowed_verbs(status)) for status in JobStatus}


def test_state_diagram_has_every_status_and_no_other() -> None:
    (diagram,) = [block.text for block in blocks_of(DOCS / "lifecycle.md") if block.language == "mermaid"]
    assert set(re.findall(r"\b[A-Z]{4,}\b", diagram)) == set(JobStatus)


def test_settings_page_lists_every_setting_with_its_default() -> None:
    table = {code(row[0])[0]: code(row[1])[0] for row in rows(section("settings.md", "All settings"))}
    assert table == {name: str(field.default) for name, field in Settings.model_fields.items()}


def test_language_page_lists_every_limit_with_its_value() -> None:
    table = {code(row[0])[0]: row[1] for row in rows(section("language.md", "Limits")) if code(row[0])}
    wanted = {name: f"{value:,.0f}" for name, value in vars(limits).items() if name.isupper()}
    assert table == wanted


def test_language_page_lists_fields_filters_tests_and_reserved_ids() -> None:
    fields = {code(row[0])[0]: set(code(row[2])) for row in rows(section("language.md", "Kinds of steps"))}
    assert fields == {kind: set(fields) - {kind} for kind, fields in KIND_FIELDS.items()}
    assert set(code(section("language.md", "Filters"))) >= FILTERS | set(ALIASES)
    assert set(code(section("language.md", "Tests"))) == set(TESTS)
    assert set(code(section("language.md", "Order"))) >= RESERVED_IDS


def test_language_page_shows_every_field_in_an_example() -> None:
    shown: set[str] = set()
    for block in blocks_of(DOCS / "language.md"):
        if block.language == "json" and block.is_workflow:
            shown |= names_in(json.loads(block.text))
    models = (Workflow, Concurrency, Budget, Step, Repeat, Case, Wait, Catch, Compensate, Raise, Retry)
    fields = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert fields - shown == {"document", "given"}, "these are not of the language"


def names_in(value: object) -> set[str]:
    """Every key of an object, at any depth."""
    if isinstance(value, dict):
        return set(value) | {name for member in value.values() for name in names_in(member)}
    return {name for member in value for name in names_in(member)} if isinstance(value, list) else set()


def test_cli_page_lists_every_command_with_exactly_its_options() -> None:
    documented = {}
    for heading in re.findall(r"^#+ (openagents.*)$", (DOCS / "cli.md").read_text(), re.MULTILINE):
        cells = [row[0] for row in rows(section("cli.md", heading))]
        documented[heading] = {option.split()[0] for cell in cells for option in code(cell)}
    assert documented == dict(commands(typer.main.get_command(cli), "openagents"))


def commands(command: object, name: str) -> list[tuple[str, set[str]]]:
    options = {option for one in getattr(command, "params", ()) for option in one.opts if option.startswith("-")}
    found = [(name, options)] if options or not hasattr(command, "commands") else []
    for below, member in getattr(command, "commands", {}).items():
        found += commands(member, f"{name} {below}")
    return found


def test_cli_page_lists_every_exit_code() -> None:
    table = {int(row[0]): row[1] for row in rows(section("cli.md", "Exit codes"))}
    assert table == {int(exit_code): meaning for exit_code, meaning in MEANINGS.items()}


def test_python_page_names_everything_public() -> None:
    named = set(re.findall(r"\w+", " ".join(code(prose(DOCS / "python-api.md")))))
    methods = {name for cls in (Manager, StepContext) for name in vars(cls) if not name.startswith("_")}
    assert JobManager is Manager
    assert {*openagents_json.__all__, *methods} - named == {"__version__"}


def test_python_page_lists_every_error_with_its_code() -> None:
    table = {code(row[0])[0]: code(row[1])[0] for row in rows(section("python-api.md", "Errors"))}
    assert table == {cls.__name__: cls.code for cls in errors_below(OpenAgentsError)}


def errors_below(root: type[OpenAgentsError]) -> list[type[OpenAgentsError]]:
    public = [one for one in root.__subclasses__() if one.__module__ == "openagents_json.errors"]
    return [root, *(cls for one in public for cls in errors_below(one))]


# ── guarantees ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_guarantee_is_listed_with_tests_that_hold_it() -> None:
    marked = marked_tests()
    assert marked.keys() <= set(GUARANTEES)
    for name in GUARANTEES:
        files = set(re.findall(r"`((?:tests|src)/[\w/]+\.py)`", guarantee(name)))
        assert files, f"{name} names no test"
        assert all((ROOT / file).is_file() for file in files), f"{name} names a test file that is not there"
        if name in marked:
            assert files & marked[name], f"{name} must name one of the tests that mark it: {sorted(marked[name])}"


GUARANTEES = [f"G{number}" for number in range(1, 15)]


def marked_tests() -> dict[str, set[str]]:
    """Guarantee → the files, relative to the repository, whose tests mark it."""
    marked: dict[str, set[str]] = {}
    contract = ROOT / "src" / "openagents_json" / "job" / "store" / "contract"
    for file in [*(ROOT / "tests").rglob("test_*.py"), *contract.glob("*.py")]:
        for name in re.findall(r"mark\.guarantee\(\s*\"(G\d+)\"", file.read_text()):
            marked.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return marked


def guarantee(name: str) -> str:
    page = (DOCS / "guarantees.md").read_text()
    found = re.search(rf"^## {name}: .*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/guarantees.md has no {name}"
    return found[0]
