"""Loading definitions: from dictionaries, JSON, YAML and files, and every way in which that is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from openagents_json.errors import InvalidDefinition, Problem
from openagents_json.workflow import limits, load_folder, load_workflow, parse_text, parse_workflow
from openagents_json.workflow.model import RESERVED_IDS

STEP: dict[str, Any] = {"id": "a", "set": 1}


def definition(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "w", "steps": list(steps) or [STEP], **fields}


def problems_of(document: Any) -> list[Problem]:
    with pytest.raises(InvalidDefinition) as caught:
        parse_workflow(document)
    return list(caught.value.problems)


def problem_of(document: Any) -> Problem:
    """The only problem of a definition."""
    problems = problems_of(document)
    assert len(problems) == 1, problems
    return problems[0]


def text_problem(text: str, language: Any = "json") -> Problem:
    with pytest.raises(InvalidDefinition) as caught:
        parse_text(text, language)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


# ── what loads ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dictionary_json_yaml_and_file_give_the_same_workflow(tmp_path: Path) -> None:
    document = definition({"id": "a", "component": "x", "inputs": {"n": 1}}, description="é", version="2.0.0")
    file = tmp_path / "w.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    yaml = "id: w\ndescription: é\nversion: 2.0.0\nsteps:\n- {id: a, component: x, inputs: {n: 1}}\n"
    workflows = [
        parse_workflow(document),
        load_workflow(document),
        load_workflow(file),
        load_workflow(str(file)),
        parse_text(json.dumps(document)),
        parse_text(yaml, "yaml"),
    ]
    assert len({workflow.content_hash for workflow in workflows}) == 1
    assert workflows[0].document == document


def test_workflow_is_not_changed_by_changing_what_it_was_made_from() -> None:
    document = definition({"id": "a", "component": "x", "inputs": {"list": [1]}})
    workflow = parse_workflow(document)
    before = workflow.encoded
    document["steps"][0]["inputs"]["list"].append(2)
    assert json.loads(before) == workflow.document == definition({"id": "a", "component": "x", "inputs": {"list": [1]}})
    with pytest.raises(TypeError):
        workflow.document["steps"].append(STEP)
    with pytest.raises(TypeError):
        workflow.steps[0].inputs["list"].append(2)


def test_free_fields_are_kept_in_the_document() -> None:
    document = definition(
        {"id": "a", "set": 1, "note": ["any"], "x-color": "red", "metadata": {"k": 1}},
        **{"$schema": "https://example.org/s.json", "x-team": {"a": 1}, "note": "n", "metadata": {}},
    )
    workflow = parse_workflow(document)
    assert workflow.document == document
    assert workflow.metadata == {}
    assert workflow.steps[0].note == ["any"]


def test_content_hash_ignores_the_order_of_keys_but_not_of_steps() -> None:
    one, two = {"id": "a", "set": 1}, {"set": 2, "id": "b"}
    assert parse_workflow({"id": "w", "steps": [one, two]}).content_hash == (
        parse_workflow({"steps": [dict(reversed(one.items())), two], "id": "w"}).content_hash
    )
    assert parse_workflow(definition(one, two)).content_hash != parse_workflow(definition(two, one)).content_hash


def test_integers_beyond_two_to_53_survive_and_so_does_their_hash() -> None:
    number = 2**53 + 1
    for workflow in (
        parse_text(json.dumps(definition({"id": "a", "set": number}))),
        parse_text(f"id: w\nsteps: [{{id: a, set: {number}}}]", "yaml"),
    ):
        assert workflow.steps[0].set == number
        assert str(number).encode() in workflow.encoded


def test_set_null_is_a_value() -> None:
    assert parse_workflow(definition({"id": "a", "set": None})).steps[0].kind == "set"


def test_whole_numbers_are_fine_for_timeouts() -> None:
    assert parse_workflow(definition({"id": "a", "component": "x", "timeout": 30})).steps[0].timeout == 30.0


def test_finally_holds_steps() -> None:
    assert parse_workflow(definition(**{"finally": [{"id": "z", "set": 1}]})).finally_[0].id == "z"


# ── fields and kinds ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("document", "path", "suggestion"),
    [
        (definition({"id": "a", "set": 1, "conditon": True}), "$.steps[0].conditon", "Did you mean 'condition'?"),
        (definition(ouputs=1), "$.ouputs", "Did you mean 'outputs'?"),
        (definition({"id": "a", "component": "x", "retry": {"max_attempt": 3}}), "$.steps[0].retry.max_attempt",
         "Did you mean 'max_attempts'?"),
        (definition(qqqqqqq=1), "$.qqqqqqq", None),
        (definition(document={}), "$.document", None),
        (definition(finally_=[]), "$.finally_", "Did you mean 'finally'?"),
        (definition({"id": "f", "foreach": [1], "steps": [{"id": "a", "set": 1, "neds": []}]}),
         "$.steps[0].steps[0].neds", "Did you mean 'needs'?"),
    ],
)  # fmt: skip
def test_unknown_field_is_refused_with_the_nearest_name(document: Any, path: str, suggestion: str | None) -> None:
    problem = problem_of(document)
    assert (problem.path, problem.suggestion) == (path, suggestion)
    assert "has no field" in problem.message


def test_step_without_a_kind_is_refused() -> None:
    problem = problem_of(definition({"id": "a"}))
    assert problem.path == "$.steps[0]"
    assert problem.message.startswith("The step does nothing: give it one of `component`, `set`, `foreach`")


def test_step_with_two_kinds_is_refused() -> None:
    problem = problem_of(definition({"id": "a", "set": 1, "component": "x"}))
    assert problem.path == "$.steps[0]"
    assert "`component` and `set`" in problem.message


@pytest.mark.parametrize(
    ("step", "path", "words"),
    [
        ({"set": 1, "inputs": {}}, "inputs", "does not go with `set`; it belongs to `component`"),
        ({"component": "x", "concurrency": 2}, "concurrency", "belongs to `foreach`"),
        ({"component": "x", "steps": [STEP]}, "steps", "belongs to `foreach`"),
        ({"set": 1, "retry": {}}, "retry", "only computes a value"),
        ({"set": 1, "timeout": 3}, "timeout", "only computes a value"),
        (
            {"foreach": [], "steps": [{"id": "b", "set": 1}], "isolation": "inline"},
            "isolation",
            "belongs to `component`",
        ),
    ],
)
def test_field_of_another_kind_is_refused(step: dict[str, Any], path: str, words: str) -> None:
    problem = problem_of(definition({"id": "a", **step}))
    assert problem.path == f"$.steps[0].{path}"
    assert words in problem.message


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        (0, "", "It must be at least 1."),
        (limits.CONCURRENT_JOBS + 1, "", "It must be at most 10000."),
        (True, "", "It must be an integer or an object, but it is true."),
        ("3", "", "It must be an integer or an object, but it is the string '3'."),
        ({"key": "x"}, "", "`limit` is missing."),
        ({"limit": 1, "overflw": "queue"}, ".overflw", "`concurrency` has no field 'overflw'."),
        ({"limit": 0}, ".limit", "It must be at least 1."),
        ({"limit": 1, "overflow": "wait"}, ".overflow", "It must be 'queue', 'reject' or 'replace'."),
        ({"limit": 1, "hold": "all"}, ".hold", "It must be 'job' or 'running'."),
        ({"limit": 1, "key": 3}, ".key", "It must be a string, but it is the number 3."),
    ],
)
def test_concurrency_is_checked(given: Any, path: str, message: str) -> None:
    problem = problem_of(definition(concurrency=given))
    assert (problem.path, problem.message) == (f"$.concurrency{path}", message)


@pytest.mark.parametrize("given", [1, limits.CONCURRENT_JOBS, {"limit": 1}, {"limit": 2, "key": "{{ inputs.a }}"}])
def test_concurrency_has_a_short_and_a_long_form(given: Any) -> None:
    workflow = parse_workflow(definition(concurrency=given))
    assert workflow.limit is not None
    assert workflow.limit.limit == (given if isinstance(given, int) else given["limit"])
    assert (workflow.limit.hold, workflow.limit.overflow) == ("job", "queue")
    assert parse_workflow(definition(concurrency=None)).limit is None


@pytest.mark.parametrize("name", sorted(RESERVED_IDS))
def test_reserved_step_id_is_refused(name: str) -> None:
    problem = problem_of(definition({"id": name, "set": 1}))
    assert problem.path == "$.steps[0].id"
    assert "reserved" in problem.message


def test_foreach_without_steps_is_refused() -> None:
    assert "needs `steps`" in problem_of(definition({"id": "a", "foreach": [1]})).message
    assert "needs `steps`" in problem_of(definition({"id": "a", "foreach": [1], "steps": []})).message


def test_component_or_foreach_of_null_is_refused() -> None:
    assert problem_of(definition({"id": "a", "component": None})).message == "`component` must not be null."
    assert problem_of(definition({"id": "a", "foreach": None, "steps": [STEP]})).path == "$.steps[0].foreach"


# ── types and bounds, in plain sentences ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        ({}, "$", "`steps` is missing."),
        (definition(id=3), "$.id", "It must be a string, but it is the number 3."),
        (definition(version=1.0), "$.version", "It must be a string, but it is the number 1.0."),
        (definition(version="1.0"), "$.version", "A version looks like 1.0.0, 1.2.0-rc.1 or 1.0.0-dev."),
        (definition(version="1.0.0\n"), "$.version", "A version looks like 1.0.0, 1.2.0-rc.1 or 1.0.0-dev."),
        ({"id": "w", "steps": []}, "$.steps", "It must not be empty."),
        ({"id": "w", "steps": {}}, "$.steps", "It must be a list, but it is an object."),
        ({"id": "w", "steps": [3]}, "$.steps[0]", "It must be an object, but it is the number 3."),
        (definition({"set": 1}), "$.steps[0]", "`id` is missing."),
        (definition(priority="high"), "$.priority", "It must be 'LOW', 'MEDIUM', 'HIGH' or 'CRITICAL'."),
        (definition({"id": "a", "set": 1, "condition": 3}), "$.steps[0].condition",
         "It must be a string or true or false, but it is the number 3."),
        (definition({"id": "a", "component": "x", "timeout": 0}), "$.steps[0].timeout", "It must be above 0."),
        (definition({"id": "a", "component": "x", "timeout": -1}), "$.steps[0].timeout", "It must be above 0."),
        (definition({"id": "a", "component": "x", "timeout": True}), "$.steps[0].timeout",
         "It must be a number, but it is true."),
        (definition({"id": "a", "component": "x", "isolation": "container"}), "$.steps[0].isolation",
         "It must be 'inline', 'thread' or 'process'."),
        (definition({"id": "a", "component": "x", "retry": {"jitter": 2}}), "$.steps[0].retry.jitter",
         "It must be at most 1."),
        (definition({"id": "a", "component": "x", "retry": 3}), "$.steps[0].retry",
         "It must be an object, but it is the number 3."),
        (definition({"id": "a", "component": "x", "resources": {"gpu": -1}}), "$.steps[0].resources.gpu",
         "It must be at least 0."),
        (definition({"id": "a", "component": "x", "resources": {"a gpu": 1}}), '$.steps[0].resources["a gpu"]',
         "A name of a resource is letters, digits, _, - and . (no spaces), and does not begin with a digit."),
        (definition({"id": "a", "component": "x", "resources": {f"r{n}": 1 for n in range(9)}}),
         "$.steps[0].resources", "It may have 8 entries at most."),
        (definition({"id": "a", "set": 1, "needs": "b"}), "$.steps[0].needs",
         "It must be a list, but it is the string 'b'."),
        (definition(inputs=[]), "$.inputs", "It must be an object, but it is a list."),
    ],
)  # fmt: skip
def test_wrong_type_or_value_is_said_in_a_sentence(document: Any, path: str, message: str) -> None:
    problems = problems_of(document)
    assert (path, message) in [(problem.path, problem.message) for problem in problems]


@pytest.mark.parametrize("name", ["", " ", "a b", "../x", "1a", "a\n", "\x1b[31m", "é", "x" * 101])
def test_ids_that_could_mislead_are_refused(name: str) -> None:
    assert [problem.path for problem in problems_of(definition(id=name))] == ["$.id"]
    assert [problem.path for problem in problems_of(definition({"id": name, "set": 1}))] == ["$.steps[0].id"]


def test_inputs_that_are_no_object_schema_are_refused_with_what_to_write() -> None:
    problem = problem_of(definition(inputs={"properties": {"url": {"type": "string"}}}))
    assert problem.path == "$.inputs.properties.url"
    assert '"type": "object"' in str(problem.suggestion)


def test_problem_in_the_inputs_schema_has_a_path_into_the_definition() -> None:
    problem = problem_of(definition(inputs={"type": "object", "properties": {"n": {"type": "numbr"}}}))
    assert problem.path == "$.inputs.properties.n.type"
    assert "Did you mean 'number'?" in problem.message


def test_all_problems_come_at_once() -> None:
    document = definition({"id": "a"}, {"id": "b", "set": 1, "neds": []}, {"id": "c", "component": 3}, version="x", y=1)
    assert {problem.path for problem in problems_of(document)} == {
        "$.steps[0]", "$.steps[1].neds", "$.steps[2].component", "$.version", "$.y",
    }  # fmt: skip


def test_messages_and_paths_escape_control_characters() -> None:
    problems = problems_of(definition(**{"\x1b[2J": 1, "\u202e": 2, "id": "\x9b31m", "a b": 3}))
    text = str(InvalidDefinition(problems))
    assert text.replace("\n", "").isprintable()
    assert '$["a b"]' in text
    assert "\\u001b" in text


# ── data from Python ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {1, 2}, b"x", object(), "\ud800", "a\0b"])
def test_what_json_cannot_hold_is_refused_with_its_place(value: object) -> None:
    assert problem_of(definition({"id": "a", "set": {"deep": value}})).path.startswith("$.steps[0].set.deep")


@pytest.mark.parametrize("document", [None, [], "text", 3, b"{}"])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(InvalidDefinition):
        parse_workflow(document)  # type: ignore[arg-type]
    with pytest.raises(InvalidDefinition):
        load_workflow(document)  # type: ignore[arg-type]


def test_definition_that_contains_itself_is_refused() -> None:
    document = definition()
    document["metadata"] = document
    assert "nested deeper" in problem_of(document).message


# ── JSON text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_problems_of_json_text_have_line_and_column() -> None:
    text = (
        '{\n  "id": "w",\n  "steps": [\n    {"id": "a", "set": 1},\n'
        '    {"id": "b",\n     "sett": [1, {"x": "é\\""}]}\n  ]\n}'
    )
    with pytest.raises(InvalidDefinition) as caught:
        parse_text(text)
    places = {problem.path: (problem.line, problem.column) for problem in caught.value.problems}
    assert places == {"$.steps[1]": (5, 5), "$.steps[1].sett": (6, 6)}


def test_missing_field_is_placed_at_its_object() -> None:
    problem = text_problem('{"id": "w", "steps":\n [{"set": 1}]}')
    assert (problem.path, problem.line, problem.column) == ("$.steps[0]", 2, 3)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", (1, 1)),
        ("{", (1, 2)),
        ('{"a": 1,\n}', (2, 1)),
        ('{"a" 1}', (1, 6)),
        ("{}{}", (1, 3)),
        ('{"a": tru}', (1, 7)),
    ],
)
def test_json_syntax_error_has_line_and_column(text: str, place: tuple[int, int]) -> None:
    problem = text_problem(text)
    assert problem.message.startswith("This is not JSON: ")
    assert (problem.line, problem.column) == place


def test_keys_that_stand_twice_are_all_found_with_their_places() -> None:
    text = '{"id": "w",\n "id": "v", "steps": [{"id": "a", "set": {"\\u0061": 1,\n "a": 2}}]}'
    with pytest.raises(InvalidDefinition) as caught:
        parse_text(text)
    places = [(problem.path, problem.line, problem.column) for problem in caught.value.problems]
    assert places == [("$.id", 2, 2), ("$.steps[0].set.a", 3, 2)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 4301])
def test_numbers_that_are_none_are_refused_with_their_place(number: str) -> None:
    problem = text_problem('{"id": "w", "steps": [{"id": "a", "set":\n {"n": ' + number + "}}]}")
    assert (problem.path, problem.line, problem.column) == ("$.steps[0].set.n", 2, 3)


def test_byte_order_mark_of_a_file_is_read_over(tmp_path: Path) -> None:
    file = tmp_path / "w.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(definition()).encode())
    assert load_workflow(file).id == "w"


# ── YAML ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def yaml_value(text: str) -> Any:
    return parse_text(f"id: w\nsteps:\n- id: a\n  set: {text}\n", "yaml").steps[0].set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("yes", "yes"), ("no", "no"), ("y", "y"), ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"), ("12:30:45", "12:30:45"), ("1_000", "1_000"),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("12", 12), ("-3", -3),
        ("0x1F", 31), ("0o17", 15), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("'12'", "12"), ('"true"', "true"),
        ("1.0.0", "1.0.0"), ("=", "="), ("'{{ x }}'", "{{ x }}"), ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)  # fmt: skip
def test_yaml_scalars_are_read_by_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    if isinstance(value, str) and value.startswith("{{"):
        assert parse_text(f"id: w\nsteps: [{{id: a, set: {text}}}]", "yaml").steps[0].set == value
    else:
        read = yaml_value(text)
        assert read == value
        assert type(read) is type(value) or isinstance(value, list)


def test_the_retry_field_on_needs_no_quotes_in_yaml() -> None:
    workflow = parse_text("id: w\nsteps:\n- id: a\n  component: x\n  retry:\n    on: [http]\n", "yaml")
    assert workflow.steps[0].retry is not None
    assert workflow.steps[0].retry.on == ["http"]


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ("a: &x [1]\nb: *x\n", "Aliases", (2, 4)),
        ("a: !!python/object/apply:os.system ['true']\n", "Tags", (1, 4)),
        ("a: !!str 3\n", "Tags", (1, 4)),
        ("a: 1\na: 2\n", "stands twice", (2, 1)),
        ("1: a\n", "is no string", (1, 1)),
        ("true: a\n", "is no string", (1, 1)),
        ("? [a]\n: b\n", "must be a string", (1, 3)),
        ("a: 1\n---\nb: 2\n", "several documents", (2, 1)),
        ("a: .nan\n", "no JSON number", (1, 4)),
        ("a: -.inf\n", "no JSON number", (1, 4)),
        ("a: 1e999\n", "no JSON number", (1, 4)),
        (f"a: {'1' * 4301}\n", "4,300 digits", (1, 4)),
        (f"? {'1' * 4301}\n: a\n", "is no string", (1, 3)),
        ("a: [1\nb: 2\n", "This is not YAML", (2, 2)),
        ("a: 'x\n", "This is not YAML", (2, 1)),
        ("\tid: w\n", "This is not YAML", (1, 1)),
        ("a: \x07\n", "This is not YAML", (None, None)),
    ],
)  # fmt: skip
def test_yaml_beyond_json_is_refused_with_its_place(
    text: str, words: str, place: tuple[int | None, int | None]
) -> None:
    problem = text_problem(text, "yaml")
    assert words in problem.message
    assert (problem.line, problem.column) == place


def test_problems_of_yaml_have_line_and_column() -> None:
    with pytest.raises(InvalidDefinition) as caught:
        parse_text("id: w\nsteps:\n  - id: a\n    set: 1\n  - id: b\n    sett: 1\n", "yaml")
    places = {problem.path: (problem.line, problem.column) for problem in caught.value.problems}
    assert places == {"$.steps[1]": (5, 5), "$.steps[1].sett": (6, 5)}


def test_empty_yaml_is_no_definition() -> None:
    assert "not null" in text_problem("", "yaml").message


# ── files and folders ─────────────────────────────────────────────────────────────────────────────────────────────


def file_problem(path: Path | str) -> Problem:
    with pytest.raises(InvalidDefinition) as caught:
        load_workflow(path)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDefinition) as caught:
        load_workflow(tmp_path / "none.json")
    assert caught.value.source == str(tmp_path / "none.json")
    assert "no such file" in str(caught.value)


def test_paths_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder.json"
    folder.mkdir()
    assert "folder" in file_problem(folder).message
    assert "is a file, not a folder" in file_problem(_written(tmp_path / "f.json", "{}") / "x.json").message
    assert "must end in" in file_problem(_written(tmp_path / "w.txt", "{}")).message
    assert "UTF-8" in file_problem(_bytes(tmp_path / "latin.json", b'{"id": "\xe9"}')).message
    assert "cannot be the path" in file_problem("a\0b.json").message
    assert "not the path of a file" in file_problem('{"id": "w"}').message
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    assert "cannot be read" in file_problem(loop).message
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    assert "no regular file" in file_problem(pipe).message


def test_file_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # as root, every file may be read
    assert file_problem(tmp_path / "w.json").message == "The file may not be read."


def test_folder_gives_its_definitions_by_file_name(tmp_path: Path) -> None:
    for name in ("b.json", "a.json"):
        _written(tmp_path / name, json.dumps(definition(id=name[0])))
    _written(tmp_path / "c.yml", "id: c\nsteps: [{id: a, set: 1}]")
    _written(tmp_path / "notes.txt", "not a definition")
    assert [workflow.id for workflow in load_folder(tmp_path)] == ["a", "b", "c"]


def test_folder_with_problems_names_every_file(tmp_path: Path) -> None:
    _written(tmp_path / "a.json", "{")
    _written(tmp_path / "b.json", json.dumps(definition()))
    _written(tmp_path / "c.yaml", "id: w\n")
    with pytest.raises(InvalidDefinition) as caught:
        load_folder(tmp_path)
    assert [problem.path for problem in caught.value.problems] == ["a.json:$", "c.yaml:$"]


def test_missing_folder_and_too_full_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidDefinition, match="no such folder"):
        load_folder(tmp_path / "none")
    monkeypatch.setattr("openagents_json.workflow.load.FOLDER_FILES", 1)
    _written(tmp_path / "a.json", json.dumps(definition()))
    assert len(load_folder(tmp_path)) == 1
    _written(tmp_path / "b.json", json.dumps(definition()))
    with pytest.raises(InvalidDefinition, match="2 definitions; 1 are allowed"):
        load_folder(tmp_path)


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({"tokens": 0}, ".tokens", "It must be at least 1."),
        ({"tokens": 1.5}, ".tokens", "It must be an integer, but it is the number 1.5."),
        ({"cost": 0}, ".cost", "It must be at least 1e-09."),
        ({"seconds": 2e9}, ".seconds", "It must be at most 1e+09."),
        ({"token": 5}, ".token", "`budget` has no field 'token'."),
        ({}, "", "`budget` must not be empty."),
        (7, "", "It must be an object, but it is the number 7."),
    ],
)
def test_budget_is_checked(given: Any, path: str, message: str) -> None:
    problem = problem_of(definition(budget=given))
    assert (problem.path, problem.message) == (f"$.budget{path}", message)


def test_budget_is_kept_in_whole_numbers() -> None:
    workflow = parse_workflow(definition(budget={"seconds": 1.5, "tokens": 10, "cost": 0.1}))
    assert workflow.spendable == {"time_us": 1_500_000, "tokens": 10, "cost_nanos": 100_000_000}
    assert parse_workflow(definition(budget={"tokens": 10, "cost": None})).spendable == {"tokens": 10}
    assert parse_workflow(definition(budget=None)).spendable == {}
    assert parse_workflow(definition()).spendable == {}
