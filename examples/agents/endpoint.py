"""Posting JSON to an HTTP endpoint, with the standard library only; what goes wrong becomes a typed error.

429, 5xx, 408            RetryableError("http.CODE"), with the server's Retry-After as its delay
429 insufficient_quota   FatalError("http.429"): waiting brings no money
any other status         FatalError("http.CODE"); redirects too, since a key must not follow them elsewhere
no answer                RetryableError("http.unreachable") or RetryableError("http.timeout")
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError

from openagents_json import FatalError, RetryableError, StepFailure

ANSWER_BYTES = 8 * 1024 * 1024
MESSAGE_CHARACTERS = 300
LONGEST_DELAY_S = 24 * 3600.0


def post(url: str, body: Any, headers: Mapping[str, str], timeout_s: float) -> bytes:
    """The body of the answer. `timeout_s` bounds each wait for the network. Errors as said at the top."""
    if not url.startswith(("http://", "https://")):
        raise FatalError("http.bad_url", "The address of an endpoint begins with http:// or https://.")
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirects()).open(request, timeout=timeout_s) as answer:
            content: bytes = answer.read(ANSWER_BYTES + 1)
    except HTTPError as error:
        with error:
            raise failure(error.code, error.headers, error.read(ANSWER_BYTES), datetime.now(UTC)) from None
    except TimeoutError:
        raise RetryableError("http.timeout", f"There was no answer for {timeout_s:g} s.") from None
    except (URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise RetryableError("http.timeout", f"There was no connection for {timeout_s:g} s.") from None
        raise RetryableError("http.unreachable", f"The endpoint gave no answer: {reason}") from None
    if len(content) > ANSWER_BYTES:
        raise FatalError("http.too_large", f"The answer has more than {ANSWER_BYTES:,} bytes.")
    return content


def failure(status: int, headers: Message, content: bytes, now: datetime) -> StepFailure:
    """The error that stands for an answer with an error status; `now` is for a Retry-After that names a time."""
    code, message = _said(content)
    text = f"The endpoint answered {status}: {message}" if message else f"The endpoint answered {status}."
    if status == 408 or status >= 500 or (status == 429 and code != "insufficient_quota"):
        return RetryableError(f"http.{status}", text, retry_after_s(headers.get("Retry-After"), now))
    return FatalError(f"http.{status}", text)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for, in seconds from 0 to a day; None if it says nothing that can be read."""
    if value is None:
        return None
    try:
        delay_s = float(value) if value.strip().isdecimal() else (parsedate_to_datetime(value) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date; a date without a zone
        return None
    return min(max(delay_s, 0.0), LONGEST_DELAY_S)


def _said(content: bytes) -> tuple[str, str]:
    """The code and the message of an error body, `{"error": {"code", "message"}}`; empty where it has none."""
    try:
        error = json.loads(content)["error"]
        return str(error.get("code") or ""), str(error.get("message") or "")[:MESSAGE_CHARACTERS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
