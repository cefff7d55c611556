"""Drives a job and the children that it starts, without I/O. What they post to each other lies in inboxes until it is
delivered, so that a test says who hears what first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from openagents_json.job.machine import Child, ChildSpec, Decision, Happening, Requested
from openagents_json.job.model import JobStatus
from openagents_json.workflow.graph import build_plan
from openagents_json.workflow.plan import Plan
from tests.unit.machine.drive import Definition, Drive, plan_of

MOST_TURNS = 10_000  # only a safety net


class Member(Drive):
    """One job of a family."""

    def __init__(self, family: Family, plan: Plan, job_id: str, parent: dict[str, Any] | None = None) -> None:
        super().__init__(plan, family.inputs, claim=False, job_id=job_id, parent=parent)
        self.id = job_id
        self.parent = parent
        self._family = family
        self.spawn = family.spawn

    def turn(self, *happenings: Happening) -> Decision:
        self.now_us = self._family.now_us = max(self.now_us, self._family.now_us)
        decision = super().turn(*happenings)
        self._family.take(decision)
        return decision


class Family:
    """A job `parent`, and its children `<workflow>-1`, `<workflow>-2` …, in the order in which they were started."""

    def __init__(self, definitions: Mapping[str, Definition], inputs: dict[str, Any] | None = None) -> None:
        self._plans = {name: plan_of(definition) for name, definition in definitions.items()}
        self.inputs = inputs or {}
        self.members: dict[str, Member] = {}
        self.inboxes: dict[str, list[Requested]] = defaultdict(list)
        self._keys: set[tuple[str, str]] = set()
        self._started = 0
        self.now_us = 0
        self.parent = self.members["parent"] = Member(self, self._plans["parent"], "parent")

    def __getitem__(self, job_id: str) -> Member:
        return self.members[job_id]

    def spawn(self, spec: ChildSpec) -> Child:
        self._started += 1
        plan = self._plans[spec.workflow_id] if spec.workflow is None else build_plan(spec.workflow)
        job_id = f"{'item' if spec.workflow else spec.workflow_id}-{self._started}"
        return Child(job_id, spec.workflow_id, "1.0.0", Member(self, plan, job_id, spec.parent))

    def take(self, decision: Decision) -> None:
        """What a commit writes for others: new children, and entries of inboxes. A final job has no ear."""
        for child in decision.children:
            self.members[child.job_id] = child.job
        for post in decision.posts:
            assert (post.job_id, post.key) not in self._keys, f"the key {post.key} was used before"
            self._keys.add((post.job_id, post.key))
            if not self[post.job_id].state.is_final:
                request = Requested(post.verb, post.by, post.reason, post.arguments)  # type: ignore[arg-type]
                self.inboxes[post.job_id].append(request)

    def deliver(self, job_id: str) -> None:
        """Let a job hear the first entry of its inbox."""
        self[job_id].turn(self.inboxes[job_id].pop(0))

    def settle(self) -> None:
        """Deliver everything, and give each job that wants one a worker, until nothing is left to do."""
        for _ in range(MOST_TURNS):
            if job_id := next((job_id for job_id, inbox in self.inboxes.items() if inbox), None):
                self.deliver(job_id)
            elif member := next((one for one in self.members.values() if one.status == JobStatus.QUEUED), None):
                member.claim()
            else:
                return
        raise AssertionError("it does not come to rest")

    def statuses(self) -> dict[str, str]:
        return {job_id: str(member.status) for job_id, member in self.members.items()}

    def attached(self, member: Member) -> Iterator[Member]:
        """The attached children of a job, whatever became of them."""
        for other in self.members.values():
            if other.parent is not None and other.parent["job_id"] == member.id and not other.parent["detached"]:
                yield other

    def check(self) -> None:
        """What is true of a job is true of its children."""
        for member in self.members.values():
            for child in self.attached(member):
                if member.status == JobStatus.PAUSED:  # one that was cancelled by itself may clean up, for a moment
                    is_at_rest = child.status == JobStatus.PAUSED or child.state.is_final
                    assert is_at_rest or child.state.cancel is not None, f"{member.id} is PAUSED, {child.id} is not"
                elif member.state.is_final:
                    assert child.state.is_final, f"{member.id} is {member.status}, {child.id} is {child.status}"
