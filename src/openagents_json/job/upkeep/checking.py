"""Checking a whole store: what it is made of (`JobStore.verify`), then each definition, then each job.

One job is in memory at a time, as its state and a page of its events. Others may write meanwhile: a job is judged as it
was at one moment, and what was added to its history since then is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

from openagents_json.errors import OpenAgentsError, StoreUnavailable
from openagents_json.job.events import Event
from openagents_json.job.machine import JobState, decode_snapshot, fold, new_state
from openagents_json.job.store import JobStore, StoredJob
from openagents_json.job.store.query import build_query, encode_cursor
from openagents_json.job.store.upkeep import Flaw
from openagents_json.job.upkeep import laws
from openagents_json.jsondata import decode
from openagents_json.workflow import Plan, build_plan, stored_workflow

JOBS = 200  # in a page
EVENTS = 1_000
DEFINITIONS = 100
PLANS = 64  # kept
REASON = 300  # characters of an error that are told


@dataclass
class Checked:
    """What has been looked at so far; written by `check_store`."""

    definitions: int = 0
    jobs: int = 0
    events: int = 0
    snapshots: int = 0


async def check_store(store: JobStore, checked: Checked) -> AsyncIterator[Flaw]:
    """Everything that is wrong with the definitions and jobs of an open store. `StoreUnavailable` ends it."""
    async for flaw in _definitions(store, checked):
        yield flaw
    plans = _Plans(store)
    cursor: str | None = None
    while True:
        page = await store.list_jobs(build_query(order="created_at", limit=JOBS, cursor=cursor))
        for listed in page:
            async for what in _JobCheck(store, plans, checked, listed.summary.id).sentences():
                yield Flaw(f"job {listed.summary.id}", what)
        if len(page) < JOBS:
            return
        cursor = encode_cursor("created_at", *page[-1].position)


async def _definitions(store: JobStore, checked: Checked) -> AsyncIterator[Flaw]:
    after = ""
    while hashes := await store.definition_hashes(after, DEFINITIONS):
        for content_hash in hashes:
            document = await store.read_definition(content_hash)
            checked.definitions += 1
            for what in laws.definition(content_hash, document) if document is not None else ():
                yield Flaw(f"definition {content_hash}", what)
        after = hashes[-1]


class _Plans:
    """Plans of definitions, the last ones kept."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._kept: OrderedDict[str, Plan] = OrderedDict()

    async def get(self, content_hash: str) -> Plan | None:
        """None when the store has no such definition. Errors of all kinds when it is no definition."""
        if (plan := self._kept.get(content_hash)) is None:
            document = await self._store.read_definition(content_hash)
            if document is None:
                return None
            plan = self._kept[content_hash] = build_plan(stored_workflow(decode(document)))
            if len(self._kept) > PLANS:
                self._kept.popitem(last=False)
        return plan


@dataclass
class _JobCheck:
    store: JobStore
    plans: _Plans
    checked: Checked
    job_id: str

    async def sentences(self) -> AsyncIterator[str]:
        """What is wrong with the job. Damaged bytes come as errors of all kinds: none of them ends the check."""
        try:
            stored = await self.store.read(self.job_id)
            if stored is None:  # deleted since it was listed
                return
            found = [what async for what in self._judged(stored)]
            if found and await self.store.read_summary(self.job_id) is None:  # deleted while it was read
                return
        except StoreUnavailable:
            raise
        except Exception as error:
            found = [f"it cannot be read: {_reason(error)}"]
        self.checked.jobs += 1
        for what in found:
            yield what

    async def _judged(self, stored: StoredJob) -> AsyncIterator[str]:
        plan = await self.plans.get(stored.definition_hash)
        if plan is None:
            yield f"its definition {stored.definition_hash} is not there"
            return
        snapshot = None if stored.snapshot is None else decode_snapshot(stored.snapshot, plan)
        last = stored.summary.events
        state, number = new_state(plan), 0
        while number < last:
            page = await self.store.read_events(self.job_id, number, min(EVENTS, last - number))
            if not page:
                yield f"it has {number:,} events, and its row says {last:,}"
                return
            wrong = [*laws.numbering(page, number), *laws.ending(page, last)]
            wrong += laws.creation(page[0], stored.summary) if number == 0 else ()
            for what in wrong:
                yield what
            if wrong:
                return
            for what in self._fold(plan, state, page, snapshot):
                yield what
            number += len(page)
            self.checked.events += len(page)
        if snapshot is not None and snapshot.number > last:
            yield f"its snapshot is of event {snapshot.number:,}, and it has {last:,}"
        for what in laws.row(stored.summary, state):
            yield what

    def _fold(self, plan: Plan, state: JobState, page: list[Event], snapshot: JobState | None) -> list[str]:
        """Fold a page; where the snapshot is of an event of it, compare the two."""
        at = -1 if snapshot is None else snapshot.number - page[0].number + 1
        if snapshot is None or not 0 < at <= len(page):
            fold(plan, page, state)
            return []
        fold(plan, page[:at], state)
        self.checked.snapshots += 1
        found = list(laws.snapshot(snapshot, state))
        fold(plan, page[at:], state)
        return found


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if isinstance(error, OpenAgentsError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= REASON else text[: REASON - 1] + "…"
