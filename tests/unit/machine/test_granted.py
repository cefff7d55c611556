"""Steps whose component has limits: they start when there is leave, and nothing else waits for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openagents_json.errors import ExpressionError
from openagents_json.job.machine import StepRun
from openagents_json.job.model import JobStatus
from tests.unit.machine.drive import Drive


class Leave:
    """Grants what is named, and notes who asked with what."""

    def __init__(self, *paths: str) -> None:
        self.paths = set(paths)
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []

    def __call__(self, component: str, run: StepRun, inputs: Callable[[], Mapping[str, Any]]) -> bool:
        self.asked.append((component, run.path, inputs()))
        if inputs().get("value") == "no key":
            raise ExpressionError("it has no value", code="limit.key")
        return run.path in self.paths


def flow(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "flow", "steps": list(steps)} | fields


def step(id: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"id": id, "component": "a", "inputs": {"value": value}, "needs": []} | fields


def test_step_without_leave_waits_and_the_job_stays_running() -> None:
    leave = Leave("t")
    drive = Drive(flow(step("s", 1), step("t", 2)), granted=leave)
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
    drive = Drive(flow(step("s", 1), step("t", 2)), granted=leave, slots=1)
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
    drive = Drive(definition, granted=leave, inputs={"n": 7})
    assert leave.asked == [("a", "s", {"value": 7}), ("a", "t", {})], "what holds a secret is not shown"
    drive.fail("s")
    drive.tick()
    assert leave.asked[-2:] == [("a", "t", {}), ("a", "s", {"value": 7})] or ("a", "s", {"value": 7}) in leave.asked[2:]


def test_key_without_a_value_fails_the_step() -> None:
    drive = Drive(flow(step("s", "no key")), granted=Leave("s"))
    assert drive.status == JobStatus.FAILED
    assert drive.state.errors[0]["type"] == "limit.key"


def test_job_without_leave_can_be_paused_and_cancelled() -> None:
    drive = Drive(flow(step("s", 1)), granted=Leave())
    drive.pause()
    assert drive.status == JobStatus.PAUSED
    drive.resume()
    drive.claim()
    drive.cancel()
    assert (drive.status, drive.called) == (JobStatus.CANCELLED, [])
