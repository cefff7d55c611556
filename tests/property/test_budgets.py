"""Laws of budgets: totals are the sum of what stands in the history, and nothing begins once a budget is spent."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from openagents_json.job.events import Event
from openagents_json.job.machine import Happening, exhausted, spent_by
from openagents_json.job.model import JobStatus
from openagents_json.workflow.plan import Plan
from tests.property.test_children import CLOSE, Lives
from tests.property.test_machine import SEEDS, SETTINGS, Life, Tape, check_history, ended_attempt, is_cleanup, workflows
from tests.unit.machine.drive import Drive, plan_of
from tests.unit.machine.family import Member

BUDGETS = st.fixed_dictionaries(
    {},
    optional={
        "seconds": st.sampled_from([1.0, 100.0, 500.0]),
        "tokens": st.sampled_from([1, 5, 40]),
        "cost": st.sampled_from([0.1, 2.0]),
    },
)
AMOUNTS: list[dict[str, int]] = [{"tokens": 1}, {"tokens": 3, "cost_nanos": 50_000_000}, {"cost_nanos": 1}]
MUCH = 10**16


def give_more(drive: Drive) -> None:
    """As much as it needs to be resumed."""
    while (key := exhausted(drive.state, drive.state.seen_us)) is not None:
        drive.request("add_budget", amounts={key: MUCH})


class Spender(Life):
    """A life with attempts that report what they spend, also twice, and when they are over."""

    def _happening(self) -> Happening | None:
        if self.running and self.tape.below(3) == 0:
            path = self.running[self.tape.below(len(self.running))]
            report = self.spent(path, **AMOUNTS[self.tape.below(len(AMOUNTS))])
            self.old.append(report)
            return report
        return super()._happening()

    def resume(self) -> Any:
        give_more(self)
        return super().resume()


def own_spending(history: list[Event]) -> Counter[str]:
    """What a job has spent by itself, as its events tell."""
    total: Counter[str] = Counter()
    since_us: dict[str, int] = {}
    for event in history:
        data = event.data
        if event.type == "attempt.started":
            since_us[data["path"]] = event.at_us
        elif (ended := ended_attempt(event)) is not None:
            total["time_us"] += data.get("seen_us", event.at_us) - since_us.pop(ended[0])
        if event.type.startswith(("attempt.", "step.")):
            total.update(data.get("spent", {}))
    total["time_us"] += sum(history[-1].at_us - began_us for began_us in since_us.values())
    return total


def check_spending(plan: Plan, history: list[Event]) -> None:
    """Nothing but cleanup begins when a part of the budget is spent."""
    budget: dict[str, int] = dict(history[0].data.get("budget", {}))
    for place, event in enumerate(history):
        if event.type == "job.budget_added":
            for key, amount in event.data["amounts"].items():
                budget[key] += amount
        elif event.type == "attempt.started" and not is_cleanup(plan, event.data["path"]):
            spent = own_spending(history[: place + 1])
            assert all(spent[key] < most for key, most in budget.items()), f"{spent} of {budget} at event {place + 1}"


@hypothesis_settings(SETTINGS, max_examples=150)
@given(workflows(), BUDGETS, SEEDS)
def test_nothing_begins_when_the_budget_is_spent_and_totals_are_what_the_history_says(
    document: dict[str, Any], budget: dict[str, Any], seed: int
) -> None:
    life = Spender(plan_of(document | ({"budget": budget} if budget else {})), Tape(seed))
    life.live_on()
    assert +Counter(spent_by(life.state)) == +own_spending(life.history)
    life.end()
    assert +Counter(spent_by(life.state)) == +own_spending(life.history)
    check_history(life.plan, life.history)
    check_spending(life.plan, life.history)


class Spenders(Lives):
    """A family of which everybody spends."""

    def _answer(self, member: Member, path: str) -> None:
        member.turn(member.spent(path, **AMOUNTS[self.tape.below(len(AMOUNTS))]))
        if member.run(path).live:
            super()._answer(member, path)

    def _goes_on(self, member: Member) -> bool:
        if member.status == JobStatus.PAUSED or member.state.pause_requested:
            give_more(member)
        return super()._goes_on(member)


def check_family(members: Spenders) -> None:
    """Of each child its parent counts what it has told last, which is all of it at its end."""
    for member in members.members.values():
        told: dict[str, dict[str, int]] = {}
        for event in member.history:
            if event.type in ("child.spent", "child.ended"):
                told[event.data["child_id"]] = event.data.get("spent", {})
        total = own_spending(member.history)
        for child_id, spent in told.items():
            child = members[child_id]
            total.update(spent)
            assert all(amount <= spent_by(child.state).get(key, 0) for key, amount in spent.items())
            if child_id not in member.state.children:
                assert +Counter(spent) == +Counter(spent_by(child.state))
        assert +Counter(spent_by(member.state)) == +total


@hypothesis_settings(SETTINGS, max_examples=80)
@given(st.lists(BUDGETS, min_size=3, max_size=3), SEEDS)
def test_parent_counts_what_its_children_spend_once(budgets: list[dict[str, Any]], seed: int) -> None:
    documents = {
        name: document if isinstance(document, dict) else {"steps": document} for name, document in CLOSE.items()
    }
    for document, budget in zip(list(documents), budgets, strict=True):
        if budget:
            documents[document] = documents[document] | {"budget": budget}
    members = Spenders(documents, Tape(seed))
    members.live_on()
    check_family(members)
    members.end()
    check_family(members)
