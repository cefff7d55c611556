"""Steps whose component has limits: they start when there is leave, and nothing else waits for that."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.job.machine import StepRun
from openagents_json.job.machine.startable import ALIKE_ASKED
from openagents_json.job.model import JobStatus
from tests.unit.machine.drive import Drive


class Leave:
    """Grants what is named, and notes who asked, and with what. Attempts fall under a limit for each value."""

    def __init__(self, *paths: str) -> None:
        self.paths = set(paths)
        self.inputs: list[tuple[str, Mapping[str, Any]]] = []
        self.asked: list[str] = []

    def caps(self, component: str, inputs: Callable[[], Mapping[str, Any]]) -> Hashable:
        self.inputs.append((component, inputs()))
        if inputs().get("value") == "no key":
            raise ExpressionError("it has no value", code="limit.key")
        return (str(inputs().get("value")),)

    def granted(self, run: StepRun, caps: Any) -> bool:
        self.asked.append(run.path)
        return run.path in self.paths


def drive_with(leave: Leave, definition: dict[str, Any], **options: Any) -> Drive:
    return Drive(definition, caps=leave.caps, granted=leave.granted, **options)


def flow(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "flow", "steps": list(steps)} | fields


def step(id: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "a", "inputs": {"value": value}, "needs": []} | fields


def test_step_without_leave_waits_and_the_job_stays_running() -> None:
    leave = Leave("t")
    drive = drive_with(leave, flow(step("s", 1), step("t", 2)))
    assert (drive.status, drive.called) == (JobStatus.RUNNING, ["t"])
    drive.succeed("t")
    assert (drive.status, drive.called) == (JobStatus.RUNNING, ["t"]), "it waits for leave, and does not rest"
    leave.paths.add("s")
    drive.tick()
    assert drive.called == ["t", "s"]
    drive.succeed("s")
    assert drive.status == JobStatus.COMPLETED


def test_leave_is_asked_before_a_slot_and_takes_none() -> None:
    leave = Leave()
    drive = drive_with(leave, flow(step("s", 1), step("t", 2)), slots=1)
    assert drive.called == []
    leave.paths |= {"s", "t"}
    drive.tick()
    assert drive.called == ["s"]
    drive.succeed("s")
    assert drive.called == ["s", "t"]


def test_leave_is_asked_with_the_inputs_of_the_attempt() -> None:
    leave = Leave("s")
    definition = flow(
        step("s", "{{ inputs.n }}", retry={"max_attempts": 2, "delay_seconds": 0}),
        step("t", {"token": "{{ secrets.T }}"}),
        inputs={"type": "object", "properties": {"n": {"type": "integer", "default": 7}}},
    )
    drive = drive_with(leave, definition, inputs={"n": 7})
    assert leave.inputs == [("a", {"value": 7}), ("a", {})], "what holds a secret is not shown"
    drive.fail("s")
    drive.tick()
    assert leave.inputs[2:] == [("a", {"value": 7})], "of each attempt once"


def test_key_without_a_value_fails_the_step() -> None:
    drive = drive_with(Leave("s"), flow(step("s", "no key")))
    assert drive.status == JobStatus.FAILED
    assert drive.state.errors[0]["type"] == "limit.key"


def test_job_without_leave_can_be_paused_and_cancelled() -> None:
    drive = drive_with(Leave(), flow(step("s", 1)))
    drive.pause()
    assert drive.status == JobStatus.PAUSED
    drive.resume()
    drive.claim()
    drive.cancel()
    assert (drive.status, drive.called) == (JobStatus.CANCELLED, [])


def test_of_thousands_with_the_same_limit_only_the_first_ones_ask_in_a_turn() -> None:
    each = {"id": "each", "foreach": list(range(3 * ALIKE_ASKED)), "steps": [step("s", "same")]}
    leave = Leave()
    drive = drive_with(leave, flow(each, step("t", "other")))
    paths = [f"each[{number}].s" for number in range(3 * ALIKE_ASKED)]
    for _ in range(2):
        assert sorted(leave.asked) == sorted([*paths[:ALIKE_ASKED], "t"])
        leave.asked.clear()
        drive.tick()
    leave.paths |= {paths[0], "t"}
    drive.tick()
    assert sorted(drive.called) == sorted([paths[0], "t"])
    assert leave.asked[-1] == paths[ALIKE_ASKED], "one more has moved up"


def test_limits_of_a_component_that_comes_late_are_heeded() -> None:
    """What nobody knew when the attempt was prepared is asked when the component is there."""
    leave = Leave("t")
    drive = drive_with(leave, flow(step("s", 1), step("t", 2), step("other", 3, component="b")), claim=False)
    drive.missing = {"a"}
    drive.claim()
    assert (drive.called, leave.asked) == ([], ["other"])
    assert [value for _, value in leave.inputs] == [{"value": 3}]
    drive.missing = set()
    drive.tick()
    assert (drive.called, leave.asked[1:]) == (["t"], ["s", "t", "other"])
    leave.paths |= {"s"}
    drive.tick()
    assert drive.called == ["t", "s"]
