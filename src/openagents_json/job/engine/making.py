"""New jobs: from a workflow and inputs to what the store is given. For users (`make`) and for parents (`spawn`)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from openagents_json.amounts import Budget, budget_over
from openagents_json.clock import Clock
from openagents_json.ids import uuid7
from openagents_json.job import machine
from openagents_json.job.engine.limiting import limit_of
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.sharing import Expectations, share_of
from openagents_json.job.machine import Child, ChildSpec, JobState, Takeover
from openagents_json.job.model import JobPriority
from openagents_json.job.store.records import Definition, NewJob, row_of
from openagents_json.jsondata import encode
from openagents_json.workflow import InputSchema, Plan, Workflow, WorkflowRegistry

KEPT = 256  # workflows whose input schema is kept compiled


class _Recipe:
    """What a new job needs of a workflow, worked out once per content."""

    __slots__ = ("definition", "inputs", "plan")

    def __init__(self, workflow: Workflow, plan: Plan) -> None:
        self.plan = plan
        self.inputs = InputSchema(workflow.inputs)
        self.definition = Definition(workflow.content_hash, workflow.id, workflow.version, workflow.encoded)


class JobMaker:
    """Makes new jobs without writing them."""

    def __init__(self, workflows: WorkflowRegistry, plans: Plans, expectations: Expectations, clock: Clock) -> None:
        self._workflows = workflows
        self._plans = plans
        self._clock = clock
        self._expectations = expectations
        self._recipes: OrderedDict[str, _Recipe] = OrderedDict()  # by content hash, the last used last

    def make(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any],
        *,
        priority: JobPriority,
        metadata: dict[str, Any] | None = None,
        tags: Iterable[str] = (),
        idempotency_key: str | None = None,
        start_at_us: int | None = None,
        start: bool = False,
        parent: dict[str, Any] | None = None,
        takeover: Takeover | None = None,
        budget: Budget | None = None,
        share: str | None = None,
        deadline_us: int | None = None,
    ) -> tuple[NewJob, JobState]:
        """A new job and its state; `budget` comes over that of the workflow, and without `share` it has that of its
        workflow. `InvalidInputs` with every problem of the inputs, or of the key of its limit or share."""
        recipe = self._recipe(workflow)
        values = recipe.inputs.validate(inputs)
        now_us = self._clock.now_us()
        is_attached = parent is not None and not parent["detached"]
        # What an attached child uses counts to its parent, and so to the parent's share.
        share = None if is_attached else share or share_of(recipe.plan, values)
        is_expected = share is not None or deadline_us is not None
        state, events = machine.create(
            recipe.plan,
            uuid7(now_us),
            values,
            now_us=now_us,
            priority=priority,
            metadata=metadata,
            tags=tags,
            start_at_us=start_at_us,
            idempotency_key=idempotency_key,
            parent=parent,
            takeover=takeover,
            budget=budget_over(workflow.spendable, budget),
            start=start,
            share=share,
            deadline_us=deadline_us,
            expected_us=self._expectations.of(recipe.plan) if is_expected else 0,
        )
        limit = None if is_attached else limit_of(recipe.plan, values)
        new = NewJob(
            state.job_id,
            recipe.definition,
            row_of(state),
            events,
            now_us,
            state.tags,
            idempotency_key,
            _body_hash(workflow, values, takeover) if idempotency_key is not None else "",
            parent["job_id"] if parent is not None and is_attached else None,
            state.origin["job_id"] if state.origin is not None else None,
            # An attached child is on in the slot of its parent, whatever its own workflow says: a parent that waits for
            # a child which waits for the parent's slot would wait for ever.
            limit,
        )
        return new, state

    def spawn(self, plan: Plan, spec: ChildSpec) -> Child:
        """The child that a step of a job with that plan asks for. `WorkflowNotFound`, `InvalidInputs`."""
        own = plan.workflow
        is_own = spec.workflow_id == own.id and spec.version in (None, own.version)
        # A workflow that starts itself stays with the content that its job was made from (guarantee G11).
        workflow = spec.workflow or (own if is_own else self._workflows.get(spec.workflow_id, spec.version))
        priority = JobPriority(spec.priority)
        new, state = self.make(
            workflow, spec.inputs, priority=priority, metadata=workflow.metadata, start=True, parent=spec.parent
        )
        return Child(new.job_id, workflow.id, workflow.version, (new, state))

    def _recipe(self, workflow: Workflow) -> _Recipe:
        recipe = self._recipes.get(workflow.content_hash)
        if recipe is None:
            recipe = self._recipes[workflow.content_hash] = _Recipe(workflow, self._workflows.plan(workflow))
            self._plans.add(recipe.plan)
            if len(self._recipes) > KEPT:
                self._recipes.popitem(last=False)
        else:
            self._recipes.move_to_end(workflow.content_hash)
        return recipe


def _body_hash(workflow: Workflow, inputs: dict[str, Any], takeover: Takeover | None) -> str:
    """What must be the same when an idempotency key is used again: the workflow and the inputs after defaults, of a
    retry also its origin and what is taken over."""
    body = [workflow.content_hash, _ordered(inputs)]
    if takeover is not None:
        body += [takeover.about["origin"]["job_id"], _ordered(list(takeover.results))]
    return hashlib.sha256(encode(body)).hexdigest()


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value
