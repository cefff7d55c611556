"""What expressions see in tests: `Given` holds plain values, frozen as the machine freezes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from openagents_json.errors import ExpressionError
from openagents_json.jsondata import freeze
from openagents_json.workflow.expressions import compile_condition, compile_template


class Given:
    """A `Names` over given values: `Given(inputs={…}, steps={"a": done(3)}, secrets={"KEY": "…"}, item=…)`."""

    def __init__(
        self, *, steps: dict[str, Any] | None = None, secrets: dict[str, str] | None = None, **values: Any
    ) -> None:
        self.values = {name: freeze(value) for name, value in values.items()}
        self.steps = freeze(steps or {})
        self.secrets = secrets or {}

    def value(self, name: str) -> Any:
        return self.values[name]

    def step(self, step_id: str) -> Mapping[str, Any]:
        step: Mapping[str, Any] = self.steps[step_id]
        return step

    def secret(self, name: str) -> str:
        return self.secrets[name]


def done(output: Any) -> dict[str, Any]:
    """What `steps.<id>` is after a success."""
    return {"output": output, "success": True, "status": "COMPLETED", "error": None}


SKIPPED = {"output": None, "success": False, "status": "SKIPPED", "error": None}


def value_of(source: Any, **given: Any) -> Any:
    """The rendered value of a template."""
    return compile_template(source).render(Given(**given))


def failure_of(source: Any, **given: Any) -> ExpressionError:
    """The error that compiling or rendering a template ends with."""
    with pytest.raises(ExpressionError) as caught:
        compile_template(source).render(Given(**given))
    return caught.value


def condition_of(source: Any, **given: Any) -> Any:
    """The value of a condition."""
    return compile_condition(source).render(Given(**given))
