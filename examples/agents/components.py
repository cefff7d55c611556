"""The components of the agent shapes: a model behind an OpenAI-compatible endpoint, tools, a search, a messenger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from jsonschema_rs import Draft202012Validator
from pydantic import Field
from typing_extensions import TypedDict

from examples.agents.arithmetic import calculate
from examples.agents.endpoint import post
from examples.agents.search import rank, read_passages
from openagents_json import FatalError, OpenAgentsApp, RetryableError, StepContext

app = OpenAgentsApp()

NETWORK_S = 60.0  # a thread cannot be killed, so its waits are bounded; the steps' timeouts are a little longer
CATALOGUE = {"kettle": (19.90, 12), "toaster": (34.50, 0), "teapot": (12.00, 3)}

Message = dict[str, Any]


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Call(TypedDict):
    """A tool that the model wants to call. `arguments` is what it wrote: an object, or a text if that was no JSON."""

    id: str
    name: str
    arguments: Any


class Reply(TypedDict):
    """What the model said: text, or calls, or both. `message` is its message as it goes back into the conversation."""

    content: str
    calls: list[Call]
    message: Message
    model: str
    tokens: int


@app.tool("llm.chat", tags=["llm"])
def chat(
    context: StepContext, base_url: str, api_key: str, model: str, messages: list[Message], tools: tuple[str, ...] = ()
) -> Reply:
    """Ask a model for the next message of a conversation.

    `tools` are names of components that it may ask for; it is told what they take. Errors: see `endpoint`, and
    `llm.bad_answer` (worth another attempt) when the answer is no chat completion.
    """
    body: dict[str, Any] = {"model": model, "messages": messages}
    names = {_api_name(name): name for name in tools}
    if tools:
        body["tools"] = [_described(name) for name in tools]
    return _ask(context, base_url, api_key, body, names)


@app.tool("llm.json", tags=["llm"])
def ask_for_json(
    context: StepContext, base_url: str, api_key: str, model: str, messages: list[Message], schema: dict[str, Any]
) -> Any:
    """Ask a model for JSON of a schema, and return it.

    An answer that is none, or does not fit, is `llm.bad_answer`: worth another attempt.
    """
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = {"model": model, "messages": messages, "response_format": wanted}
    content = _ask(context, base_url, api_key, body, {})["content"]
    try:
        answer = json.loads(content)
    except ValueError:
        raise RetryableError("llm.bad_answer", "The model was asked for JSON and gave something else.") from None
    problem = next(iter(Draft202012Validator(schema, offline=True, mask="the value").iter_errors(answer)), None)
    if problem is not None:
        raise RetryableError("llm.bad_answer", f"The model's JSON does not fit: {problem.message}")
    return answer


def _ask(context: StepContext, base_url: str, api_key: str, body: dict[str, Any], names: dict[str, str]) -> Reply:
    headers = {"Authorization": f"Bearer {api_key}", "Idempotency-Key": context.idempotency_key}
    content = post(f"{base_url.rstrip('/')}/chat/completions", body, headers, NETWORK_S)
    try:
        answer = json.loads(content)
        message = answer["choices"][0]["message"]
        calls = [_call(call, names) for call in message.get("tool_calls") or []]
        return {
            "content": message.get("content") or "",
            "calls": calls,
            "message": message,
            "model": answer.get("model", body["model"]),
            "tokens": (answer.get("usage") or {}).get("total_tokens", 0),
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise RetryableError("llm.bad_answer", "The endpoint's answer is no chat completion.") from None


def _call(call: dict[str, Any], names: dict[str, str]) -> Call:
    name, written = call["function"]["name"], call["function"]["arguments"]
    try:
        arguments = json.loads(written)
    except ValueError:
        arguments = written  # the tool will say that this is no object, and the model will read it
    return {"id": call["id"], "name": names.get(name, name), "arguments": arguments}


def _api_name(component: str) -> str:
    """The API allows no dots in the names of tools."""
    return component.replace(".", "_")


def _described(name: str) -> dict[str, Any]:
    """A tool as the API wants it: its description, and the schema of its input `arguments`."""
    component = app.components.get(name)
    schema = component.input_schema
    arguments = schema["properties"]["arguments"]
    parameters = schema["$defs"][arguments["$ref"].rpartition("/")[2]]
    function = {"name": _api_name(name), "description": component.description, "parameters": parameters}
    return {"type": "function", "function": function}


# ── tools that a model may pick ───────────────────────────────────────────────────────────────────────────────────


class Find(TypedDict):
    """What to look for."""

    name: Annotated[str, Field(description="The product, in the singular, such as kettle")]


class Calculation(TypedDict):
    """What to work out."""

    expression: Annotated[str, Field(description="Numbers, + - * / and parentheses")]


class Product(TypedDict):
    """A product of the shop."""

    name: str
    price: float
    in_stock: int


@app.tool("shop.find", tags=["tool"], isolation="inline")
def find(arguments: Find) -> Product:
    """Look up a product: its price and how many are in stock."""
    name = arguments["name"].strip().lower()
    if name not in CATALOGUE:
        raise FatalError("shop.unknown_product", f"There is no {name!r}; there are: {', '.join(sorted(CATALOGUE))}.")
    price, in_stock = CATALOGUE[name]
    return {"name": name, "price": price, "in_stock": in_stock}


@app.tool("shop.calculate", tags=["tool"], isolation="inline")
def work_out(arguments: Calculation) -> float:
    """Work out an arithmetic expression."""
    try:
        return calculate(arguments["expression"])
    except ValueError as error:
        raise FatalError("shop.no_result", f"{error}.") from None


class Refund(TypedDict):
    """Money that was given back."""

    order: str
    amount: float


@app.tool("shop.refund", isolation="inline")
def refund(order: str, amount: float) -> Refund:
    """Give money back. No agent's `allow` lists it: only a person's approval leads here."""
    return {"order": order, "amount": amount}


# ── a folder of texts, and people ─────────────────────────────────────────────────────────────────────────────────


class Found(TypedDict):
    """A passage that fits the question; `number` counts from 1, `source` is `path:line`."""

    number: int
    source: str
    score: float
    text: str


@app.tool("docs.search", tags=["docs"])
def search(folder: str, query: str, top: Annotated[int, Field(ge=1, le=50)] = 4) -> list[Found]:
    """The passages of a folder's text files that fit a question best, ranked by BM25.

    Fails for good with `docs.no_folder` if it is no folder.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FatalError("docs.no_folder", f"{folder!r} is not a folder.")
    ranked = rank(read_passages(root), query, top)
    return [
        {"number": number, "source": passage.source, "score": round(score, 3), "text": passage.text}
        for number, (score, passage) in enumerate(ranked, 1)
    ]


@app.tool("people.tell", tags=["people"])
def tell(context: StepContext, text: str, webhook: str) -> None:
    """Tell people something: post `{"text": …}` to a chat's webhook; if that is empty, write it to the log."""
    if webhook:
        post(webhook, {"text": text}, {"Idempotency-Key": context.idempotency_key}, NETWORK_S)
    else:
        context.logger.info("to people: %s", text)
