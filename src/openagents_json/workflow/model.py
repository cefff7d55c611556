"""The workflow model: what a JSON definition may say. Closed: an unknown field is a problem, never ignored.

This file gives the shape only. How text becomes a model is in `load`, what its steps wait for in `graph`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openagents_json.workflow import limits

Seconds = Annotated[float, Field(gt=0, le=limits.MAX_SECONDS, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, le=limits.MAX_SECONDS, allow_inf_nan=False)]
StepId = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=limits.ID_CHARACTERS)]
StepKind = Literal["component", "set", "foreach"]

KINDS: tuple[StepKind, ...] = ("component", "set", "foreach")
RESERVED_IDS = frozenset(
    {"inputs", "input", "steps", "item", "index", "iteration", "last", "job", "workflow", "error", "secrets"}
)
# What LANGUAGE.md promises and this release does not run yet. A definition that uses one is refused, never misread.
LATER_KINDS = ("repeat", "switch", "parallel", "wait", "signal", "workflow", "raise")
LATER_STEP_FIELDS = ("catch", "compensate", "continue_on_error", "fail_fast", "resources", "spread", "effect")
LATER_FIELDS = ("timeout", "concurrency", "connections")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Retry(_Model):
    """When a failed attempt is worth another. Delays in seconds; attempt n waits delay × multiplier^(n−1), capped."""

    max_attempts: int = Field(default=3, ge=1, le=limits.MAX_ATTEMPTS)
    delay_seconds: Delay = 1.0
    backoff_multiplier: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    max_delay_seconds: Delay = 300.0
    jitter: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    max_elapsed_seconds: Seconds | None = None
    on: list[str] | None = None
    not_on: list[str] = []


class Step(_Model):
    """A node of a workflow: exactly one of the keys in `KINDS`, and the fields that go with it."""

    id: StepId
    note: Any = None
    metadata: dict[str, Any] = {}

    component: str | None = None
    allow: list[str] | None = None
    inputs: dict[str, Any] = {}
    isolation: Literal["inline", "thread"] | None = None

    set: Any = None

    foreach: str | list[Any] | None = None
    steps: list[Step] = []
    concurrency: int | None = Field(default=None, ge=1, le=limits.FOREACH_ITEMS)
    on_item_error: Literal["fail", "skip", "collect"] = "fail"
    output: Any = None

    condition: str | bool | None = None
    needs: list[str] | None = None
    timeout: Seconds | None = None
    retry: Retry | None = None

    @cached_property
    def kind(self) -> StepKind:
        return next(kind for kind in KINDS if kind in self.model_fields_set)

    def has(self, field: str) -> bool:
        """Whether the definition says it, even with null (`"set": null` is a value)."""
        return field in self.model_fields_set


class Workflow(_Model):
    """A whole definition. Immutable; `content_hash` identifies it whatever its id and version say."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=limits.ID_CHARACTERS)]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$", max_length=100)] = (
        "1.0.0"
    )
    description: str = ""
    note: Any = None
    metadata: dict[str, Any] = {}
    priority: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"] | None = None
    inputs: dict[str, Any] = {"type": "object", "properties": {}}
    steps: list[Step] = Field(min_length=1)
    outputs: Any = None
    finally_: list[Step] = Field(default=[], alias="finally")

    document: dict[str, Any] = Field(exclude=True, default={})  # the canonical JSON this was made from

    @cached_property
    def encoded(self) -> bytes:
        """The document as canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the canonical document, in hex."""
        return hashlib.sha256(self.encoded).hexdigest()
