"""`openagents validate` and `openagents components`: what can be said without a job."""

from __future__ import annotations

import json

from openagents_json.workflow.language_schema import language_schema
from tests.acceptance.support import PARTS, Shell, step

C = ("--components", str(PARTS))
BROKEN = """{
  "id": "flow",
  "steps": [
    {"id": "a", "component": "note", "inputs": {"valu": 1}},
    {"id": "b", "component": "nope", "timout": 3},
    {"id": "c", "set": "{{ steps.a.output | lenth }}"}
  ]
}
"""


async def test_valid_workflow_is_counted(shell: Shell) -> None:
    each = {"id": "each", "foreach": [1], "steps": [step("inner", "note", value="{{ item }}")]}
    flow = shell.workflow(step("a", "note", value=1), each, version="1.4.0", timeout=60)
    ended = shell.run("validate", flow, *C)
    assert (ended.code, ended.out, ended.err) == (0, "OK flow 1.4.0, 3 steps\n", "")
    assert shell.run("validate", flow, "--json").document == {
        "ok": True, "id": "flow", "version": "1.4.0", "steps": 3, "problems": [],
    }  # fmt: skip
    assert not shell.store_path.exists(), "checking a file makes no store"


async def test_components_that_are_not_given_are_not_looked_for_and_that_is_said(shell: Shell) -> None:
    ended = shell.run("validate", shell.workflow(step("a", "nobody.knows")))
    assert ended.code == 0 and "Its components were not looked for" in ended.out


async def test_every_problem_is_told_with_line_and_column(shell: Shell) -> None:
    ended = shell.run("validate", shell.write("flow.json", BROKEN), *C)
    assert (ended.code, ended.out) == (2, "")
    first, *rest = ended.err.splitlines()
    assert first.startswith("flow.json has ")
    assert any(line.startswith("  line 5, column 38: $.steps[1].timout:") and "'timeout'" in line for line in rest)
    assert int(first.split()[2]) == len(rest)


async def test_problems_of_the_components_are_told_once_the_grammar_is_right(shell: Shell) -> None:
    text = BROKEN.replace(', "timout": 3', "")
    ended = shell.run("validate", shell.write("flow.json", text), *C)
    assert ended.code == 2
    for place, words in [
        ("line 4, column 38: $.steps[0].inputs", "valu"),
        ("line 5, column 17: $.steps[1].component", "'nope'"),
        ("line 6, column 17: $.steps[2].set", "`length`"),
    ]:
        assert [line for line in ended.err.splitlines() if place in line and words in line], (place, ended.err)


async def test_warnings_are_told_and_change_nothing_about_the_exit_code(shell: Shell) -> None:
    guarded = step("a", "note", value=1) | {"condition": "{{ job.id != '' }}"}
    flow = shell.workflow(guarded, {"id": "b", "set": "{{ steps.a.output.x }}"}, timeout=60)
    ended = shell.run("validate", flow, *C)
    assert (ended.code, ended.out) == (0, "OK flow 1.0.0, 2 steps\n")
    assert ended.err.startswith("flow.json has 1 warning:\n")
    assert "$.steps[1].set: warning: `steps.a.output.x` may be missing: step 'a' may be skipped." in ended.err
    [problem] = shell.run("validate", flow, *C, "--json").document["problems"]
    assert (problem["level"], problem["path"]) == ("warning", "$.steps[1].set")


async def test_json_validate_lists_all_problems_for_programs(shell: Shell) -> None:
    ended = shell.run("validate", shell.write("flow.json", BROKEN), *C, "--json")
    assert (ended.code, ended.err, ended.document["ok"]) == (2, "", False)
    [timout] = [one for one in ended.document["problems"] if one["path"] == "$.steps[1].timout"]
    assert timout == {
        "level": "error", "path": "$.steps[1].timout", "message": "A step has no field 'timout'.",
        "suggestion": "Did you mean 'timeout'?", "line": 5, "column": 38,
    }  # fmt: skip


async def test_schema_is_printed_and_is_the_shipped_one(shell: Shell) -> None:
    ended = shell.run("schema")
    assert (ended.code, json.loads(ended.out)) == (0, language_schema())
    assert shell.run("schema", "--json").document == language_schema()


async def test_yaml_workflow_is_checked_the_same_way(shell: Shell) -> None:
    shell.write("flow.yaml", "id: flow\nsteps:\n  - id: a\n    component: note\n    timout: 3\n")
    ended = shell.run("validate", "flow.yaml")
    assert ended.code == 2 and "line 5, column 5: $.steps[0].timout" in ended.err


async def test_components_are_listed_with_version_tags_and_description(shell: Shell) -> None:
    ended = shell.run("components", *C, "--tag", "writes")
    head, *rows = ended.out.splitlines()
    assert head.split() == ["NAME", "VERSION", "RUNS", "TAGS", "DESCRIPTION"]
    assert [row.split(maxsplit=4) for row in rows] == [
        ["note", "1.2.0", "inline", "writes", "Writes its value down and returns it."]
    ]


async def test_json_components_carry_their_schemas(shell: Shell) -> None:
    [gate] = shell.run("components", *C, "--name", "ga*", "--json").document["components"]
    assert (gate["name"], gate["tags"], gate["inputs"]["required"]) == ("gate", ["waits"], ["name"])
    assert gate["output"] == {"type": "string"}
    assert "parts.py" in gate["defined_at"]
