"""`concurrency` and `rate_limit` of components: what may be said, and what an attempt's inputs make of it."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json import ComponentRegistry
from openagents_json.components.limits import CONCURRENT_ATTEMPTS, RATE_SECONDS, RATE_TOKENS, ComponentLimit
from openagents_json.errors import ExpressionError, InvalidComponent
from openagents_json.job.engine.grants import caps_of
from openagents_json.job.store.grants import Cap
from openagents_json.workflow import limits


def registered(**options: Any) -> tuple[ComponentLimit, ...]:
    """The limits of a component with these options."""
    return ComponentRegistry().register(lambda host: host, "fetch", **options).limits


def test_limits_are_kept_as_they_are_said() -> None:
    assert registered() == ()
    assert registered(concurrency=4) == (ComponentLimit(4),)
    key = "{{ inputs.host }}"
    both = registered(rate_limit={"limit": 100, "per_seconds": 60, "key": key}, concurrency={"limit": 2, "key": key})
    assert both == (ComponentLimit(2, key), ComponentLimit(100, key, 60.0)), "concurrency first"
    assert [one.option for one in both] == ["concurrency", "rate_limit"]


def test_capabilities_have_limits_too() -> None:
    registry = ComponentRegistry()

    @registry.agent("text")
    class Text:
        @registry.capability(concurrency=3)
        async def sum_up(self, text: str) -> str:
            return text

    assert registry.get("text.sum_up").limits == (ComponentLimit(3),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "limit is 0; give a whole number from 1 to 10,000"),
        ({"concurrency": CONCURRENT_ATTEMPTS + 1}, "limit is 10001"),
        ({"concurrency": True}, "limit is True"),
        ({"concurrency": "many"}, "it is 'many'; give a mapping such as"),
        ({"concurrency": {"key": "{{ inputs.host }}"}}, "limit must be given"),
        ({"concurrency": {"limit": 1.5}}, "limit is 1.5"),
        ({"concurrency": {"limit": 1, "overflow": "reject"}}, "overflow is not known; there are limit, key"),
        ({"concurrency": {"limit": 1, "key": 7}}, "key is 7; give an expression such as '{{ inputs.host }}'"),
        ({"concurrency": {"limit": 1, "key": "{{ inputs. }}"}}, "key '{{ inputs. }}'"),
        ({"concurrency": {"limit": 1, "key": "host"}}, "it is the same for every attempt; leave it out"),
        ({"concurrency": {"limit": 1, "key": "{{ steps.a.output }}"}}, "`steps` cannot be used here"),
        ({"concurrency": {"limit": 1, "key": "{{ secrets.TOKEN }}"}}, "`secrets` cannot be used here"),
        ({"concurrency": {"limit": 1, "key": "{{ job.id }}"}}, "`job` cannot be used here"),
        ({"rate_limit": 100}, "it is 100; give a mapping such as"),
        ({"rate_limit": {"limit": 100}}, "per_seconds must be given"),
        ({"rate_limit": {"limit": RATE_TOKENS + 1, "per_seconds": 1}}, "limit is 1000001"),
        ({"rate_limit": {"limit": 1, "per_seconds": 0}}, "per_seconds is 0; give seconds from 0.001 to 86,400"),
        ({"rate_limit": {"limit": 1, "per_seconds": RATE_SECONDS + 1}}, "per_seconds is 86401"),
        ({"rate_limit": {"limit": 1, "per_seconds": float("nan")}}, "per_seconds is nan"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_when_it_is_registered(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidComponent) as caught:
        registered(**options)
    assert "component 'fetch'" in str(caught.value) and message in str(caught.value)


def test_key_is_worked_out_of_the_inputs() -> None:
    key = "{{ inputs.host }}"
    limits_of = registered(concurrency={"limit": 2, "key": key}, rate_limit={"limit": 5, "per_seconds": 0.5})
    assert caps_of("fetch", limits_of, {"host": "a b"}) == (
        Cap('concurrency fetch "a b"', 2),
        Cap("rate fetch", 5, 500_000),
    )
    first, _ = caps_of("fetch", limits_of, {"host": {"b": 1, "a": [None]}})
    assert (first.component, first.value) == ("fetch", {"a": [None], "b": 1})
    assert first.key == 'concurrency fetch {"a":[null],"b":1}', "the same value is the same text"


def test_key_without_a_value_or_with_too_long_a_one_is_an_error() -> None:
    limits_of = registered(rate_limit={"limit": 5, "per_seconds": 1, "key": "{{ inputs.host }}"})
    with pytest.raises(ExpressionError, match="`rate_limit` of component 'fetch' cannot be worked out") as caught:
        caps_of("fetch", limits_of, {})
    assert caught.value.code == "limit.key"
    longest = "x" * (limits.CONCURRENCY_KEY_CHARACTERS - 2)
    assert caps_of("fetch", limits_of, {"host": longest})
    with pytest.raises(ExpressionError, match="201 characters as JSON; 200 are allowed"):
        caps_of("fetch", limits_of, {"host": longest + "x"})
