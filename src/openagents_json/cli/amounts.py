"""From `--resource NAME=AMOUNT` to amounts by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openagents_json.app import OpenAgentsApp
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.text import printable
from openagents_json.resources import OFFERED_RESOURCES, problem_with


def resource_options(app: OpenAgentsApp, given: Sequence[str]) -> dict[str, Any]:
    """The options of a manager whose worker has what the app says, and over that what is given."""
    return {"resources": {**app.resources, **amounts_of(given)}} if given else {}


def amount_text(lacking: Mapping[str, Any]) -> str:
    """`gpu ≥ 4`: what no worker has, as the status of a job says it."""
    return f"{printable(lacking['resource'], 80)} ≥ {lacking['need']:,g}"


def amounts_of(given: Sequence[str]) -> dict[str, float]:
    """The amounts, of a name that is given twice the last. `UsageProblem` says which one is wrong, and how."""
    amounts: dict[str, float] = {}
    for text in given:
        name, _, amount = text.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError:
            raise UsageProblem(f"--resource {text}: give a name and a number, such as gpu=1.") from None
    if problem := problem_with(amounts, OFFERED_RESOURCES):
        raise UsageProblem(f"--resource: the resources {problem}")
    return amounts
