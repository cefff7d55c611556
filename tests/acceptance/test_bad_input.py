"""Bad input of every kind: one clear message, the documented exit code, no traceback, and nothing lost or changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from openagents_json import Event, JobManager
from openagents_json.workflow import limits
from tests.acceptance.support import PARTS, Shell, assert_refused, recorded, step

C = ("--components", str(PARTS))
GOOD: dict[str, Any] = {"id": "good", "steps": [step("a", "note", value=1)]}
NEEDS_N = {
    "type": "object", "required": ["n"], "additionalProperties": False, "properties": {"n": {"type": "integer"}},
}  # fmt: skip


@asynccontextmanager
async def nothing_is_lost(shell: Shell) -> AsyncIterator[str]:
    """A store with one queued job, whose id is given; afterwards there is exactly that job, event by event."""
    async with JobManager(f"sqlite:///{shell.store_path}", worker=False) as jobs:
        jobs.workflows.register({"id": "kept", "steps": [step("a", "core.echo")]})
        job_id = await jobs.create_job("kept")
        before = await recorded(jobs, job_id)
    yield job_id
    assert await stored(shell) == {job_id: before}
    assert shell.notes() == [], "nothing ran"


async def stored(shell: Shell) -> dict[str, list[Event]]:
    """Every history in the store, by job id."""
    async with shell.jobs() as jobs:
        return {job.id: await recorded(jobs, job.id) for job in await jobs.list_jobs()}


def definition(**fields: Any) -> str:
    return json.dumps(GOOD | fields)


def steps(*given: dict[str, Any]) -> str:
    return definition(steps=list(given))


# ── definitions ───────────────────────────────────────────────────────────────────────────────────────────────────

A = step("a", "core.echo", value=1)
TOO_DEEP = step("a", "core.echo", value=json.loads("[" * limits.NESTING + "]" * limits.NESTING))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'id': 'flow'}", ["line 1, column 2", "not JSON"]),
        ("", ["flow.json"]),
        ('["a"]', ["is a JSON object, not a list"]),
        ('{"id": "x", "id": "y", "steps": []}', ["line 1, column 13", "stands twice"]),
        (definition(stepz=[]), ["$.stepz", "Did you mean 'steps'?"]),
        (steps(A | {"timout": 3}), ["$.steps[0].timout", "Did you mean 'timeout'?"]),
        (steps(A | {"needs": ["b"]}, {"id": "b", "set": 1, "needs": ["a"]}), ["$.steps[0].needs[0]", "'b'"]),
        (steps(A, A), ["$.steps[1].id", "'a'", "unique"]),
        (steps(step("a", "core.eko")), ["'core.eko'", "Did you mean 'core.echo'?"]),
        (steps(step("a", "note", valeu=1)), ["'valeu'", "'value'"]),
        (steps(step("a", "core.echo", value="{{ inputs.n | lenth }}")), ["`lenth`", "Did you mean `length`?"]),
        (steps(step("a", "core.echo", value="{{ 1 + }}")), ["$.steps[0].inputs.value"]),
        (steps(step("a", "core.echo", value="{{ steps.b.output }}")), ["There is no step 'b'"]),
        (steps(*(A | {"id": f"s{n}"} for n in range(limits.STEPS + 1))), ["1,001 steps; 1,000 are allowed"]),
        (definition(description="x" * limits.DEFINITION_BYTES), ["longer than 262,144 bytes"]),
        (steps(TOO_DEEP), ["nested deeper than 64 levels"]),
        (definition(concurrency={"limit": 1, "key": "{{ steps.a.output }}"}), ["$.concurrency.key", "before anything"]),
    ],
    ids=[
        "no json", "empty", "no object", "key twice", "unknown field", "unknown field of a step", "cycle", "id twice",
        "unknown component", "unknown input of a component", "filter with a typo", "broken expression", "unknown step",
        "too many steps", "too long", "too deep", "key of steps",
    ],
)  # fmt: skip
async def test_bad_definition_is_refused_with_its_place(shell: Shell, text: str, words: list[str]) -> None:
    shell.write("flow.json", text)
    async with nothing_is_lost(shell):
        assert_refused(shell.run("run", "flow.json", *C), 2, *words)


@pytest.mark.parametrize("file", ["nowhere.json", "folder", "flow.json/inside.json", "flow.txt"])
async def test_workflow_that_is_no_file_is_refused(shell: Shell, file: str) -> None:
    (shell.folder / "folder").mkdir()
    shell.write("flow.json", definition())
    async with nothing_is_lost(shell):
        assert_refused(shell.run("run", file, *C), 2, file.split("/")[0])


# ── components that do not load ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere_at_all", ["there is no module 'nowhere_at_all'"]),
        ("./nowhere.py", ["there is no file ./nowhere.py"]),
        ("./broken.py", ["SyntaxError", "broken.py, line 2"]),
        ("./raises.py", ["ZeroDivisionError", "raises.py, line 1"]),
        ("./exits.py", ["SystemExit"]),
        ("./empty.py", ["it has no 'app'"]),
        (f"{PARTS}:note", ["'note' is a function"]),
    ],
)
async def test_components_that_do_not_load_are_named_with_the_reason(shell: Shell, spec: str, words: list[str]) -> None:
    files = {"broken.py": "\nx = (\n", "raises.py": "1 / 0\n", "exits.py": "raise SystemExit(0)\n", "empty.py": "\n"}
    for name, text in files.items():
        shell.write(name, text)
    shell.write("flow.json", definition())
    async with nothing_is_lost(shell):
        assert_refused(shell.run("run", "flow.json", "--components", spec), 2, *words)


# ── inputs, keys and options ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["$.n", "required"]),
        (["-i", "n=many"], ["$.n", "must be an integer, not a string"]),
        (["-i", "n=1", "-i", "m=2"], ["$.m", "There is no input 'm'"]),
        (["-i", "m=2", "-i", "k=2"], ["$.n", "$.m", "$.k"]),
        (["-i", "n"], ["--input n", "name=value"]),
        (["-i", "n=1", "-i", "n=2"], ["--input n is given twice"]),
        (["-i", "n=@nowhere"], ["nowhere cannot be read"]),
        (["--inputs", "list.json"], ["must be an object"]),
        (["--inputs", "broken.json"], ["line 1, column 7"]),
        (["--inputs", "nowhere.json"], ["nowhere.json cannot be read"]),
        (["-i", "n=1", "--priority", "URGENT"], ["'URGENT' is no priority", "CRITICAL"]),
        (["-i", "n=1", "--idempotency-key", "x" * 201], ["1 to 200 characters"]),
        (["-i", "n=1", "--timeout", "soon"], ["'--timeout'", "valid number"]),
        (["-i", "n=1", "--no-such-option"], ["--no-such-option"]),
    ],
    ids=[
        "missing", "wrong type", "extra", "several", "no pair", "twice", "missing value file", "file with a list",
        "broken file", "missing file", "priority", "long key", "wrong number", "unknown option",
    ],
)  # fmt: skip
async def test_bad_inputs_and_options_are_refused_before_a_job_is_made(
    shell: Shell, arguments: list[str], words: list[str]
) -> None:
    shell.write("flow.json", definition(inputs=NEEDS_N))
    shell.write("list.json", "[1]")
    shell.write("broken.json", '{"n": }')
    async with nothing_is_lost(shell):
        assert_refused(shell.run("run", "flow.json", *C, *arguments), 2, *words)


async def test_error_of_a_json_run_is_json_on_stderr(shell: Shell) -> None:
    shell.write("flow.json", definition(inputs=NEEDS_N))
    ended = shell.run("run", "flow.json", *C, "--json")
    assert (ended.code, ended.out) == (2, "")
    assert [problem["path"] for problem in ended.error["problems"]] == ["$.n"]


@pytest.mark.guarantee("G7")
async def test_idempotency_key_with_another_body_is_refused_and_names_the_job(shell: Shell) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}
    flow = shell.workflow(step("a", "note", value="{{ inputs.n }}"), inputs=schema)
    first = shell.run("run", flow, *C, "--idempotency-key", "k", "--json").document
    before = await stored(shell)
    assert_refused(shell.run("run", flow, *C, "-i", "n=2", "--idempotency-key", "k"), 2, "'k'", first["id"])
    assert shell.run("run", flow, *C, "-i", "n=1", "--idempotency-key", "k").code == 0, "the same body after defaults"
    assert await stored(shell) == before
    assert shell.notes() == ["1"]


# ── components that misbehave ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("component", "type", "words"),
    [
        ("boom", "component.ValueError", "no luck today"),
        ("give_up", "demo.given_up", "no way"),
        ("exits", "component.SystemExit", "exit(7)"),
        ("no_json", "output.invalid", "$.made"),
        ("huge", "limit.output", "1,048,576 are allowed"),
        ("endless", "timeout.attempt", "longer than 0.2 s"),
        ("deaf", "timeout.attempt", "longer than 0.2 s"),
    ],
)
async def test_component_that_misbehaves_fails_its_job_and_nothing_else(
    shell: Shell, component: str, type: str, words: str
) -> None:
    flow = shell.workflow(step("before", "note", value="kept"), {"id": "a", "component": component, "timeout": 0.2})
    ended = shell.run("run", flow, *C, OPENAGENTS_ABANDON_AFTER_S="0.1")
    assert ended.code == 1 and "Traceback" not in ended.out + ended.err
    [told] = [line for line in ended.err.splitlines() if line.startswith("  a, attempt 1: ")]
    assert f"{type}: " in told and words in told
    job_id = await shell.only_job()
    async with shell.jobs() as jobs:
        job = await jobs.get_job(job_id)
    assert (job.status, job.errors[0]["type"]) == ("FAILED", type)
    assert job.steps["before"]["output"] == "kept", "what was recorded before stays"


async def test_thread_that_cannot_be_stopped_is_told_of(shell: Shell) -> None:
    run = shell.start(
        "run", shell.workflow({"id": "a", "component": "deaf", "timeout": 0.1}, step("b", "gate", name="b")) ,
        *C, OPENAGENTS_ABANDON_AFTER_S="0.1",
    )  # fmt: skip
    run.wait_line("abandoned", "err")
    assert run.end().code == 1
    async with shell.jobs() as jobs:
        assert (
            await jobs.get_summary(await shell.only_job())
        ).display_status == "FAILED (1 abandoned attempt still runs)"


# ── stores ────────────────────────────────────────────────────────────────────────────────────────────────────────


def newer_schema(shell: Shell) -> None:
    with closing(sqlite3.connect(shell.store_path)) as connection, connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of tomorrow', 'x', 1)")


@pytest.mark.parametrize(
    ("store", "code", "words"),
    [
        ("sqlite:///folder", 5, ["is a directory"]),
        ("sqlite:///notes.txt", 5, ["not a SQLite database"]),
        ("sqlite:///notes.txt/jobs.db", 5, ["cannot be created", "notes.txt is no folder"]),
        ("sqlite:////proc/jobs.db", 5, ["/proc/jobs.db"]),
        ("sqlite:///other.db", 5, ["something else"]),
        ("sqlite:///nowhere/jobs.db", 5, ["cannot be created", "nowhere does not exist"]),
        ("mysql://host/jobs", 2, ["is no store", "sqlite:///"]),
        ("file:///notes.txt", 5, ["is a file", "sqlite:///"]),
        ("file:///others", 5, ["something else", "photo.jpg"]),
        ("file:///nowhere/jobs", 5, ["cannot be created", "nowhere does not exist"]),
        ("postgresql://127.0.0.1:1/jobs", 5, ["127.0.0.1:1/jobs", "cannot be reached"]),
        ("postgresql://me:pass@host:port/jobs", 2, ["cannot be read", "user:password@host:port"]),
    ],
)
async def test_store_that_cannot_be_used_is_named_with_the_reason(
    shell: Shell, store: str, code: int, words: list[str]
) -> None:
    (shell.folder / "folder").mkdir()
    (shell.folder / "others").mkdir()
    shell.write("others/photo.jpg", "x")
    shell.write("notes.txt", "These are my notes, not a database.\n" * 50)
    with closing(sqlite3.connect(shell.folder / "other.db")) as connection:
        connection.execute("CREATE TABLE customers (name)")
    shell.write("flow.json", definition())
    files = {path.name: path.read_bytes() for path in shell.folder.iterdir() if path.is_file()}
    for command in (["run", "flow.json", *C], ["jobs", "list"]):
        ended = shell.run(*command, "--store", store)
        assert_refused(ended, code, *(words if command[0] == "run" else []))
    assert {path.name: path.read_bytes() for path in shell.folder.iterdir() if path.is_file()} == files


async def test_store_of_a_newer_release_is_refused_and_left_alone(shell: Shell) -> None:
    flow = shell.write("flow.json", definition())
    async with nothing_is_lost(shell) as job_id:
        newer_schema(shell)
        bytes_before = shell.store_path.read_bytes()
        for command in (["run", flow, *C], ["jobs", "show", job_id], ["worker", *C]):
            assert_refused(shell.run(*command), 5, "99")
        assert shell.store_path.read_bytes() == bytes_before
        with closing(sqlite3.connect(shell.store_path)) as connection, connection:
            connection.execute("DELETE FROM migrations WHERE rowid = (SELECT max(rowid) FROM migrations)")


async def test_store_that_is_not_there_is_not_made_by_looking(shell: Shell) -> None:
    for command in (["list"], ["show", "0123456789"], ["cancel", "0123456789"], ["cleanup"]):
        assert_refused(shell.run("jobs", *command), 5, "There is no store at", "openagents.db")
    assert not list(shell.folder.iterdir())


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", ["show", "results", "events", "cancel", "delete"])
async def test_unknown_job_is_not_found(shell: Shell, command: str) -> None:
    async with nothing_is_lost(shell):
        assert_refused(shell.run("jobs", command, "0123456789"), 4, "There is no job '0123456789'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--status", "LOST"], ["LOST"]),
        (["list", "--order", "colour"], ["colour"]),
        (["list", "--limit", "0"], ["limit"]),
        (["list", "--cursor", "xyz"], ["cursor"]),
        (["list", "--since", "yesterday"], ["--since yesterday", "3d"]),
        (["cleanup", "--days", "-1"], ["--days"]),
        (["show", "ab"], ["at least 4"]),
        (["events", "0123456789", "--after", "-1"], ["--after"]),
        (["delete"], ["JOB"]),
        (["fly"], ["fly"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
async def test_bad_questions_about_jobs_are_refused(shell: Shell, arguments: list[str], words: list[str]) -> None:
    async with nothing_is_lost(shell):
        assert_refused(shell.run("jobs", *arguments), 2, *words)
