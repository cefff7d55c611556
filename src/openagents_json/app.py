"""OpenAgentsApp: components, workflows and jobs behind one object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openagents_json.clock import Clock
from openagents_json.components import ComponentRegistry, register_builtins
from openagents_json.job.manager import JobManager
from openagents_json.job.store import JobStore
from openagents_json.settings import load_settings
from openagents_json.workflow import SecretProvider, Workflow, WorkflowRegistry


class OpenAgentsApp:
    """A program's components and workflows, and the manager of its jobs.

    `store` is None (the settings' store, else the SQLite file `openagents.db`), memory, database, a URL, or a
    `JobStore`. Keywords go to `JobManager`. Decorators: `app.agent`, `app.capability`, `app.tool`.
    """

    def __init__(
        self,
        store: str | JobStore | None = None,
        *,
        secrets: SecretProvider | None = None,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self.components = ComponentRegistry()
        register_builtins(self.components)
        self.workflows = WorkflowRegistry(self.components)
        self.agent = self.components.agent
        self.capability = self.components.capability
        self.tool = self.components.tool
        self._store = store
        self._options = {"secrets": secrets, "clock": clock, **options}
        self._jobs: JobManager | None = None

    @property
    def jobs(self) -> JobManager:
        """The manager, made at first use: `async with app.jobs as jobs: …`. It can be opened once."""
        if self._jobs is None:
            self._jobs = self.manager()
        return self._jobs

    @property
    def resources(self) -> Mapping[str, float]:
        """What the app says that its workers have of each resource, by name; every worker has more (`cpu` …)."""
        settings = self._options.get("settings") or load_settings()
        given: Mapping[str, float] = self._options.get("resources", settings.resources)
        return given

    def manager(self, store: str | JobStore | None = None, **options: Any) -> JobManager:
        """A new manager of this app's components and workflows, by default on the app's store."""
        given = {**self._options, **options}
        chosen = store or self._store or given.get("job_store_type")
        if chosen is None:
            settings = given.get("settings") or load_settings()
            chosen = settings.job_store_type or "database"  # JobManager knows where: `path`, or the settings' path
        return JobManager(chosen, components=self.components, workflows=self.workflows, **given)

    def register_workflow(self, definition: Mapping[str, Any] | str | Path) -> Workflow:
        """Register a workflow from a dictionary or a JSON or YAML file. `InvalidDefinition` lists every problem,
        `WorkflowConflict` says that the id and version stand for other content already."""
        return self.workflows.register(definition)
