"""Resources: named, counted things that steps occupy while they run, such as `cpu`, `gpu` or `browser`.

Amounts are written as numbers and counted in whole thousandths, so that nothing drifts however often they are taken
and given back: what a step needs is rounded up, what a worker has is rounded down.

A **requirement** is what a job in the queue asks of a worker, as one text: the name of a component, and behind it what
a call of it occupies, if anything: `fetch` or `train {"gpu":2}`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

UNIT = 1_000  # thousandths in one
MAX_AMOUNT = 1e9
NAME_CHARACTERS = 100
NEEDED_RESOURCES = 8  # that one component, or one step, names
OFFERED_RESOURCES = 64  # that one worker names
MAX_REQUIRED = 64
REQUIRED_CHARACTERS = 2_000
NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"

STEPS, THREADS, PROCESSES = "steps", "threads", "processes"  # each step takes 1; also 1 if it runs in one of those
CPU, MEMORY_MB = "cpu", "memory_mb"  # cores, MiB
CPU_S = "cpu_s"  # seconds of CPU time: a limit of one call in a process, which nothing is occupied of
BUILT_IN = (CPU, MEMORY_MB, STEPS, THREADS, PROCESSES)  # every worker has some of these

_NAME = re.compile(NAME)


def problem_with(resources: Mapping[Any, Any], most: int) -> str | None:
    """What is wrong with names and amounts of resources, as the end of a sentence ("The resources of X …")."""
    if len(resources) > most:
        return f"name {len(resources)} resources; at most {most} are allowed."
    for name, amount in resources.items():
        if not isinstance(name, str) or len(name) > NAME_CHARACTERS or not _NAME.fullmatch(name):
            shown = repr(name)[:NAME_CHARACTERS]
            return f"have the name {shown}; a name is letters, digits, '_', '-' and '.', such as gpu."
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= MAX_AMOUNT:
            return f"say {name} = {amount!r}; an amount is a number from 0 to {MAX_AMOUNT:,.0f}."
    return None


def needed(amount: float) -> int:
    """The thousandths of what is needed, rounded up."""
    return math.ceil(Decimal(repr(amount)) * UNIT)


def had(amount: float) -> int:
    """The thousandths of what there is, rounded down."""
    return math.floor(Decimal(repr(amount)) * UNIT)


def amount_of(units: int) -> float:
    """The reverse; a whole number is an `int`."""
    return units // UNIT if units % UNIT == 0 else units / UNIT


def occupied(resources: Mapping[str, float]) -> dict[str, int]:
    """What a call with these resources occupies, in thousandths, without what it needs nothing of."""
    return {name: needed(amount) for name, amount in resources.items() if amount > 0 and name != CPU_S}


# ── requirements ──────────────────────────────────────────────────────────────────────────────────────────────────


def requirement(component: str, needs: Mapping[str, int]) -> str:
    """A worker is required that has this component, and so much (thousandths) of these resources."""
    if not needs:
        return component
    amounts = {name: amount_of(units) for name, units in sorted(needs.items())}
    return f"{component} {json.dumps(amounts, separators=(',', ':'))}"


@functools.lru_cache(maxsize=4_096)
def parts_of(required: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The component of a requirement, and what a call occupies, as (name, thousandths)."""
    component, _, amounts = required.partition(" ")
    return component, tuple((name, needed(amount)) for name, amount in json.loads(amounts or "{}").items())


def components_of(required: Iterable[str]) -> list[str]:
    """The components that requirements name, in their order."""
    return list(dict.fromkeys(parts_of(one)[0] for one in required))


def shortened(required: Iterable[str]) -> list[str]:
    """Of the requirements, sorted, as many as a job in the queue names: a worker needs to meet one of them. They stand
    in an index, so they are `MAX_REQUIRED` and have `REQUIRED_CHARACTERS` at most, but one is named in any case."""
    kept: list[str] = []
    characters = 0
    for one in sorted(required)[:MAX_REQUIRED]:
        characters += len(one)
        if kept and characters > REQUIRED_CHARACTERS:
            break
        kept.append(one)
    return kept


@dataclass(frozen=True)
class Offers:
    """What a worker has: components by name, and how much of each resource its steps may occupy at a time."""

    components: frozenset[str] = frozenset()
    resources: Mapping[str, float] = field(default_factory=dict)

    @functools.cached_property
    def capacities(self) -> dict[str, int]:
        """Of each resource, in thousandths."""
        return {name: had(amount) for name, amount in self.resources.items()}

    def without(self, components: Set[str]) -> Offers:
        """The same, but for these components."""
        return Offers(self.components - components, self.resources)

    def meets(self, required: str) -> bool:
        """Whether it has the component of a requirement, and enough of every resource."""
        component, needs = parts_of(required)
        return component in self.components and all(self.capacities.get(name, 0) >= units for name, units in needs)
