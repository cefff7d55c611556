"""A model for tests: an OpenAI-compatible server on loopback that answers what the test says and keeps all requests.

It speaks real HTTP on 127.0.0.1, at a port of its own. What it answers is a function of the request, so that requests
that come at the same time get the answers meant for them.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeAlias


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Any

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]  # type: ignore[no-any-return]

    @property
    def prompt(self) -> str:
        """The content of the last message."""
        return str(self.messages[-1]["content"])

    @property
    def system(self) -> str:
        return str(self.messages[0]["content"])


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Model: TypeAlias = Callable[[Asked], Answer]
_numbers = itertools.count(1)


def says(content: Any) -> Answer:
    """A message of text; anything but a text is written as JSON."""
    return _completion({"role": "assistant", "content": content if isinstance(content, str) else json.dumps(content)})


def calls(*wanted: tuple[str, Any]) -> Answer:
    """A message that asks for tools: pairs of name and arguments; arguments that are a text stand as they are."""
    listed = [
        {
            "id": f"call_{next(_numbers)}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for name, given in wanted
    ]
    return _completion({"role": "assistant", "content": None, "tool_calls": listed})


def fails(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    """An error. Headers are given as `retry_after="3"`."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Answer({"error": {"message": message, "code": code}}, status, named)


def in_turn(*answers: Answer) -> Model:
    """One answer after the other; AssertionError (a 500 for the client) when they are used up."""
    left = iter(answers)
    lock = threading.Lock()

    def answer(asked: Asked) -> Answer:
        with lock:
            found = next(left, None)
        assert found is not None, f"nobody expected a request more: {asked.body}"
        return found

    return answer


def _completion(message: dict[str, Any]) -> Answer:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Answer({"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 7}})


class ModelServer:
    """The server; a context manager. Set `model` to what it should answer; posts to other paths are just remembered."""

    def __init__(self) -> None:
        self.model: Model = in_turn()
        self.requests: list[Asked] = []  # chat completions, as they came; appended by the server's threads
        self.posts: list[Asked] = []  # all other posts
        self.hook: Model = lambda asked: Answer({})  # what those get
        self.problems: list[str] = []  # what went wrong in here
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="model server")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> Answer:
        """Remember a request and find its answer."""
        is_chat = asked.path == "/v1/chat/completions"
        (self.requests if is_chat else self.posts).append(asked)
        try:
            answer = (self.model if is_chat else self.hook)(asked)
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
            return fails(500, "the script of the test failed")
        if is_chat and answer.status == 200 and isinstance(answer.body, dict):
            return Answer({**answer.body, "model": asked.body["model"]}, headers=answer.headers)
        return answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = server.answer(Asked(self.path, headers, json.loads(body)))
                content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
