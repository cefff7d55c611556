"""Budgets on the command line: `tokens=5000`, what `openagents jobs add-budget` does, and how spending reads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from openagents_json.amounts import COST, KEYS, SECONDS, TOKENS, number, whole
from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.opening import asker, check_reason, opened
from openagents_json.cli.output import Output
from openagents_json.cli.showing import job_name
from openagents_json.cli.text import duration


def read_amounts(pairs: Iterable[str], option: str = "") -> dict[str, Any]:
    """The amounts that pairs such as `tokens=5000` give. `UsageProblem` for a pair that cannot be read; whether such a
    budget is possible, the manager says."""
    amounts: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        shown = f"{option} {pair}".strip()
        if not equals or name not in KEYS:
            raise UsageProblem(f"{shown}: give seconds=…, tokens=… or cost=…, such as tokens=5000.")
        if name in amounts:
            raise UsageProblem(f"{option} {name} is given twice.".strip())
        try:
            amounts[name] = int(value) if name == TOKENS else Decimal(value)
        except (ValueError, InvalidOperation):
            what = "an integer" if name == TOKENS else "a number"
            raise UsageProblem(f"{shown}: {value!r} is not {what}.") from None
    return amounts


def add_budget(
    text: str, pairs: Iterable[str], by: str | None, reason: str | None, store: str | None, output: Output
) -> int:
    """Give a job more to spend."""
    check_reason(reason)
    return asyncio.run(_add(text, read_amounts(pairs), asker(by), reason, store, output))


async def _add(
    text: str, amounts: dict[str, Any], by: str | None, reason: str | None, store: str | None, output: Output
) -> int:
    async with opened(store) as jobs:
        job_id = await jobs.find_job(text)
        await jobs.add_budget(job_id, by=by, reason=reason, **amounts)
        job = await jobs.get_summary(job_id)
    name = job_name(job.workflow_id, job_id)
    is_waiting = job.status == "PAUSED" or job.pause_requested
    more = f"; `openagents jobs resume {name}` lets it go on" if is_waiting else ""
    output.say(f"{name} is {job.display_status} and has spent {spent_text(job.spent, job.budget)}{more}")
    if output.as_json:
        document = {"id": job_id, "job": name, "status": job.status, "budget": job.budget, "spent": job.spent}
        output.document(document)
    return Exit.DONE


def spent_text(spent: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    """`12,400 of 100,000 tokens, cost 0.31`; empty if there is nothing to tell. Seconds alone are not told: the time
    that a job takes is shown anyway."""
    parts = []
    for kind in KEYS:
        if kind in budget or (kind != SECONDS and spent.get(kind)):
            amount = _shown(kind, spent.get(kind, 0))
            amount += f" of {_shown(kind, budget[kind])}" if kind in budget else ""
            parts.append(f"cost {amount}" if kind == COST else f"{amount} tokens" if kind == TOKENS else amount)
    return ", ".join(parts)


def _shown(kind: str, amount: Any) -> str:
    return duration(amount) if kind == SECONDS else number(KEYS[kind], whole(kind, amount))
