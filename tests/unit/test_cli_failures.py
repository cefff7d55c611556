"""Errors of the command line: the exit code, the sentence, the JSON."""

from __future__ import annotations

import json

import pytest

from openagents_json import errors
from openagents_json.cli.exit_codes import MEANINGS, Exit, epilog
from openagents_json.cli.failures import UsageProblem, error_document, exit_code_of, problem_lines, show_error
from openagents_json.errors import Problem

PROBLEM = Problem("$.steps[0]", "It is \x1b[31mred.", "Make it blue.", 3, 7)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageProblem("no"), Exit.USAGE),
        (errors.InvalidDefinition([PROBLEM]), Exit.USAGE),
        (errors.InvalidInputs([PROBLEM]), Exit.USAGE),
        (errors.InvalidSettings("no"), Exit.USAGE),
        (errors.InvalidTransition("id", "pause", "FAILED", ()), Exit.USAGE),
        (errors.IdempotencyConflict("no"), Exit.USAGE),
        (errors.LimitReached("no"), Exit.LIMIT),
        (errors.AmbiguousJobId("ab", ["abc", "abd"]), Exit.USAGE),
        (errors.JobNotFound("id"), Exit.NOT_FOUND),
        (errors.WorkflowNotFound("no"), Exit.NOT_FOUND),
        (errors.ResultsNotReady("id", "FAILED"), Exit.JOB_FAILED),
        (errors.ResultsNotReady("id", "CANCELLED"), Exit.CANCELLED),
        (errors.ResultsNotReady("id", "RUNNING"), Exit.USAGE),
        (errors.StoreUnavailable("away"), Exit.STORE),
        (errors.InvalidStore("no"), Exit.STORE),
        (errors.SchemaTooNew("no"), Exit.STORE),
        (ZeroDivisionError(), Exit.INTERNAL),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: Exit) -> None:
    assert exit_code_of(error) == code


def test_every_exit_code_is_documented_in_the_help() -> None:
    assert set(MEANINGS) == set(Exit)
    assert all(str(int(code)) in epilog() for code in Exit)


def test_error_as_json_holds_every_problem() -> None:
    document = error_document(errors.InvalidDefinition([PROBLEM], "w.json"))
    assert document["code"] == "definition.invalid"
    assert document["message"] == "w.json has 1 problem"
    assert document["problems"] == [
        {
            "path": "$.steps[0]",
            "line": 3,
            "column": 7,
            "message": "It is \x1b[31mred.",
            "suggestion": "Make it blue.",
            "level": "error",
        }
    ]


def test_error_is_shown_escaped_with_place_and_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(errors.InvalidDefinition([PROBLEM], "w.json"), as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "openagents: w.json has 1 problem:",
        "  line 3, column 7: $.steps[0]: It is \\x1b[31mred. Make it blue.",
    ]


def test_error_as_json_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(errors.JobNotFound("x"), as_json=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"]["code"] == "job.not_found"


def test_long_list_of_problems_is_cut_and_counted() -> None:
    lines = problem_lines([PROBLEM] * 30, limit=20)
    assert len(lines) == 21
    assert lines[-1] == "… and 10 more"
