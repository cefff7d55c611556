"""When a failed attempt is worth another, and after how long. Pure arithmetic."""

from __future__ import annotations

from openagents_json.job.model import ErrorInfo
from openagents_json.workflow import limits
from openagents_json.workflow.model import Retry


def matches(error_type: str, prefix: str) -> bool:
    """Dotted types match by prefix: `http` takes `http.429`, but not `https`."""
    return error_type == prefix or error_type.startswith(prefix + ".")


def is_retryable(policy: Retry, error: ErrorInfo) -> bool:
    """What the error itself says comes first, then `on` and `not_on`."""
    if error["retryable"] is False or any(matches(error["type"], prefix) for prefix in policy.not_on):
        return False
    if error["retryable"] is True or policy.on is None:
        return True
    return any(matches(error["type"], prefix) for prefix in policy.on)


def backoff_s(policy: Retry, attempt: int, random: float) -> float:
    """Seconds to wait after failed attempt number `attempt` (1…).

    delay × multiplier^(attempt−1), at most max_delay, then moved by up to ± jitter of itself; `random` is in [0, 1).
    """
    if policy.delay_seconds == 0:
        return 0.0
    exponent = min(attempt - 1, 64)  # past this every multiplier above 1.1 is over any allowed delay
    delay = min(policy.delay_seconds * policy.backoff_multiplier**exponent, policy.max_delay_seconds)
    return delay * (1 + policy.jitter * (2 * random - 1))


def next_delay_s(
    policy: Retry | None, error: ErrorInfo, attempt: int, elapsed_s: float, random: float, asked_s: float | None = None
) -> float | None:
    """Seconds until the next attempt, or None when there is none.

    `elapsed_s` counts from the start of the first attempt; `asked_s` is what the error itself asked for (Retry-After)
    and lengthens the wait.
    """
    if policy is None or attempt >= policy.max_attempts or not is_retryable(policy, error):
        return None
    asked_s = min(asked_s, limits.MAX_SECONDS) if asked_s is not None and asked_s > 0 else 0.0  # it may even be NaN
    delay = max(backoff_s(policy, attempt, random), asked_s)
    if policy.max_elapsed_seconds is not None and elapsed_s + delay > policy.max_elapsed_seconds:
        return None
    return delay
