"""The agent shapes, end to end: real HTTP to a model on loopback, both stores, what was sent and what is recorded."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from examples.agents.arithmetic import calculate
from examples.agents.components import app, tell
from examples.agents.endpoint import post, retry_after_s
from examples.agents.search import Passage, rank, read_passages
from openagents_json import FatalError, Job, JobManager, RetryableError, StepContext, StepFailure, check
from tests.engine.support import Bench, final, history, seen, types
from tests.examples.conftest import KEY
from tests.examples.model_server import Answer, Asked, ModelServer, calls, fails, in_turn, says

FOLDER = Path(__file__).parents[2] / "examples" / "agents"
SHAPES = sorted(path for path in FOLDER.glob("*.json") if "steps" in path.read_text())


async def start(bench: Bench, jobs: JobManager, server: ModelServer, shape: str, **inputs: Any) -> str:
    """Start a job of a shape; its id."""
    workflow = bench.workflows.register(FOLDER / f"{shape}.json")
    return await jobs.create_job(workflow.id, {"base_url": server.base_url, **inputs}, start=True)


async def ended(jobs: JobManager, job_id: str, status: str = "COMPLETED") -> Job:
    """The job once it is final. Its secrets stand nowhere in what is recorded or shown."""
    assert await final(jobs, job_id) == status
    job = await jobs.get_job(job_id)
    recorded = str([event.as_dict() for event in await history(jobs, job_id)])
    assert "canary" not in recorded + str(job) + str(await jobs.get_job_status(job_id))
    return job


def models(server: ModelServer) -> list[str]:
    return [asked.body["model"] for asked in server.requests]


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_check_finds_nothing_to_say_about_the_shape(path: Path) -> None:
    assert check(path, app.components) == []


def test_there_are_six_shapes() -> None:
    assert len(SHAPES) == 6


# ── a loop with tools ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_agent_picks_tools_by_name_and_answers_with_what_they_gave(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = in_turn(
        calls(("shop_find", {"name": "Kettle"}), ("shop_find", {"name": "teapot"})),
        calls(("shop_calculate", {"expression": "2 * 19.90 + 12"})),
        says("Together they cost 51.80."),
    )
    job = await ended(jobs, await start(bench, jobs, server, "tool_loop", question="Two kettles and a teapot?"))
    assert job.outputs == {"answer": "Together they cost 51.80.", "messages": 8}
    first, second, third = server.requests
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert [message["role"] for message in first.messages] == ["system", "user"]
    assert first.prompt == "Two kettles and a teapot?"
    assert [tool["function"]["name"] for tool in first.body["tools"]] == ["shop_find", "shop_calculate"]
    find = first.body["tools"][0]["function"]
    assert "price" in find["description"] and find["parameters"]["required"] == ["name"]
    asked_for, kettle, teapot = second.messages[-3:]
    assert [call["id"] for call in asked_for["tool_calls"]] == [kettle["tool_call_id"], teapot["tool_call_id"]]
    assert json.loads(kettle["content"]) == {"name": "kettle", "price": 19.9, "in_stock": 12}
    assert json.loads(third.prompt) == pytest.approx(51.8)
    assert {"loop[0].act[1].use", "loop[1].act[0].use", "loop[2].think"} <= set(job.steps)


async def test_agent_reads_its_errors_and_goes_on(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    server.model = in_turn(
        calls(("shop.refund", {"order": "7", "amount": 1000})),
        calls(("shop_find", {"product": "kettle"}), ("shop_find", '{"name": ')),
        calls(("shop_find", {"name": "samovar"}), ("shop_calculate", {"expression": "__import__('os')"})),
        says("I cannot help you."),
    )
    job = await ended(jobs, await start(bench, jobs, server, "tool_loop", question="Give me my money back!"))
    assert job.outputs is not None and job.outputs["answer"] == "I cannot help you."
    told = [json.loads(one["content"]) for one in server.requests[-1].messages if one["role"] == "tool"]
    assert [one["error"] for one in told] == [
        "component.not_allowed",
        "input.invalid",
        "input.invalid",
        "shop.unknown_product",
        "shop.no_result",
    ]
    assert "shop.find, shop.calculate" in told[0]["message"] and "name" in told[1]["message"]
    assert "there are: kettle" in told[3]["message"]
    assert job.errors == () and "attempt.started" in await types(jobs, job.id)


async def test_agent_that_never_stops_is_made_to_answer_without_tools(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    def model(asked: Asked) -> Answer:
        return calls(("shop_find", {"name": "kettle"})) if "tools" in asked.body else says("It costs 19.90.")

    server.model = model
    job = await ended(jobs, await start(bench, jobs, server, "tool_loop", question="What is a kettle?"))
    assert job.outputs == {"answer": "It costs 19.90.", "messages": 14}
    assert len(server.requests) == 7
    assert server.requests[-1].prompt.startswith("Answer now")


async def test_agent_goes_on_in_another_worker_with_the_same_conversation(
    bench: Bench, server: ModelServer, jobs: JobManager
) -> None:
    server.model = in_turn(
        calls(("shop_find", {"name": "kettle"})), fails(503, retry_after="60"), says("It costs 19.90.")
    )
    job_id = await start(bench, jobs, server, "tool_loop", question="What is a kettle?")
    await seen(jobs, job_id, "job.waiting")
    await bench.pass_time(61)
    job = await ended(jobs, job_id)
    assert job.outputs == {"answer": "It costs 19.90.", "messages": 5}
    assert server.requests[1].messages == server.requests[2].messages
    keys = [asked.headers["idempotency-key"] for asked in server.requests]
    assert keys[1] == keys[2] != keys[0]


# ── plan, write, review, revise ───────────────────────────────────────────────────────────────────────────────────


def planning(*verdicts: dict[str, Any]) -> Any:
    """A model that plans two parts, writes them, and judges as the verdicts say."""
    reviews = in_turn(*map(says, verdicts))

    def model(asked: Asked) -> Answer:
        if asked.system.startswith("Cut"):
            return says({"parts": ["the sea", "the land"]})
        if asked.system.startswith("Write"):
            return says(f"<{asked.prompt}>")
        is_critic = asked.system.startswith("You are a strict")
        return reviews(asked) if is_critic else says(f"better than {asked.prompt[:9]}")

    return model


async def test_parts_are_written_at_once_and_revised_until_the_critic_approves(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = planning({"approved": False, "remarks": ["shorter", "louder"]}, {"approved": True, "remarks": []})
    job = await ended(jobs, await start(bench, jobs, server, "plan_and_review", task="a poem"))
    assert job.outputs == {"text": "better than <Part 1: ", "approved": True, "parts": ["the sea", "the land"]}
    plan, *writing, review, revise, again = server.requests
    assert plan.body["response_format"]["json_schema"]["schema"]["required"] == ["parts"]
    assert {asked.prompt for asked in writing} == {"Part 1: the sea", "Part 2: the land"}
    assert review.prompt == "<Part 1: the sea>\n\n<Part 2: the land>"
    assert revise.prompt == f"{review.prompt}\n\nThe critic says:\n- shorter\n- louder\n"
    assert again.prompt == "better than <Part 1: "
    assert job.steps["polish[1].revise"]["status"] == "SKIPPED"


async def test_text_that_the_critic_never_likes_is_given_out_as_not_approved(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = planning(*[{"approved": False, "remarks": []}] * 3)
    job = await ended(jobs, await start(bench, jobs, server, "plan_and_review", task="a poem"))
    assert job.outputs is not None and job.outputs["approved"] is False
    assert job.steps["polish"]["iterations"] == 3


async def test_plan_that_does_not_fit_its_schema_is_asked_for_again(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    good = planning({"approved": True, "remarks": []})
    bad = iter([says("I would rather not."), says({"parts": []})])
    server.model = lambda asked: next(bad, None) or good(asked)
    job_id = await start(bench, jobs, server, "plan_and_review", task="a poem")
    for count, delay_s in enumerate((2, 4), 1):
        failed = await seen(jobs, job_id, "attempt.failed", count=count)
        assert failed.data["error"]["type"] == "llm.bad_answer"
        await bench.pass_time(delay_s + 1)
    assert (await ended(jobs, job_id)).steps["plan"]["attempt"] == 3


# ── retrieval ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_answer_names_the_passages_it_used_and_no_others(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = in_turn(says({"answer": "With vinegar.", "used": [1, 99]}))
    question = "How do I remove lime from a kettle?"
    inputs = {"question": question, "folder": str(FOLDER / "notes"), "top": 2}
    job = await ended(jobs, await start(bench, jobs, server, "retrieval", **inputs))
    assert job.outputs == {"answer": "With vinegar.", "sources": ["kettles.md:5"]}
    [asked] = server.requests
    assert asked.prompt.startswith("[1] Lime is removed with vinegar") and asked.prompt.endswith(question)
    assert "[2] " in asked.prompt and "[3] " not in asked.prompt


async def test_model_is_not_asked_when_nothing_is_found(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    inputs = {"question": "Quantenchromodynamik?", "folder": str(FOLDER / "notes")}
    job = await ended(jobs, await start(bench, jobs, server, "retrieval", **inputs))
    assert job.outputs == {"answer": "Nothing in the folder speaks of that.", "sources": []}
    assert server.requests == [] and job.steps["answer"]["status"] == "SKIPPED"


async def test_folder_that_is_not_there_fails_the_job(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    job_id = await start(bench, jobs, server, "retrieval", question="?", folder=str(FOLDER / "nowhere"))
    assert (await ended(jobs, job_id, "FAILED")).errors[0]["type"] == "docs.no_folder"


# ── approval ──────────────────────────────────────────────────────────────────────────────────────────────────────

REFUND = {"order": "A-7", "amount": 120.5, "letter": "It broke."}


async def asking(bench: Bench, jobs: JobManager, server: ModelServer) -> str:
    """A refund that waits for its approval."""
    server.model = in_turn(says("It broke; fair."))
    job_id = await start(bench, jobs, server, "approval", **REFUND)
    await seen(jobs, job_id, "job.waiting")
    return job_id


async def test_refund_waits_for_a_person_and_is_paid_when_approved(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    job_id = await asking(bench, jobs, server)
    assert (await jobs.get_summary(job_id)).status == "WAITING"
    [wait] = (await jobs.get_job_status(job_id))["waiting_for"]
    assert (wait["kind"], wait["signal"]) == ("signal", "approval")
    [told] = server.posts
    assert told.body == {"text": f"Refund 120.5 for order A-7? It broke; fair. (job {job_id})"}
    assert "authorization" not in told.headers
    await jobs.signal(job_id, "approval", {"approved": True, "by": "anna"})
    job = await ended(jobs, job_id)
    refund = {"order": "A-7", "amount": 120.5}
    assert job.outputs == {"approved": True, "by": "anna", "escalated": False, "refund": refund}


@pytest.mark.parametrize("approved", [True, False])
async def test_another_person_is_asked_when_the_first_does_not_answer(
    bench: Bench, jobs: JobManager, server: ModelServer, approved: bool
) -> None:
    job_id = await asking(bench, jobs, server)
    await bench.pass_time(4 * 3600 + 1)
    await seen(jobs, job_id, "job.waiting", count=2)
    assert [told.body["text"].split(":")[0] for told in server.posts][1:] == ["Nobody has answered"]
    await jobs.signal(job_id, "approval", {"approved": approved, "by": "the boss"})
    job = await ended(jobs, job_id)
    assert job.outputs is not None
    assert (job.outputs["approved"], job.outputs["by"], job.outputs["escalated"]) == (approved, "the boss", True)
    assert (job.outputs["refund"] is not None) == approved


async def test_refund_is_refused_when_nobody_answers_at_all(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    job_id = await asking(bench, jobs, server)
    await bench.pass_time(4 * 3600 + 1)
    await seen(jobs, job_id, "job.waiting", count=2)
    await bench.pass_time(20 * 3600 + 1)
    job = await ended(jobs, job_id)
    assert job.outputs == {"approved": False, "by": "nobody in time", "escalated": True, "refund": None}
    assert job.steps["refund"]["status"] == "SKIPPED"


# ── fallback ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_busy_model_is_asked_again_when_it_says_and_then_the_next_one(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    a_week = "604800"
    server.model = in_turn(
        *[fails(429, "slow down", retry_after="7")] * 3, fails(429, "tomorrow", retry_after=a_week), says("42")
    )
    job_id = await start(bench, jobs, server, "fallback", question="6 * 7?", models=["a", "b", "c"])
    for count in (1, 2):
        failed = await seen(jobs, job_id, "attempt.failed", count=count)
        assert failed.data["retry_at_us"] - failed.at_us == 7_000_000
        await seen(jobs, job_id, "job.waiting", count=count)
        assert len(server.requests) == count
        await bench.pass_time(8)
    job = await ended(jobs, job_id)
    assert models(server) == ["a", "a", "a", "b", "c"]
    assert job.outputs == {"answer": "42", "model": "c", "why_not_the_first": "The endpoint answered 429: slow down"}
    paths = ["first", "first[catch0].second", "first[catch0].second[catch0].third"]
    assert list(job.steps) == paths and job.errors == ()


async def test_account_without_money_goes_to_the_next_model_at_once(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = in_turn(fails(429, "pay first", "insufficient_quota"), says("42"))
    job = await ended(jobs, await start(bench, jobs, server, "fallback", question="6 * 7?", models=["a", "b", "c"]))
    assert models(server) == ["a", "b"]
    assert job.outputs is not None and job.outputs["model"] == "b"


async def test_chain_fails_with_the_last_error_when_all_models_are_busy(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = lambda asked: fails(429, f"{asked.body['model']} is busy", retry_after="3600")
    job_id = await start(bench, jobs, server, "fallback", question="6 * 7?", models=["a", "b", "c"])
    job = await ended(jobs, job_id, "FAILED")
    assert models(server) == ["a", "b", "c"]
    assert [error["message"] for error in job.errors] == ["The endpoint answered 429: c is busy"]


async def test_error_that_is_no_rate_limit_asks_no_other_model_and_shows_no_key(
    bench: Bench, jobs: JobManager, server: ModelServer
) -> None:
    server.model = lambda asked: fails(401, f"wrong key: {asked.headers['authorization']}")
    job_id = await start(bench, jobs, server, "fallback", question="6 * 7?", models=["a", "b", "c"])
    job = await ended(jobs, job_id, "FAILED")
    [error] = job.errors
    assert (error["type"], error["message"]) == ("http.401", "The endpoint answered 401: wrong key: Bearer ***")
    assert models(server) == ["a"]


# ── a nightly batch ───────────────────────────────────────────────────────────────────────────────────────────────

TICKETS = [{"id": f"T-{number}", "text": text} for number, text in enumerate(["where", "broken", "rude", "two more"])]


def sorting(asked: Asked) -> Answer:
    """Sorts tickets, refuses to read one and chokes on another."""
    if asked.prompt == "rude":
        return fails(400, "that is not nice")
    return says({"kind": "order", "urgent": asked.prompt == "two more"}) if asked.prompt != "broken" else fails(422)


async def test_batch_starts_at_night_and_lists_what_failed(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    server.model = sorting
    workflow = bench.workflows.register(FOLDER / "nightly.json")
    inputs = {"base_url": server.base_url, "tickets": TICKETS}
    at_night = bench.clock.now() + timedelta(hours=8)
    job_id = await jobs.create_job(workflow.id, inputs, start_at=at_night, idempotency_key="nightly 2026-01-01")
    await bench.clock.wait_sleepers(1)
    await bench.pass_time(8 * 3600 - 1)
    assert (await jobs.get_summary(job_id)).status == "CREATED" and server.requests == []
    await bench.pass_time(2)
    job = await ended(jobs, job_id)
    assert job.priority == "LOW"
    assert job.outputs is not None
    assert job.outputs["sorted"] == [
        {"ticket": "T-0", "kind": "order", "urgent": False},
        {"ticket": "T-3", "kind": "order", "urgent": True},
    ]
    assert [(one["ticket"], one["type"]) for one in job.outputs["failed"]] == [("T-1", "http.422"), ("T-2", "http.400")]
    [told] = server.posts
    assert told.body["text"] == "2 tickets sorted, 2 failed\n- T-1: http.422\n- T-2: http.400"
    assert Counter(asked.prompt for asked in server.requests) == Counter(ticket["text"] for ticket in TICKETS)


async def test_batch_is_done_even_if_nobody_can_be_told(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    server.model = sorting
    server.hook = lambda asked: fails(404)
    job = await ended(jobs, await start(bench, jobs, server, "nightly", tickets=TICKETS))
    assert job.outputs is not None and job.outputs["told"] is False and len(job.outputs["sorted"]) == 2
    assert job.steps["tell"]["error"]["type"] == "http.404"


async def test_batch_in_which_all_failed_has_failed(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    server.model = lambda asked: fails(400, "no")
    job = await ended(jobs, await start(bench, jobs, server, "nightly", tickets=TICKETS), "FAILED")
    assert job.errors[0]["type"] == "batch.failed" and "None of 4 tickets" in job.errors[0]["message"]


async def test_batch_without_tickets_is_done(bench: Bench, jobs: JobManager, server: ModelServer) -> None:
    job = await ended(jobs, await start(bench, jobs, server, "nightly", tickets=[]))
    assert job.outputs == {"sorted": [], "failed": [], "told": True}


def test_message_without_a_webhook_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tell(StepContext.for_tests(), "the tea is ready", "")
    assert caplog.messages == ["to people: the tea is ready"]


# ── the endpoint ──────────────────────────────────────────────────────────────────────────────────────────────────

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Thu, 01 Jan 2026 12:01:30 GMT", 90.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("9" * 400, 86_400.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_time(value: str | None, expected: float | None) -> None:
    assert retry_after_s(value, NOW) == expected


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (fails(500), RetryableError, "http.500"),
        (fails(503, retry_after="nonsense"), RetryableError, "http.503"),
        (fails(408), RetryableError, "http.408"),
        (fails(404), FatalError, "http.404"),
        (fails(302, location="http://127.0.0.1:1/"), FatalError, "http.302"),
        (Answer(b"<html>", 502), RetryableError, "http.502"),
        (Answer([1], 400), FatalError, "http.400"),
    ],
)
def test_error_statuses_become_typed_errors(
    server: ModelServer, answer: Answer, kind: type[StepFailure], code: str
) -> None:
    server.hook = lambda asked: answer
    with pytest.raises(kind) as caught:
        post(f"{server.address}/x", {}, {}, 10)
    assert caught.value.code == code
    assert len(server.posts) == 1


def test_endpoint_that_is_not_there_is_worth_another_attempt() -> None:
    with ModelServer() as gone:
        address = gone.address
    with pytest.raises(RetryableError) as caught:
        post(address, {}, {}, 10)
    assert caught.value.code == "http.unreachable"


def test_endpoint_that_never_answers_is_given_up(server: ModelServer) -> None:
    over = threading.Event()
    server.hook = lambda asked: Answer({"over": over.wait(10)})
    with pytest.raises(RetryableError) as caught:
        post(server.address, {}, {}, 0.05)
    over.set()
    assert caught.value.code == "http.timeout"


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/", "localhost:1", ""])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(FatalError, match="http://"):
        post(url, {}, {}, 10)


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
async def test_answer_that_is_no_chat_completion_is_worth_another_attempt(
    bench: Bench, jobs: JobManager, server: ModelServer, body: bytes
) -> None:
    server.model = lambda asked: Answer(body) if len(server.requests) == 1 else says("there")
    job_id = await start(bench, jobs, server, "tool_loop", question="?")
    failed = await seen(jobs, job_id, "attempt.failed")
    assert failed.data["error"]["type"] == "llm.bad_answer"
    await bench.pass_time(3)
    assert (await ended(jobs, job_id)).outputs == {"answer": "there", "messages": 3}


# ── searching and reckoning ───────────────────────────────────────────────────────────────────────────────────────


def test_rare_words_count_more_and_short_passages_win() -> None:
    texts = ["the cat", "the dog sat on the long red mat of the house", "the dog", "the the the"]
    passages = [Passage(f"{number}.txt:1", text) for number, text in enumerate(texts)]
    assert [passage.source for _, passage in rank(passages, "The dog?", 10)][:2] == ["2.txt:1", "1.txt:1"]
    assert [passage.source for _, passage in rank(passages, "cat", 10)] == ["0.txt:1"]
    assert rank(passages, "bird", 10) == rank([], "cat", 10) == []


def test_passages_are_the_paragraphs_of_text_files_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("\n# Head\n\none\n  two\n\n\nthree")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe no text\n")
    (tmp_path / "c.bin").write_text("not read")
    found = [(passage.source, passage.text) for passage in read_passages(tmp_path)]
    assert found[1:] == [("deep/b.md:2", "# Head"), ("deep/b.md:4", "one two"), ("deep/b.md:8", "three")]
    assert found[0][0] == "a.txt:1"


@pytest.mark.parametrize(
    ("expression", "value"), [("1 + 2 * 3", 7.0), ("-(2 - 5) / 2", 1.5), (" 3 * 19.90 ", pytest.approx(59.7))]
)
def test_arithmetic(expression: str, value: float) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "1 / 0",
        "2 ** 9",
        "a",
        "f(1)",
        "True + 1",
        "'a' * 3",
        "1e308 * 10 - 1e309",
        "(" * 190,
        "1" * 201,
        "1j",
    ],
)
def test_what_is_no_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        calculate(expression)
