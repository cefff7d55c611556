"""The slots of one turn of a job: what it asks admission for, and what it was given until its calls are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openagents_json.job.engine.admission import Asking, Grant, Needs
from openagents_json.job.machine import NONE_ALIKE, Reply
from openagents_json.workflow.plan import Node

if TYPE_CHECKING:
    from openagents_json.job.engine.runner import Runner
    from openagents_json.job.engine.worker import Worker


class Slots:
    """Made for each time that the machine decides; `admit` is what it asks."""

    def __init__(self, worker: Worker, runner: Runner) -> None:
        self._worker = worker
        # None: nothing begins while our leases may end. When they are sure again, every runner looks again.
        self._asking: Asking[Runner] | None = None
        if worker.is_lease_sure:
            self._asking = worker.admission.ask(runner, worker.clock.now_us())
        self.calls: list[Grant] = []  # for the calls that are decided, in their order
        self.releases: list[Grant] = []  # and for the releases
        # What was found out in this turn, by component and step: a job may have thousands of one kind.
        self._kinds: dict[tuple[str, Node], tuple[Needs, str | None]] = {}  # needs, and what is out of reach of them

    def out_of_reach(self, component: str, node: Node) -> str | None:
        """What a step requires of another worker, if this one will never have enough for it."""
        return self._kind(component, node)[1]

    def admit(self, component: str, node: Node | None) -> Reply:
        """Whether a step (a release, without a node) may start: True takes what it needs. NONE_ALIKE: none like it now,
        since those need the same. None: no step at all."""
        if self._asking is None:
            return None
        needs = self._worker.needs_of(component, None) if node is None else self._kind(component, node)[0]
        verdict = self._asking.take(needs)
        if verdict.grant is None:
            return None if verdict.is_full else NONE_ALIKE
        (self.releases if node is None else self.calls).append(verdict.grant)
        return True

    def _kind(self, component: str, node: Node) -> tuple[Needs, str | None]:
        known = self._kinds.get((component, node))
        if known is None:
            needs = self._worker.needs_of(component, node)
            known = self._kinds[component, node] = needs, self._worker.out_of_reach(component, node, needs)
        return known
