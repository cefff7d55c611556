"""`openagents jobs leaks`: what jobs could not release is shown, tried again and forgotten."""

from __future__ import annotations

import asyncio
import signal

import pytest_asyncio

from openagents_json import JobManager
from openagents_json.workflow import WorkflowRegistry
from tests.acceptance.parts import app
from tests.acceptance.support import PARTS, POLL_S, SAFETY_S, Shell, assert_refused, step

C = ("--components", str(PARTS))


@pytest_asyncio.fixture
async def leaks(shell: Shell) -> list[int]:
    """A store whose one job has leaked `red` and `blue`; their keys."""
    names = ("red", "blue")
    jobs = JobManager(
        f"sqlite:///{shell.store_path}",
        components=app.components,
        workflows=WorkflowRegistry(app.components),
        cleanup_timeout_s=0.2,
    )
    jobs.workflows.register({"id": "flow", "steps": [step(name, "acquire", name=name) for name in names]})
    async with jobs:
        job = await jobs.wait(await jobs.create_job("flow", start=True))
        found = await jobs.list_leaks()
    assert job.status == "COMPLETED" and sorted(leak.name for leak in found) == ["blue", "red"]
    return [next(leak.key for leak in found if leak.name == name) for name in names]


async def test_leaks_are_listed_also_after_their_job_was_deleted(shell: Shell, leaks: list[int]) -> None:
    job_id = await shell.only_job()
    assert shell.run("jobs", "delete", job_id).code == 0
    rows = shell.run("jobs", "leaks").out.splitlines()
    assert rows[0].split() == ["KEY", "NAME", "RELEASE", "JOB", "SINCE", "TRIES", "ERROR"]
    assert {(row.split()[0], row.split()[1]) for row in rows[1:]} == {(str(leaks[0]), "red"), (str(leaks[1]), "blue")}
    documents = shell.run("jobs", "leaks", "--json").document["leaks"]
    [red] = [one for one in documents if one["name"] == "red"]
    assert (red["key"], red["job_id"], red["step"], red["release"]) == (leaks[0], job_id, "red", "give_back")
    assert (red["inputs"], red["error"]["type"], red["tries"]) == ({"name": "red"}, "door.stuck", 0)
    assert shell.run("health").code == 6


async def test_leak_that_stays_is_told_by_the_exit_code(shell: Shell, leaks: list[int]) -> None:
    tried = shell.run("jobs", "leaks", "--retry", str(leaks[0]), *C)
    assert tried.code == 6 and "could not be released" in tried.out
    tried = shell.run("jobs", "leaks", "--retry-all", "--json", *C)
    assert tried.code == 6 and {one["outcome"] for one in tried.document["leaks"]} == {"failed"}
    listed = shell.run("jobs", "leaks", "--json").document["leaks"]
    assert {one["name"]: one["tries"] for one in listed} == {"red": 2, "blue": 1}


async def test_leaks_are_released_when_the_reason_is_gone(shell: Shell, leaks: list[int]) -> None:
    shell.write("unstuck", "")
    one = shell.run("jobs", "leaks", "--retry", str(leaks[0]), "--json", *C)
    assert one.code == 0 and [leak["outcome"] for leak in one.document["leaks"]] == ["released"]
    rest = shell.run("jobs", "leaks", "--retry-all", *C)
    assert rest.code == 0 and "1 leak released, 0 left" in rest.out
    assert shell.run("jobs", "leaks").out == "There are no leaks.\n"
    assert shell.run("health").code == 0
    assert_refused(shell.run("jobs", "leaks", "--retry", str(leaks[0]), *C), 4, str(leaks[0]))


async def test_leak_whose_component_is_not_given_stays_untried(shell: Shell, leaks: list[int]) -> None:
    shell.write("others.py", "from openagents_json import OpenAgentsApp\n\napp = OpenAgentsApp()\n")
    tried = shell.run("jobs", "leaks", "--retry-all", "--components", "others", "--json")
    assert tried.code == 6 and {one["outcome"] for one in tried.document["leaks"]} == {"no_component"}
    assert all(one["tries"] == 0 for one in shell.run("jobs", "leaks", "--json").document["leaks"])


async def test_leaks_are_forgotten(shell: Shell, leaks: list[int]) -> None:
    dropped = shell.run("jobs", "leaks", "--drop", str(leaks[0]), "--drop", str(leaks[1]), "--json")
    assert dropped.code == 0 and [one["outcome"] for one in dropped.document["leaks"]] == ["dropped", "dropped"]
    assert shell.run("jobs", "leaks", "--json").document == {"leaks": []}
    assert_refused(shell.run("jobs", "leaks", "--drop", str(leaks[0])), 4, str(leaks[0]))


async def test_worker_tries_leaks_when_it_begins(shell: Shell, leaks: list[int]) -> None:
    shell.write("unstuck", "")
    worker = shell.start("worker", *C)
    async with shell.jobs() as jobs, asyncio.timeout(SAFETY_S):
        while await jobs.list_leaks():  # leaks have no event to wait for
            assert worker.is_running
            await asyncio.sleep(POLL_S)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.end().code == 0


async def test_wrong_use_is_refused(shell: Shell) -> None:
    assert_refused(shell.run("jobs", "leaks", "--retry-all"), 2, "--components")
    assert_refused(shell.run("jobs", "leaks", "--retry-all", "--drop", "1", *C), 2, "one of")
    assert_refused(shell.run("jobs", "leaks", "--retry", "x", *C), 2, "--retry")
