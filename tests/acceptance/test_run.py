"""`openagents run`: what a user sees of a workflow that runs, and every exit code."""

from __future__ import annotations

import json
import re
import signal

import pytest

from openagents_json.cli.exit_codes import MEANINGS, Exit
from tests.acceptance.support import PARTS, Shell, assert_refused, step, types

C = ("--components", str(PARTS))
OPEN_INPUTS = {"type": "object", "properties": {"n": {"type": "integer"}, "text": {"type": "string"}, "list": {}}}


# ── what is printed ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_run_tells_a_job_in_plain_lines_when_there_is_no_terminal(shell: Shell) -> None:
    flow = shell.workflow(
        step("first", "note", value="one"),
        {"id": "each", "foreach": [1, 2, 3], "steps": [step("square", "core.echo", value="{{ item * item }}")]},
        {**step("never", "note", value="no"), "condition": "{{ false }}"},
        outputs={"squares": "{{ steps.each.output }}"},
    )
    ended = shell.run("run", flow, *C)
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out, "no colours, no cursor"
    assert re.search(r"^Job flow/[0-9a-f]{8} is (QUEUED|RUNNING|COMPLETED)\.$", ended.out, re.MULTILINE)
    assert re.search(r"^✓ flow/[0-9a-f]{8} COMPLETED after [0-9.]+ s$", ended.out, re.MULTILINE)
    assert json.loads(ended.out[ended.out.index("\n{") :]) == {"squares": [1, 4, 9]}
    assert shell.notes() == ["one"]


async def test_run_tells_each_step_as_it_comes(shell: Shell) -> None:
    run = shell.start("run", shell.gates(2), *C)
    run.wait_line("s0: running")
    assert not [line for line in run.lines() if "s1" in line]
    shell.open_gate("0", "1")
    run.wait_line("s0: done")
    run.wait_line("s1: done")
    assert run.end().code == 0


async def test_json_run_prints_one_document_though_a_component_prints_too(shell: Shell) -> None:
    flow = shell.workflow(step("a", "chatty", value=3), outputs={"a": "{{ steps.a.output }}"})
    ended = shell.run("run", flow, *C, "--json")
    assert ended.document["status"] == "COMPLETED" and ended.document["outputs"] == {"a": 3}
    assert ended.document["id"] == await shell.only_job()
    assert "a component that talks" in ended.err


async def test_json_run_of_a_failing_job_prints_its_errors(shell: Shell) -> None:
    ended = shell.run("run", shell.workflow(step("a", "boom")), *C, "--json")
    assert (ended.code, ended.document["status"], ended.document["outputs"]) == (1, "FAILED", None)
    [error] = ended.document["errors"]
    assert (error["type"], error["step"], error["message"]) == ("component.ValueError", "a", "no luck today")


# ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_inputs_come_from_pairs_from_files_and_from_one_file_of_all(shell: Shell) -> None:
    flow = shell.workflow(step("a", "core.echo", value="{{ inputs }}"), inputs=OPEN_INPUTS)
    shell.write("text.txt", "12\n")
    shell.write("all.json", '{"n": 1, "list": [1, {"a": null}]}')
    ended = shell.run("run", flow, *C, "--inputs", "all.json", "-i", "text=@text.txt", "--input", "n=2", "--json")
    assert ended.document["outputs"] == {"a": {"n": 2, "text": "12\n", "list": [1, {"a": None}]}}


async def test_inputs_may_come_from_stdin(shell: Shell) -> None:
    flow = shell.workflow(step("a", "core.echo", value="{{ inputs.n }}"), inputs=OPEN_INPUTS)
    assert shell.run("run", flow, "--inputs", "-", "--json", stdin='{"n": 5}').document["outputs"] == {"a": 5}


# ── keys, the queue and priorities ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.guarantee("G7")
async def test_same_idempotency_key_gives_the_same_job_and_runs_it_once(shell: Shell) -> None:
    flow = shell.workflow(step("a", "note", value="once"))
    first = shell.run("run", flow, *C, "--idempotency-key", "order-7", "--json").document
    again = shell.run("run", flow, *C, "--idempotency-key", "order-7", "--json").document
    assert again == first
    assert shell.notes() == ["once"]


