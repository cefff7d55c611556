"""Definitions of OpenAgents JSON 0.1 run: each fixture gives the outputs that its author meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openagents_json import JobManager
from openagents_json.errors import InvalidInputs
from tests.engine.support import Bench, final, history, seen

OLDER = Path(__file__).parents[1] / "fixtures" / "older"
FAILED_AND_SKIPPED = ["FAILED", "SKIPPED", "COMPLETED"]
RUNS: list[tuple[str, dict[str, Any], Any]] = [
    ("readme", {"document": "Glad Tidings"}, {"mood": "glad", "status": "COMPLETED"}),
    ("quick_start", {"text": "one two"}, {"reversed": "owt eno", "word_count": 2, "label": "one  (2)"}),
    ("single_output", {"message": "hello"}, {"output": "hello"}),
    ("string_inputs", {"document": "abcdef", "limit": 2}, {"text": "ab", "remark": "none"}),
    ("parameters", {"text": "abcdefgh"}, {"text": "abcdef"}),
    ("parameters", {"text": "abcdefgh", "style": "loud", "max_length": 2}, {"text": "AB"}),
    ("longest_id", {"n": 1}, {"all": [2, 3, 4, 5], "difference": 3, "from_one": 97}),
    (
        "literals",
        {"name": "Ada", "rows": [{"output": 1}, {"output": 2}]},
        {
            "say": "input.message, say.output",
            "raw": "{{say.output}}",
            "text": "say.output of Ada",
            "rows": "1;2;",
        },
    ),
    ("states", {}, {"printed": None, "why": "out of paper while RUNNING", "statuses": FAILED_AND_SKIPPED}),
    ("connections", {"text": "one two three"}, {"output": "ONE|eerht owt"}),
    ("connection_conditions", {"text": "wonderful day today"}, {"text": "wonde", "statuses": ["COMPLETED", "SKIPPED"]}),
    ("connection_conditions", {"text": "wonderful"}, {"text": "WONDERFUL", "statuses": ["SKIPPED", "COMPLETED"]}),
    ("references_without_braces", {"text": "one two"}, {"result": "ONE|not.a.reference"}),
    ("output_templates", {"text": "one two"}, {"told": "ONE|2 words"}),
    ("model_form", {"input_text": "abcdef"}, {"short_text": "abc"}),
    ("model_form_branches", {"text": "who?"}, {"answer": "who?|kind", "filed": None}),
    ("model_form_branches", {"text": "rain", "tone": "dry"}, {"answer": None, "filed": "RAIN"}),
]


@pytest.fixture
def kind() -> str:
    return "memory"


@pytest.fixture
def older(bench: Bench) -> Bench:
    """The bench with the components that the fixtures call."""
    tool = bench.components.registry.tool

    @tool("letters.extract")
    async def extract(document: str) -> str:
        return document.lower()

    @tool("letters.mood")
    async def mood(text: str) -> str:
        return text.split()[0]

    @tool("letters.classify")
    async def classify(text: str) -> dict[str, str]:
        return {"kind": "question" if "?" in text else "news"}

    @tool("echo")
    async def echo(message: str) -> str:
        return message

    @tool("text.reverse")
    async def reverse(text: str) -> str:
        return text[::-1]

    @tool("text.count")
    async def count(text: str) -> int:
        return len(text.split())

    @tool("text.cut")
    async def cut(text: str, max_length: int) -> str:
        return text[:max_length]

    @tool("text.upper")
    async def upper(text: str) -> str:
        return text.upper()

    @tool("text.split")
    async def split(text: str) -> dict[str, Any]:
        head, *tail = text.split()
        return {"head": head, "tail": " ".join(tail), "words": 1 + len(tail)}

    @tool("text.join")
    async def join(left: str, right: str) -> str:
        return f"{left}|{right}"

    @tool("number.plus_one")
    async def plus_one(n: int) -> int:
        return n + 1

    return bench


async def outputs_of(bench: Bench, jobs: JobManager, name: str, inputs: dict[str, Any]) -> Any:
    flow = bench.workflows.register(OLDER / f"{name}.json")
    job_id = await jobs.create_job(flow.id, inputs, start=True)
    assert await final(jobs, job_id) == "COMPLETED"
    return (await jobs.get_job(job_id)).outputs


@pytest.mark.parametrize(("name", "inputs", "outputs"), RUNS, ids=[name for name, _, _ in RUNS])
async def test_older_definition_gives_its_outputs(
    older: Bench, jobs: JobManager, name: str, inputs: dict[str, Any], outputs: Any
) -> None:
    assert await outputs_of(older, jobs, name, inputs) == outputs


async def test_every_fixture_is_run() -> None:
    assert {path.stem for path in OLDER.glob("*.json")} == {name for name, _, _ in RUNS} | {"retry"}


async def test_older_retry_waits_as_it_says(older: Bench, jobs: JobManager) -> None:
    flow = older.workflows.register(OLDER / "retry.json")
    job_id = await jobs.create_job(flow.id, start=True)
    for attempt, wait_s in ((1, 2), (2, 3)):
        await seen(jobs, job_id, "attempt.failed", attempt)
        older.clock.advance(wait_s)
    assert await final(jobs, job_id) == "COMPLETED"
    assert (await jobs.get_job(job_id)).outputs == {"attempts": 3}


async def test_inputs_that_an_older_definition_only_uses_must_be_given(older: Bench, jobs: JobManager) -> None:
    flow = older.workflows.register(OLDER / "readme.json")
    with pytest.raises(InvalidInputs, match="document"):
        await jobs.create_job(flow.id, {})
    with pytest.raises(InvalidInputs, match="documnt"):
        await jobs.create_job(flow.id, {"document": "a", "documnt": "b"})


async def test_inputs_are_checked_against_the_parameters_of_an_older_definition(older: Bench, jobs: JobManager) -> None:
    flow = older.workflows.register(OLDER / "parameters.json")
    for inputs, match in (({}, "text"), ({"text": 1}, "text"), ({"text": "a", "style": "quiet"}, "style")):
        with pytest.raises(InvalidInputs, match=match):
            await jobs.create_job(flow.id, inputs)


async def test_unconnected_steps_of_a_definition_with_connections_start_at_once(older: Bench, jobs: JobManager) -> None:
    steps = [
        {"id": "a", "component": "gate", "inputs": {"name": "a"}},
        {"id": "b", "component": "gate", "inputs": {"name": "b"}},
        {"id": "c", "component": "note", "inputs": {"value": 1}},
    ]
    flow = older.workflow(*steps, connections=[{"source": "a", "target": "c"}])
    job_id = await jobs.create_job(flow, start=True)
    await older.gate("a").wait_entered()
    await older.gate("b").wait_entered()
    older.gate("a").open()
    await seen(jobs, job_id, "step.completed", path="c")
    older.gate("b").open()
    assert await final(jobs, job_id) == "COMPLETED"
    events = await history(jobs, job_id)
    assert [event.data["path"] for event in events if event.type == "step.completed"] == ["a", "c", "b"]
