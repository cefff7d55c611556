"""`concurrency` of a workflow on the command line: what a job waits for, and what is refused."""

from __future__ import annotations

import json
from typing import Any

from openagents_json import JobManager
from tests.acceptance.support import PARTS, Shell, assert_refused, step, types

C = ("--components", str(PARTS))


def definition(**concurrency: Any) -> dict[str, Any]:
    return {
        "id": "flow",
        "concurrency": {"key": "{{ inputs.customer }}", "limit": 1} | concurrency,
        "inputs": {"type": "object", "properties": {"customer": {"type": "string", "default": "acme"}}},
        "steps": [step("a", "core.echo", value=7)],
    }


async def queued(shell: Shell, document: dict[str, Any], *, start: int, created: int = 0) -> list[str]:
    """Jobs of a definition that no worker runs; the ids, those that are started first."""
    async with shell.jobs() as jobs:
        jobs.workflows.register(document)
        return [await jobs.create_job("flow", start=n < start) for n in range(start + created)]


async def test_job_that_waits_for_its_turn_says_for_whom(shell: Shell) -> None:
    first, second, third = await queued(shell, definition(), start=3)
    assert "for a worker" in shell.run("jobs", "show", first).out
    shown = shell.run("jobs", "show", third).out
    assert f'waits    for the one job with the key "acme" that may be on (`concurrency`): {first[-8:]}' in shown
    document = shell.run("jobs", "show", second, "--json").document
    assert document["waiting_for"] == [{"kind": "limit", "key": "acme", "limit": 1, "held_by": [first]}]


async def test_explanation_names_the_holder_and_what_would_help(shell: Shell) -> None:
    first, second = await queued(shell, definition(), start=2)
    told = shell.run("jobs", "explain", second)
    assert told.code == 0
    assert f"flow/{second[-8:]} is QUEUED" in told.out and f"     openagents jobs cancel {first}" in told.out
    assert (
        f"  1. Its workflow lets one job with the key 'acme' be on at a time (`concurrency`), and on are: {first[-8:]}."
        in (told.out.splitlines())
    )
    document = shell.run("jobs", "explain", first, "--json").document
    assert [one["kind"] for one in document["blockers"]] == ["worker"]
    assert document["score"]["ahead"] == 0 and document["estimate"]["basis"] == "no living worker can run it"
    assert shell.run("jobs", "cancel", first).code == 0
    assert "  1. No worker" in shell.run("jobs", "explain", second).out
    assert_refused(shell.run("jobs", "explain", "nothing"), 4, "nothing")


async def test_jobs_follow_each_other_when_a_worker_comes(shell: Shell) -> None:
    ids = await queued(shell, definition(), start=3)
    assert shell.run("jobs", "priority", ids[2], "critical").code == 0
    async with JobManager(f"sqlite:///{shell.store_path}") as jobs:
        for job_id in ids:
            await jobs.wait(job_id)
    times = {job_id: (await shell.history(job_id))[-1].at for job_id in ids}
    assert sorted(ids, key=times.__getitem__) == [ids[2], ids[0], ids[1]]  # none had begun
    assert "job.completed" in types(await shell.history(ids[0]))


async def test_start_over_the_limit_is_refused_with_its_own_exit_code(shell: Shell) -> None:
    first, second = await queued(shell, definition(overflow="reject"), start=1, created=1)
    assert_refused(shell.run("jobs", "start", second), 7, "only one job", '"acme"', first)
    [refused] = shell.run("jobs", "start", second, "--json").document["jobs"]
    assert refused["error"]["code"] == "job.limit_reached"
    assert shell.run("jobs", "cancel", first).code == 0
    assert shell.run("jobs", "start", second).code == 0


async def test_run_over_the_limit_is_refused_and_leaves_no_job(shell: Shell) -> None:
    document = definition(overflow="reject") | {"steps": [{"id": "never", "signal": "never"}]}
    [first] = await queued(shell, document, start=1)
    shell.write("flow.json", json.dumps(document))
    assert_refused(shell.run("run", "flow.json", *C), 7, "only one job", first)
    assert [job["id"] for job in shell.run("jobs", "list", "--json").document["jobs"]] == [first]
