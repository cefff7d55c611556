"""The file store from the command line: kill −9 in the middle, one process at a time, and repair after damage."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.support import PARTS, Shell, assert_refused
from tests.faults.checker import check_store

C = ("--components", str(PARTS))
S = ("--store", "file:///kept/jobs")


@pytest.fixture(autouse=True)
def _folder_around(shell: Shell) -> None:
    (shell.folder / "kept").mkdir()


def journal(shell: Shell) -> Path:
    return shell.folder / "kept" / "jobs" / "journal-00000001.jsonl"


async def check_histories(shell: Shell) -> None:
    """Every history in the folder folds to its row."""
    from openagents_json import FileJobStore

    store = FileJobStore(shell.folder / "kept" / "jobs")
    await store.open()
    try:
        assert await check_store(store) == []
    finally:
        await store.close()


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
async def test_killed_run_goes_on_where_it_was(shell: Shell) -> None:
    run = shell.start("run", shell.gates(3), *C, *S)
    shell.open_gate("0")
    await shell.wait_entered("1")
    run.send(signal.SIGKILL)
    run.end()
    [before] = shell.run("jobs", "list", "--json", *S).document["jobs"]
    assert before["status"] == "RUNNING"
    shell.open_gate("1", "2")
    ended = shell.run("run", "flow.json", *C, *S, "--resume", "--json")
    assert (ended.code, ended.document["id"]) == (0, before["id"])
    events = shell.run("jobs", "events", before["id"], "--json", *S).out
    assert events.count('"step.completed"') == 3 and events.count('"attempt.started"') == 4
    assert events.count('"attempt.lost"') == 1, "the step that was killed, and no other, ran again"
    await check_histories(shell)


async def test_second_process_is_refused_while_the_first_one_runs(shell: Shell) -> None:
    run = shell.start("run", shell.gates(1), *C, *S)
    await shell.wait_entered("0")
    for command in (["jobs", "list"], ["worker", *C], ["store", "repair", S[1]]):
        place = () if command[0] == "store" else S
        refused = shell.run(*command, *place)
        assert_refused(refused, 5, f"in use by process {run.process.pid}", "one process at a time", "sqlite:///")
    shell.open_gate("0")
    assert run.end().code == 0
    assert shell.run("jobs", "list", *S).code == 0


async def test_store_that_is_not_there_is_not_made_by_looking(shell: Shell) -> None:
    assert_refused(shell.run("jobs", "list", *S), 5, "There is no store at", "kept/jobs")
    assert_refused(shell.run("store", "repair", S[1]), 5, "There is no file store at")
    assert list((shell.folder / "kept").iterdir()) == []


async def test_file_store_is_chosen_by_settings_too(shell: Shell) -> None:
    chosen = {"OPENAGENTS_JOB_STORE_TYPE": "file"}
    shell.open_gate("0")
    assert shell.run("run", shell.gates(1), *C, **chosen).code == 0
    assert (shell.folder / "openagents.jobs" / "journal-00000001.jsonl").is_file()
    assert "COMPLETED" in shell.run("jobs", "list", **chosen).out


async def test_damaged_store_is_refused_with_the_command_that_repairs_it(shell: Shell) -> None:
    shell.open_gate("0", "1")
    first = shell.run("run", shell.gates(2), *C, *S, "--json").document
    second = shell.run("run", "flow.json", *C, *S, "--json").document
    lines = journal(shell).read_bytes().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if second["id"].encode() in line and b"step.completed" in line)
    lines[at] = lines[at].replace(b"step.completed", b"step.complated")
    journal(shell).write_bytes(b"".join(lines))
    refused = shell.run("jobs", "list", *S)
    assert_refused(refused, 5, f"damaged at line {at + 1}", "Nothing was changed", "openagents store repair file:///")
    url = refused.err.split("`openagents store repair ")[1].split("`")[0]

    report = shell.run("store", "repair", url, "--json").document
    [loss] = report["losses"]
    assert (loss["job_id"], report["jobs"], report["damage"][0]["line"]) == (second["id"], 2, at + 1)
    assert Path(report["aside"]).read_text().count("step.complated") == 1
    listed = shell.run("jobs", "list", "--json", *S).document["jobs"]
    assert {one["id"]: one["status"] for one in listed}[first["id"]] == "COMPLETED"
    again = shell.run("worker", *C, *S, "--until-idle")
    assert again.code == 0, "what was lost is done again"
    statuses = {one["status"] for one in shell.run("jobs", "list", "--json", *S).document["jobs"]}
    assert statuses == {"COMPLETED"}
    await check_histories(shell)


async def test_repair_says_what_it_did(shell: Shell) -> None:
    shell.open_gate("0")
    job = shell.run("run", shell.gates(1), *C, *S, "--json").document
    sound = shell.run("store", "repair", S[1])
    assert (sound.code, "is not damaged: 1 job. Nothing was changed." in sound.out) == (0, True)
    lines = journal(shell).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"accepted", b"excepted")
    journal(shell).write_bytes(b"".join(lines))
    said = shell.run("store", "repair", S[1])
    assert said.code == 0
    for words in (
        "1 damaged part cut out:", "journal-00000001.jsonl, line 3 (byte", "its checksum does not fit", "set aside",
        "What jobs have lost:", f"job {job['id']} is lost", "can be used again: 0 jobs", "damaged-00000001.jsonl",
    ):  # fmt: skip
        assert words in said.out, said.out


async def test_repair_is_for_file_stores(shell: Shell) -> None:
    assert_refused(shell.run("store", "repair", "sqlite:///jobs.db"), 2, "no file store")
    assert "repair" in shell.run("store").err
