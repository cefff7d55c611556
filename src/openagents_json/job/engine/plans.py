"""Plans of the definitions that jobs were made from, by content hash: built once, kept for the jobs that follow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from openagents_json.errors import StoreError
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, decode_snapshot, fold
from openagents_json.job.store.base import JobStore
from openagents_json.jsondata import decode
from openagents_json.workflow import Plan, build_plan, stored_workflow

KEPT = 256


class Plans:
    """A job keeps the definition it was made from (guarantee G11), so plans come from the store, not the registry."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._plans: OrderedDict[str, Plan] = OrderedDict()

    def add(self, plan: Plan) -> None:
        """A plan that somebody has built already."""
        self._plans[plan.workflow.content_hash] = plan
        if len(self._plans) > KEPT:
            self._plans.popitem(last=False)

    async def get(self, content_hash: str) -> Plan:
        """The plan of a stored definition. `StoreError` when the store does not have it."""
        plan = self._plans.get(content_hash)
        if plan is not None:
            self._plans.move_to_end(content_hash)
            return plan
        document = await self._store.read_definition(content_hash)
        if document is None:
            raise StoreError(f"The definition {content_hash} is not in the store; the store is damaged.")
        plan = build_plan(stored_workflow(decode(document)))
        self.add(plan)
        return plan

    def fold(self, plan: Plan, snapshot: bytes | None, events: Sequence[Event]) -> JobState:
        """The state of a stored job: from its snapshot, if there is one, and the events after it."""
        start = decode_snapshot(snapshot, plan) if snapshot is not None else None
        return fold(plan, events, start)
