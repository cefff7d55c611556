"""Resources on the command line: what a worker has, what a job waits for, what the check says."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from tests.acceptance.support import PARTS, Shell, assert_refused, step

C = ("--components", str(PARTS))


def needing(component: str = "core.echo", inputs: dict[str, Any] | None = None, **resources: float) -> dict[str, Any]:
    one = step("a", component, **(inputs or {"value": 7}))
    return {"id": "flow", "timeout": 60, "steps": [one | {"resources": resources}]}


async def test_worker_says_what_it_has_and_takes_what_it_can(shell: Shell) -> None:
    flow = shell.write("flow.json", json.dumps(needing("gate", {"name": "door"}, gpu=1.5, browser=1)))
    assert shell.run("run", flow, *C, "--detach").code == 0
    assert shell.run("worker", *C, "--resource", "gpu=1", "--until-idle").code == 0
    assert await shell.statuses() == ["QUEUED"]
    job_id = await shell.only_job()
    assert "for a worker with gate; none lives that could take it" in shell.run("jobs", "show", job_id).out
    weak = shell.start("worker", *C, "--resource", "gpu=1", "--resource", "browser=4")
    weak.wait_line("is ready", "err")
    assert "for a worker with gate; no worker has gpu ≥ 1.5" in shell.run("jobs", "show", job_id).out
    [wait] = shell.run("jobs", "show", job_id, "--json").document["waiting_for"]
    assert wait["resources"] == [{"resource": "gpu", "need": 1.5, "most": 1}]
    strong = shell.start("worker", *C, "--resource", "gpu=2", "--resource", "browser=4")
    await shell.wait_entered("door")
    [_, first, second] = shell.run("workers").out.splitlines()
    assert " browser 4, gpu 1, cpu " in first and " browser 4, gpu 2, cpu " in second
    documents = shell.run("workers", "--json").document["workers"]
    assert [one["resources"]["gpu"] for one in documents] == [1, 2]
    assert all(one["resources"]["threads"] == 32 for one in documents)
    shell.open_gate("door")
    for worker in (weak, strong):
        worker.send(signal.SIGTERM)
        assert (await asyncio.to_thread(worker.end)).code in (0, 130)
    assert await shell.statuses() == ["COMPLETED"]


def test_run_says_when_its_own_worker_has_too_little(shell: Shell) -> None:
    flow = shell.write("flow.json", json.dumps(needing(gpu=2, browser=0.5)))
    ended = shell.run("run", flow, "--resource", "gpu=1", "--timeout", "0.1")
    assert "waits: no worker has browser ≥ 0.5 and gpu ≥ 2. Give this one more by" in ended.err
    more = ("--resource", "browser=0.5", "--resource", "gpu=2")
    assert " ".join(more) in ended.err
    ended = shell.run("run", flow, "--resume", *more)
    assert ended.code == 0 and "no worker has" not in ended.err


def test_settings_say_what_a_worker_has(shell: Shell) -> None:
    flow = shell.write("flow.json", json.dumps(needing(gpu=2)))
    ended = shell.run("run", flow, OPENAGENTS_RESOURCES='{"gpu": 2}')
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("given", "why"),
    [("gpu", "give a name and a number, such as gpu=1"), ("gpu=many", "give a name and a number"),
     ("a b=1", "have the name 'a b'"), ("gpu=-1", "an amount is a number from 0")],
)  # fmt: skip
def test_resource_that_makes_no_sense_is_refused(shell: Shell, given: str, why: str) -> None:
    assert_refused(shell.run("worker", *C, "--resource", given), 2, "--resource", why)
    assert_refused(shell.run("validate", "flow.json", "--resource", given), 2, "--resource", why)


def test_threads_below_one_are_refused(shell: Shell) -> None:
    assert_refused(shell.run("worker", *C, "--resource", "threads=0.5"), 2, "threads = 0.5; give 1 or more")


def test_check_tells_of_resources_if_it_knows_what_there_is(shell: Shell) -> None:
    flow = shell.write("flow.json", json.dumps(needing(gpu=2, cpu=1, cpu_s=5)))
    assert "warning" not in shell.run("validate", flow, *C).err, "nobody has said what there is"
    ended = shell.run("validate", flow, "--resource", "gpu=1")
    assert ended.code == 0 and "The step needs 2 of 'gpu', and 1 are declared." in ended.err
    [problem] = shell.run("validate", flow, "--resource", "gpus=4", "--json").document["problems"]
    assert (problem["level"], problem["path"]) == ("warning", "$.steps[0].resources.gpu")
    assert (problem["message"], problem["suggestion"]) == (
        "Nobody declared the resource 'gpu'.", "Did you mean 'gpus'?",
    )  # fmt: skip
    assert shell.run("validate", flow, "--resource", "gpu=2").err == ""


def test_app_that_declares_resources_is_believed(shell: Shell) -> None:
    shell.write("declared.py", "from openagents_json import OpenAgentsApp\napp = OpenAgentsApp(resources={'gpu': 1})\n")
    flow = shell.write("flow.json", json.dumps(needing(gpu=2)))
    assert "and 1 are declared" in shell.run("validate", flow, "--components", "declared").err
    more = ("--resource", "gpu=2")
    assert shell.run("validate", flow, "--components", "declared", *more).err == ""
    assert shell.run("run", flow, "--components", "declared", "--detach").code == 0
    assert shell.run("worker", "--components", "declared", *more, "--until-idle").code == 0


async def test_explanation_names_who_holds_a_resource_of_another_program(shell: Shell) -> None:
    flows = [shell.write(f"{name}.json", json.dumps(needing("gate", {"name": name}, gpu=1))) for name in ("a", "b")]
    worker = shell.start("worker", *C, "--resource", "gpu=1")
    worker.wait_line("is ready", "err")
    assert shell.run("run", flows[0], *C, "--detach").code == 0
    await shell.wait_entered("a")
    first = await shell.only_job()
    assert shell.run("run", flows[1], *C, "--detach", "--json").code == 0
    async with shell.jobs() as jobs:
        [second] = [one.id for one in (await jobs.list_jobs()).jobs if one.id != first]
    told = ""
    for _ in range(50):  # until the worker has told of it, which it does every two seconds
        if "Held by" in (told := shell.run("jobs", "explain", second).out):
            break
    assert "A step needs 1 gpu, and 0 of 1 is free for it." in told and f"Held by {first[-8:]}." in told
    assert f"openagents jobs cancel {first}" in told
    shown = shell.run("jobs", "show", second).out
    assert f"waits    for 1 gpu (0 of 1 free for it), held by {first[-8:]}\n" in shown
    shell.open_gate("a")
    shell.open_gate("b")
    worker.send(signal.SIGTERM)
    assert (await asyncio.to_thread(worker.end)).code in (0, 130)
