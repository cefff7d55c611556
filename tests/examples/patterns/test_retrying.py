"""Retrying a pattern from each of its steps gives what the whole gave."""

from __future__ import annotations

from typing import Any

import pytest

from tests.examples.patterns.stage import Stage

RUNS: list[tuple[str, dict[str, Any]]] = [
    ("sequence", {}),
    ("parallel-split", {}),
    ("synchronization", {}),
    ("exclusive-choice", {"words": 1_000}),
    ("simple-merge", {}),
    ("multi-choice", {"to": ["mail", "phone"]}),
    ("synchronizing-merge", {}),
    ("instances-known-at-design-time", {}),
    ("instances-known-at-run-time", {"text": "a; b; c"}),
    ("recursion", {"pages": ["a", "b", "c"]}),
    ("structured-loop", {}),
]


@pytest.mark.parametrize(("workflow", "inputs"), RUNS, ids=[workflow for workflow, _ in RUNS])
async def test_retry_of_a_pattern_from_each_step(stage: Stage, workflow: str, inputs: dict[str, Any]) -> None:
    job_id = await stage.start(workflow, **inputs)
    outputs = await stage.end(job_id)
    for step in stage.jobs.workflows.get(workflow).steps:
        assert await stage.end(await stage.jobs.retry_job(job_id, step.id)) == outputs, step.id