async def test_detached_job_waits_for_a_worker_which_runs_it(shell: Shell) -> None:
    flow = shell.workflow(step("a", "note", value="by the worker"))
    left = shell.run("run", flow, "--detach", "--json", *C).document
    assert (left["status"], shell.notes()) == ("QUEUED", [])
    worked = shell.run("worker", *C, "--until-idle", "--json")
    assert worked.code == 0
    told = [json.loads(line) for line in worked.out.splitlines()]
    assert {line["id"] for line in told} == {left["id"]}
    assert [line["type"] for line in told] == ["job.started", "job.completed"]
    assert shell.notes() == ["by the worker"]


async def test_detached_job_needs_a_store_that_stays(shell: Shell) -> None:
    flow = shell.workflow(step("a", "note", value=1))
    assert_refused(
        shell.run("run", flow, "--detach", "--store", "memory", *C), 2, "memory store ends with this process"
    )


async def test_worker_takes_jobs_by_priority(shell: Shell) -> None:
    inputs = {"type": "object", "properties": {"name": {"type": "string"}}}
    flow = shell.workflow(step("a", "note", value="{{ inputs.name }}"), inputs=inputs)
    for priority in ("LOW", "CRITICAL", "MEDIUM", "HIGH"):
        shell.run("run", flow, "--detach", "--priority", priority, "-i", f"name={priority}", *C)
    assert shell.run("worker", *C, "--until-idle", "--max-jobs", "1").code == 0
    assert shell.notes() == ["CRITICAL", "HIGH", "MEDIUM", "LOW"]


async def test_worker_stops_gently_on_sigterm_and_another_goes_on(shell: Shell) -> None:
    shell.run("run", shell.gates(2), "--detach", *C)
    worker = shell.start("worker", *C)
    await shell.wait_entered("0")
    worker.send(signal.SIGTERM)
    worker.wait_line("Stopping", "err")
    shell.open_gate("0")
    assert worker.end().code == 0
    assert await shell.statuses() == ["QUEUED"] and not shell.has_entered("1")
    shell.open_gate("1")
    assert shell.run("worker", *C, "--until-idle").code == 0
    events = await shell.history(await shell.only_job())
    assert types(events)[-1] == "job.completed" and types(events).count("attempt.started") == 2


# ── exit codes ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (Exit.DONE, ("run", "good.json", *C)),
        (Exit.JOB_FAILED, ("run", "bad.json", *C)),
        (Exit.USAGE, ("run", "nowhere.json", *C)),
        (Exit.NOT_FOUND, ("jobs", "show", "0123456789")),
        (Exit.STORE, ("run", "good.json", *C, "--store", "sqlite:///bad.json")),
    ],
    ids=lambda value: value.name if isinstance(value, Exit) else "",
)
async def test_exit_code_tells_how_it_went(shell: Shell, code: Exit, arguments: tuple[str, ...]) -> None:
    shell.workflow(step("a", "note", value=1), file="good.json")
    shell.workflow(step("a", "boom"), file="bad.json")
    async with shell.jobs():
        pass  # a store without jobs, so that `jobs show` finds a store and no job
    assert shell.run(*arguments).code == code


async def test_exit_code_of_a_cancelled_job_is_3(shell: Shell) -> None:
    run = shell.start("run", shell.gates(1), *C)
    await shell.wait_entered("0")
    assert shell.run("jobs", "cancel", await shell.only_job()).code == Exit.DONE
    assert run.end().code == Exit.CANCELLED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_exit_code_of_an_interrupted_run_is_130(shell: Shell, number: signal.Signals) -> None:
    run = shell.start("run", shell.gates(2), *C)
    await shell.wait_entered("0")
    run.send(number)
    run.wait_line("Stopping", "err")
    shell.open_gate("0")
    assert run.end().code == Exit.INTERRUPTED


async def test_run_whose_time_is_up_stops_gently(shell: Shell) -> None:
    flow = shell.gates(2)
    run = shell.start("run", flow, *C, "--timeout", "0.2")
    run.wait_line("The time is up", "err")
    shell.open_gate("0")
    ended = run.end()
    assert ended.code == Exit.INTERRUPTED and "--resume" in ended.err
    assert await shell.statuses() == ["QUEUED"]


async def test_every_exit_code_stands_in_the_help(shell: Shell) -> None:
    for arguments in (["--help"], ["run", "--help"], ["jobs", "show", "--help"]):
        text = " ".join(shell.run(*arguments).out.split())
        for code, meaning in MEANINGS.items():
            assert f"{int(code)} {meaning}" in text
