"""What one worker knows of the pauses of components and workflows, and what it does about them.

It hears of a pause when it looks: at once if the pause was asked for in this process, else within `worker.POLL_S` of
its being written (on PostgreSQL `postgres_news` says when that may take longer). From then on it decides no start of
an attempt of a paused component, takes up no job of a paused workflow, and gives those back that it runs when what
runs of them has ended. Cleaning up goes on: jobs that are cancelled, compensate or run their `finally` steps are left
alone by a pause of their workflow, and resources are released by paused components, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openagents_json.job.machine import JobState

if TYPE_CHECKING:
    from openagents_json.job.engine.worker import Worker

PAUSED = "workflow_paused"  # why a job is given back


class Pauses:
    """One per worker. Everything here runs in its event loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.components: frozenset[str] = frozenset()  # names of those that are paused
        self._workflows: frozenset[str] = frozenset()  # ids

    async def look(self) -> None:
        """Read what is paused, and heed it."""
        found = await self._worker.store.list_pauses()
        components = frozenset(one.name for one in found if one.kind == "component")
        workflows = frozenset(one.name for one in found if one.kind == "workflow")
        if (components, workflows) == (self.components, self._workflows):
            return
        self.components, self._workflows = components, workflows
        for runner in [] if self._worker.is_stopping else list(self._worker.runners.values()):
            if self.concerns(runner.state):
                runner.release(PAUSED)
            else:
                runner.keep(PAUSED)
        self._worker.jobs_came()  # that we may take now

    def concerns(self, state: JobState) -> bool:
        """Whether a job may not go on because its workflow is paused."""
        return state.workflow_id in self._workflows and state.cancel is None and state.outcome is None
