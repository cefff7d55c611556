"""What steps print, log and emit, through the command line: also from another process, while the job runs."""

from __future__ import annotations

import json

from tests.acceptance.support import PARTS, Shell, assert_refused, each_line, step

C = ("--components", str(PARTS))


async def test_logs_show_what_steps_printed_after_the_job_has_ended(shell: Shell) -> None:
    flow = shell.workflow(step("a", "talk", lines=["one", "two"]), step("b", "talk", lines=["three"]))
    assert shell.run("run", flow, *C).code == 0
    job_id = await shell.only_job()
    shown = shell.run("jobs", "logs", job_id)
    assert shown.code == 0
    words = [line.split(maxsplit=3)[1:] for line in shown.out.splitlines()]
    assert words == [
        ["a", "stdout", "one"],
        ["a", "stdout", "two"],
        ["a", "stderr", "that was all"],
        ["a", "log", "INFO talked 2 lines"],
        ["b", "stdout", "three"],
        ["b", "stderr", "that was all"],
        ["b", "log", "INFO talked 1 lines"],
    ]
    of_b = shell.run("jobs", "logs", job_id, "--step", "b", "--attempt", "1", "--json").document["output"]
    assert [(one["step"], one["attempt"], one["stream"], one["text"], one["cut"]) for one in of_b] == [
        ("b", 1, "stdout", "three\n", 0),
        ("b", 1, "stderr", "that was all\n", 0),
        ("b", 1, "log", "INFO talked 1 lines\n", 0),
    ]
    assert shell.run("jobs", "logs", job_id, "--step", "c", "--json").document == {"output": []}


async def test_logs_follow_a_job_of_another_process_to_its_end(shell: Shell) -> None:
    flow = shell.workflow(step("a", "talk", lines=["begun"], gate="g"), step("b", "talk", lines=["ended"]))
    run = shell.start("run", flow, *C)
    await shell.wait_entered("g")
    job_id = await shell.only_job()
    follow = shell.start("jobs", "logs", job_id, "--follow")
    follow.wait_line("begun")
    assert follow.is_running
    as_json = shell.start("jobs", "logs", job_id, "--follow", "--json")
    assert json.loads(as_json.wait_line("begun"))["text"] == "begun\n"
    shell.open_gate("g")
    assert run.end().code == 0
    ended = follow.end()
    assert ended.code == 0 and "ended" in ended.out
    assert "".join(one["text"] for one in each_line(as_json.end().out) if one["stream"] == "stdout") == "begun\nended\n"


async def test_events_followed_live_show_the_tokens_of_another_process(shell: Shell) -> None:
    run = shell.start("run", shell.workflow(step("a", "tokens", gate="g", words=["Hel", "lo"])), *C)
    await shell.wait_entered("g")
    job_id = await shell.only_job()
    follow = shell.start("jobs", "events", job_id, "--follow", "--live")
    as_json = shell.start("jobs", "events", job_id, "--follow", "--live", "--json")
    for one in (follow, as_json):
        one.wait_line("attempt.started")
    shell.open_gate("g")
    assert run.end().code == 0
    lines = follow.end().out.splitlines()
    assert [line.split()[-1] for line in lines if "step.emitted" in line] == ['{"token":"Hel"}', '{"token":"lo"}']
    emitted = [one for one in each_line(as_json.end().out) if one["type"] == "step.emitted"]
    assert [(one["number"], one["data"]) for one in emitted] == [
        (0, {"path": "a", "attempt": 1, "data": {"token": word}}) for word in ("Hel", "lo")
    ]
    assert "step.emitted" not in {event.type for event in await shell.history(job_id)}
    assert "token" not in shell.run("jobs", "logs", job_id).out
    assert '{"token":"Hel"}' in shell.run("jobs", "logs", job_id, "--emitted").out


def test_logs_of_a_job_that_is_not_there_are_refused(shell: Shell) -> None:
    shell.run("run", shell.workflow(step("a", "talk", lines=[])), *C)
    assert_refused(shell.run("jobs", "logs", "00000000"), 4, "There is no job")
    assert_refused(shell.run("jobs", "events", "00000000", "--live"), 2, "--follow")


async def test_output_that_a_terminal_would_obey_is_escaped(shell: Shell) -> None:
    shell.run("run", shell.workflow(step("a", "talk", lines=["\x1b[2Jgone\rover"])), *C)
    shown = shell.run("jobs", "logs", await shell.only_job()).out
    assert "\x1b" not in shown and "\\x1b[2Jgone\\rover" in shown


# ── health ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_health_says_what_the_store_holds(shell: Shell) -> None:
    shell.run("run", shell.workflow(step("a", "talk", lines=[])), *C)
    for _ in range(2):
        shell.run("run", "flow.json", *C, "--detach")
    shown = shell.run("health")
    assert shown.code == 0
    assert (
        shown.out.startswith("ok\n") and "1 COMPLETED, 2 QUEUED" in shown.out and "the oldest has waited" in shown.out
    )
    document = shell.run("health", "--json").document
    assert document["status"] == "ok" and document["jobs"] == {"COMPLETED": 1, "QUEUED": 2}
    assert document["queue_age_s"] > 0


def test_queue_that_nobody_works_on_is_unhealthy_where_somebody_says_so(shell: Shell) -> None:
    shell.run("run", shell.workflow(step("a", "talk", lines=[])), *C, "--detach")
    assert shell.run("health", "--max-queue-age", "3600").code == 0
    late = shell.run("health", "--max-queue-age", "0")
    assert late.code == 6
    assert late.out.startswith("degraded\n") and "is there a worker" in late.out
    document = shell.run("health", "--max-queue-age", "0", "--json").document
    assert document["status"] == "degraded" and len(document["reasons"]) == 1


def test_store_that_is_not_there_is_no_health(shell: Shell) -> None:
    assert_refused(shell.run("health"), 5, "There is no store")
