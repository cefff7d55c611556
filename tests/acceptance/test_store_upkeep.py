"""`openagents store info|check|vacuum|migrate` and `openagents workers`, as people and programs use them."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.support import PARTS, Shell, assert_refused, step

C = ("--components", str(PARTS))
SCHEMA_1 = Path(__file__).parents[1] / "fixtures" / "stores" / "sqlite-schema-1.sql"
FLOW = {"id": "flow", "steps": [{"id": "note", "set": "done"}]}


def run_one(shell: Shell, *options: str) -> None:
    assert shell.run("run", shell.write("flow.json", json.dumps(FLOW)), *options).code == 0


def write_old_store(shell: Shell) -> None:
    with closing(sqlite3.connect(shell.store_path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA_1.read_text())


def test_info_tells_what_is_there(shell: Shell) -> None:
    run_one(shell)
    told = shell.run("store", "info")
    assert told.code == 0
    assert told.out.splitlines()[0] == str(shell.store_path)
    assert "1: 1 COMPLETED" in told.out and "journal mode wal, synchronous full" in told.out
    facts = shell.run("store", "info", "sqlite:///openagents.db", "--json").document
    assert (facts["kind"], facts["jobs"], facts["workers"]) == ("sqlite", {"COMPLETED": 1}, 0)
    assert facts["schema"] == facts["known_schema"] and facts["pending"] == []
    assert facts["disk_bytes"] >= shell.store_path.stat().st_size
    assert facts["oldest_created_at"] == facts["newest_created_at"]


def test_info_and_check_of_a_folder(shell: Shell) -> None:
    run_one(shell, "--store", "file:///jobs")
    assert "kind         file" in shell.run("store", "info", "file:///jobs").out
    checked = shell.run("store", "check", "file:///jobs")
    assert checked.code == 0 and checked.out.startswith("Nothing is wrong with ")
    journal = shell.folder / "jobs" / "journal-00000001.jsonl"
    journal.write_text(journal.read_text().replace('"worker":', '"walker":', 1))
    damaged = shell.run("store", "check", "file:///jobs")
    assert damaged.code == 6 and "line 4 (byte" in damaged.out and "checksum" in damaged.out
    assert "openagents store repair" in damaged.out
    document = shell.run("store", "check", "file:///jobs", "--json").document
    assert (document["ok"], document["problems"], document["checked"]) == (False, 1, None)


def test_aging_is_set_and_shown(shell: Shell) -> None:
    assert_refused(shell.run("store", "set-aging", "60"), 5, "openagents.db")
    run_one(shell)
    told = shell.run("store", "set-aging", "90")
    assert told.code == 0 and "a level of priority is worth 90 s of waiting" in told.out
    assert "aging 90 s" in shell.run("store", "info").out
    assert shell.run("store", "set-aging", "strict", "--json").document["aging_s"] == 1e9
    assert "aging 1e+09 s" in shell.run("store", "info").out
    assert_refused(shell.run("store", "set-aging", "soon"), 2, "'soon' is no aging time", "such as 600")


def test_check_names_the_job_and_exits_with_6(shell: Shell) -> None:
    run_one(shell)
    assert shell.run("store", "check").code == 0
    with closing(sqlite3.connect(shell.store_path)) as connection, connection:
        connection.execute("UPDATE jobs SET progress = 0.25")
        [job_id] = connection.execute("SELECT id FROM jobs").fetchone()
    checked = shell.run("store", "check")
    assert checked.code == 6
    assert checked.out.splitlines()[0] == f"job {job_id}: its row says progress = 0.25, and its history 1.0"
    document = shell.run("store", "check", "--json").document
    assert document["first_problems"][0]["where"] == f"job {job_id}"
    assert document["checked"] == {"definitions": 1, "jobs": 1, "events": 5, "snapshots": 0}
    shell.store_path.unlink()  # the checker that runs after each test would find it, too


def test_old_store_is_looked_at_and_migrated_when_asked(shell: Shell) -> None:
    write_old_store(shell)
    before = shell.store_path.read_bytes()
    assert "1; this program has 4 (3 migrations to do" in shell.run("store", "info").out
    assert_refused(shell.run("store", "check"), 5, "has schema 1", "openagents store migrate")
    planned = shell.run("store", "migrate", "--dry-run", "--backup", "before.db")
    assert planned.code == 0 and "2  workers and requirements" in planned.out and "4  scheduling" in planned.out
    assert shell.store_path.read_bytes() == before and not (shell.folder / "before.db").exists()
    migrated = shell.run("store", "migrate", "--backup", "before.db", "--json").document
    assert (migrated["schema"], migrated["known_schema"], migrated["migrated"]) == (1, 4, True)
    assert migrated["backup"]["bytes"] == (shell.folder / "before.db").stat().st_size
    assert "1; this program has 4" in shell.run("store", "info", "sqlite:///before.db").out
    assert shell.run("store", "check").code == 0
    assert "Nothing was changed" in shell.run("store", "migrate").out
    shell.store_path.unlink()  # rows of schema 1 do not say which components their jobs require


def test_store_of_a_later_version_is_refused_by_every_command(shell: Shell) -> None:
    run_one(shell)
    with closing(sqlite3.connect(shell.store_path)) as connection, connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'of tomorrow', 'x', 1)")
    before = shell.store_path.read_bytes()
    for command in ("info", "check", "vacuum", "migrate"):
        assert_refused(shell.run("store", command), 5, "has schema 99", "Install a newer version")
    assert_refused(shell.run("store", "migrate", "--backup", "before.db"), 5, "has schema 99")
    assert shell.store_path.read_bytes() == before and not (shell.folder / "before.db").exists()
    shell.store_path.unlink()


def test_vacuum_says_what_it_has_won(shell: Shell) -> None:
    run_one(shell)
    with closing(sqlite3.connect(shell.store_path)) as connection:
        connection.executescript(
            "CREATE TABLE ballast (x); INSERT INTO ballast VALUES (zeroblob(1000000)); DROP TABLE ballast"
        )
    assert shell.run("store", "info", "--json").document["free_bytes"] > 900_000
    done = shell.run("store", "vacuum", "--json").document
    assert done["before_bytes"] - done["after_bytes"] > 900_000
    assert "no less" in shell.run("store", "vacuum").out
    assert shell.run("store", "check").code == 0


def test_what_cannot_be_done_is_said(shell: Shell) -> None:
    for command in ("info", "check", "vacuum", "migrate"):
        assert_refused(shell.run("store", command), 5, "There is no store at")
    assert_refused(shell.run("store", "info", "memory"), 2, "memory store ends with this process")
    run_one(shell, "--store", "file:///jobs")
    assert_refused(shell.run("store", "migrate", "file:///jobs", "--backup", "b.db"), 2, "Copy the folder")
    (shell.folder / "notes.db").write_text("this is no database, whatever its name says. " * 20)
    assert_refused(shell.run("store", "check", "sqlite:///notes.db"), 5, "is not a SQLite database")


async def test_workers_are_listed_and_keep_vacuum_and_migrate_from_holding_them_up(shell: Shell) -> None:
    assert_refused(shell.run("workers"), 5, "There is no store at")
    gate = {"id": "gated", "steps": [step("wait", "gate", name="door")]}
    assert shell.run("run", shell.write("gated.json", json.dumps(gate)), *C, "--detach").code == 0
    assert "No worker lives" in shell.run("workers").out
    worker = shell.start("worker", *C, "--max-jobs", "3")
    worker.wait_line("is ready", "err")
    await shell.wait_entered("door")
    [head, row] = shell.run("workers").out.splitlines()
    assert head.split() == ["WORKER", "HOST", "PID", "VERSION", "JOBS", "HEARD", "RESOURCES", "COMPONENTS"]
    assert f" {worker.process.pid} " in row and " 1 of 3 " in row and " s ago " in row
    [document] = shell.run("workers", "--json").document["workers"]
    assert (document["pid"], document["max_jobs"], document["running_jobs"]) == (worker.process.pid, 3, 1)
    assert "gate" in document["components"] and 0 <= document["heartbeat_age_s"] < 60
    assert_refused(shell.run("store", "vacuum"), 2, "1 worker could not write", "--force")
    assert shell.run("store", "vacuum", "--force").code == 0
    assert shell.run("store", "check").code == 0
    shell.open_gate("door")
    worker.send(signal.SIGTERM)
    assert (await asyncio.to_thread(worker.end)).code in (0, 130)
    assert "No worker lives" in shell.run("workers").out
