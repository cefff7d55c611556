"""Steps whose components the worker does not have: the job goes on elsewhere, with nothing repeated."""

from __future__ import annotations

from typing import Any

from openagents_json.job.model import JobStatus
from tests.unit.machine.drive import Drive, plan_of


def flow(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "flow", "steps": list(steps)} | fields


def step(id: str, component: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": component} | fields


def moved(drive: Drive) -> list[Any]:
    """What the job required each time that it went on elsewhere."""
    return [event.data["requires"] for event in drive.history if event.data.get("reason") == "elsewhere"]


def test_new_job_requires_one_of_the_components_that_it_can_begin_with() -> None:
    cases: dict[tuple[str, ...], dict[str, Any]] = {
        ("a",): flow(step("s", "a"), step("t", "b")),
        ("a", "b"): flow(step("s", "b", needs=[]), step("t", "a", needs=[])),
        (): flow({"id": "s", "set": 1}, step("t", "a")),
    }
    for required, definition in cases.items():
        assert plan_of(definition).first_components == required
        assert Drive(definition, claim=False).state.required == required
    conditional = flow(step("s", "a", condition="{{ 1 == 2 }}"))
    chosen = flow(
        {"id": "s", "component": "{{ inputs.which }}", "allow": ["a", "b"]},
        inputs={"type": "object", "properties": {"which": {"type": "string"}}},
    )
    for definition in (conditional, chosen):
        assert plan_of(definition).first_components == ()


def test_job_moves_in_the_commit_of_the_last_result_and_starts_where_the_component_is() -> None:
    drive = Drive(flow(step("s", "a"), step("t", "b"), step("u", "a")), claim=False)
    drive.missing = {"b"}
    drive.claim("first")
    turns = len(drive.commits)
    drive.succeed("s", 1)
    assert (drive.status, drive.state.required, len(drive.commits)) == (JobStatus.QUEUED, ("b",), turns + 1)
    drive.missing = {"a"}
    drive.claim("second")
    assert drive.state.required == ()
    drive.succeed("t", 2)
    drive.missing = set()
    drive.claim("third")
    drive.succeed("u", 3)
    assert (drive.status, drive.called, moved(drive)) == (JobStatus.COMPLETED, ["s", "t", "u"], [["b"], ["a"]])


def test_what_can_run_here_runs_before_the_job_moves() -> None:
    drive = Drive(flow(step("s", "a", needs=[]), step("t", "b", needs=[]), step("u", "a", needs=["s"])), claim=False)
    drive.missing = {"b"}
    drive.claim()
    drive.succeed("s")
    assert (drive.status, drive.called) == (JobStatus.RUNNING, ["s", "u"])
    drive.succeed("u")
    assert (drive.status, moved(drive)) == (JobStatus.QUEUED, [["b"]])


def test_step_that_waits_for_a_slot_here_keeps_the_job_here() -> None:
    drive = Drive(flow(step("s", "a", needs=[]), step("t", "b", needs=[])), claim=False, slots=0)
    drive.missing = {"b"}
    drive.claim()
    assert (drive.status, drive.called) == (JobStatus.RUNNING, [])
    drive.slots = 1
    drive.tick()
    assert drive.called == ["s"]


def test_requirement_outlives_pause_and_is_gone_with_the_next_claim() -> None:
    drive = Drive(flow(step("s", "a"), step("t", "b")), claim=False)
    drive.missing = {"b"}
    drive.claim()
    drive.succeed("s")
    drive.pause()
    assert drive.status == JobStatus.PAUSED
    drive.resume()
    assert (drive.status, drive.state.required) == (JobStatus.QUEUED, ("b",))
    drive.missing = set()
    drive.claim()
    assert (drive.called, drive.state.required) == (["s", "t"], ())


def test_cancel_of_a_job_that_nobody_can_serve_needs_no_component() -> None:
    drive = Drive(flow(step("s", "a"), step("t", "b")), claim=False)
    drive.missing = {"b"}
    drive.claim()
    drive.succeed("s")
    drive.cancel()
    if drive.status == JobStatus.QUEUED:
        drive.claim()
    assert drive.status == JobStatus.CANCELLED


def test_step_that_needs_more_than_the_worker_has_goes_elsewhere_with_what_it_requires() -> None:
    drive = Drive(flow(step("s", "a"), step("t", "b", resources={"gpu": 4})), claim=False)
    drive.out_of_reach = {"t": 'b {"gpu":4}'}
    drive.claim()
    drive.succeed("s")
    assert (drive.status, drive.called, moved(drive)) == (JobStatus.QUEUED, ["s"], [['b {"gpu":4}']])
    drive.out_of_reach = {}
    drive.claim()
    assert (drive.called, drive.state.required) == (["s", "t"], ())


def test_worker_that_lacks_the_component_says_what_the_step_occupies() -> None:
    drive = Drive(flow(step("s", "a"), step("t", "b", resources={"gpu": 0.5, "cpu_s": 9})), claim=False)
    drive.missing = {"b"}
    drive.claim()
    drive.succeed("s")
    assert moved(drive) == [['b {"gpu":0.5}']]


def test_steps_of_one_component_may_be_here_and_elsewhere() -> None:
    drive = Drive(flow(step("s", "a", needs=[]), step("t", "a", needs=[]), step("u", "a", needs=[])), claim=False)
    drive.out_of_reach = {"t": 'a {"gpu":4}', "u": 'a {"gpu":8}'}
    drive.claim()
    assert (drive.status, drive.called) == (JobStatus.RUNNING, ["s"])
    drive.succeed("s")
    assert (drive.status, moved(drive)) == (JobStatus.QUEUED, [['a {"gpu":4}', 'a {"gpu":8}']])
