"""`openagents store export` and `import`: jobs go from one store to another, also while they run."""

from __future__ import annotations

import json
import signal

import pytest

from tests.acceptance.support import PARTS, Shell, assert_refused

C = ("--components", str(PARTS))
HERE = "sqlite:///openagents.db"
THERE = "file:///there"


@pytest.mark.guarantee("G1")
async def test_running_job_is_exported_and_goes_on_in_another_store(shell: Shell) -> None:
    run = shell.start("run", shell.gates(2), *C)
    shell.open_gate("0")
    await shell.wait_entered("1")
    done = shell.run("store", "export", HERE, "jobs.jsonl")
    assert done.code == 0 and done.out.startswith("jobs.jsonl: 1 job, ")
    assert run.is_running, "exporting disturbs nobody"
    run.send(signal.SIGKILL)
    run.end()

    dry = shell.run("store", "import", THERE, "jobs.jsonl", "--dry-run")
    assert dry.out.startswith("1 job would be imported")
    assert shell.run("store", "import", THERE, "jobs.jsonl").out.startswith("1 job imported")
    assert shell.run("store", "import", THERE, "jobs.jsonl").out.startswith(
        "0 jobs imported (0 events), 1 there already"
    )
    shell.open_gate("1")
    ended = shell.run("run", "flow.json", *C, "--store", THERE, "--resume", "--json")
    assert ended.code == 0 and ended.document["status"] == "COMPLETED"
    events = shell.run("jobs", "events", ended.document["id"], "--json", "--store", THERE).out
    assert events.count('"step.completed"') == 2 and events.count('"attempt.lost"') == 1


async def test_export_goes_through_a_pipe(shell: Shell) -> None:
    note = shell.workflow({"id": "s", "component": "note", "inputs": {"value": 1}})
    job_id = shell.run("run", note, *C, "--json").document["id"]
    exported = shell.run("store", "export", HERE, "-")
    assert exported.code == 0 and exported.err == ""
    assert [json.loads(line)["type"] for line in exported.out.splitlines()][-1] == "end"
    done = shell.run("store", "import", "sqlite:///other.db", "-", "--json", stdin=exported.out)
    assert done.document | {"events": 0} == {
        "dry_run": False, "jobs": 1, "events": 0, "known": 0, "refused": 0, "refusals": [],
    }  # fmt: skip
    assert shell.run("jobs", "results", job_id, "--store", "sqlite:///other.db", "--json").code == 0


async def test_jobs_are_chosen(shell: Shell) -> None:
    for name in ("one", "two"):
        flow = shell.workflow({"id": "s", "component": "note", "inputs": {"value": 1}}, id=name, file=f"{name}.json")
        assert shell.run("run", flow, *C, "--json").code == 0
    for options in (["--workflow", "one"], ["one/"]):
        if options == ["one/"]:
            [job] = shell.run("jobs", "list", "--workflow", "one", "--json").document["jobs"]
            options = [job["job"]]
        done = shell.run("store", "export", HERE, f"{len(options)}.jsonl", *options, "--json")
        assert done.document["jobs"] == 1, done
    assert shell.run("store", "export", HERE, "none.jsonl", "--status", "FAILED").out.startswith("none.jsonl: 0 jobs")


async def test_refused_jobs_are_named_and_the_others_are_imported(shell: Shell) -> None:
    flow = shell.workflow({"id": "s", "component": "note", "inputs": {"value": 1}})
    assert shell.run("run", flow, *C, "--idempotency-key", "k", "--store", "sqlite:///other.db").code == 0
    ids = [shell.run("run", flow, *C, "--json", *more).document["id"] for more in ([], ["--idempotency-key", "k"])]
    assert shell.run("store", "export", HERE, "jobs.jsonl").code == 0
    done = shell.run("store", "import", "sqlite:///other.db", "jobs.jsonl")
    assert done.code == 6 and done.out.startswith("1 job imported")
    assert "1 refused:" in done.out and f"{ids[1]} (line " in done.out and "'k'" in done.out
    dropped = shell.run("store", "import", "sqlite:///other.db", "jobs.jsonl", "--drop-keys", "--json")
    assert dropped.code == 0 and (dropped.document["jobs"], dropped.document["known"]) == (1, 1)


async def test_what_cannot_be_done_is_said(shell: Shell) -> None:
    assert shell.run("run", shell.workflow({"id": "s", "set": 1})).code == 0
    assert shell.run("store", "export", HERE, "jobs.jsonl").code == 0
    whole = shell.read("jobs.jsonl")
    shell.write("cut.jsonl", whole[:-30])
    shell.write("changed.jsonl", whole.replace("COMPLETED", "CANCELLED", 1))
    shell.write("future.jsonl", whole.replace('"format":1', '"format":2', 1))
    shell.write("other.jsonl", '{"id": 1}\n')
    for command, code, words in (
        (["export", HERE, "jobs.jsonl"], 2, "is there already"),
        (["export", HERE, "no/such/folder.jsonl"], 2, "no/such/folder.jsonl cannot be used"),
        (["export", HERE, "x.jsonl", "flow", "--status", "FAILED"], 2, "not both"),
        (["export", HERE, "x.jsonl", "nobody-at-all"], 4, "no job"),
        (["export", "sqlite:///none.db", "x.jsonl"], 5, "no store"),
        (["export", "memory", "x.jsonl"], 2, "memory"),
        (["import", "memory", "jobs.jsonl"], 2, "memory"),
        (["import", "ftp://here", "jobs.jsonl"], 2, "no store"),
        (["import", "sqlite:///new.db", "missing.jsonl"], 2, "No such file"),
        (["import", "sqlite:///new.db", "cut.jsonl"], 2, "cut off"),
        (["import", "sqlite:///new.db", "changed.jsonl"], 2, "line 3: status of job"),
        (["import", "sqlite:///new.db", "future.jsonl"], 2, "Install a newer version"),
        (["import", "sqlite:///new.db", "other.jsonl"], 2, "no export of openagents"),
    ):
        assert_refused(shell.run("store", *command), code, words)
    both = shell.run("store", "export", HERE, "-", "--json")
    assert both.code == 2 and both.error["code"] == "usage"
    assert not (shell.folder / "x.jsonl").exists()
    assert not list(shell.folder.glob("*.tmp"))
