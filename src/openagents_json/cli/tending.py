"""What `openagents worker` does: it keeps a manager open, tells of jobs' transitions, and closes it gently."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from openagents_json.cli.amounts import resource_options
from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import UsageProblem
from openagents_json.cli.loading import load_app
from openagents_json.cli.opening import refuse_memory
from openagents_json.cli.output import Output
from openagents_json.cli.running import stopping
from openagents_json.cli.showing import job_name
from openagents_json.cli.stopping import Stop
from openagents_json.cli.text import printable, short_time
from openagents_json.errors import OpenAgentsError, StoreUnavailable
from openagents_json.job.events import Event
from openagents_json.job.manager import JobManager
from openagents_json.job.store.rules import serves
from openagents_json.resources import Offers

NAMES_KEPT = 10_000
IDLE_CHECK_S = 0.2  # how often --until-idle looks; another process may empty the queue without a word to us


def work(
    components: Sequence[str],
    workflows: Sequence[str],
    store: str | None,
    max_jobs: int | None,
    resources: Sequence[str],
    until_idle: bool,
    output: Output,
) -> int:
    """Run jobs until told to stop."""
    if not components:
        raise UsageProblem("A worker needs the components of the jobs it runs: --components module[:app].")
    app = load_app(components, workflows)
    options: dict[str, Any] = resource_options(app, resources)
    if max_jobs is not None:
        options["max_jobs"] = max_jobs
    with Stop() as stop:
        return asyncio.run(_work(app.manager(store, **options), until_idle, output, stop))


async def _work(jobs: JobManager, until_idle: bool, output: Output, stop: Stop) -> int:
    refuse_memory(jobs)
    async with jobs:
        teller = _Teller(jobs, output)
        jobs.on("job", teller.tell)
        output.note(f"Worker {jobs.worker_id} is ready; Ctrl-C stops it gently.")
        waits = [asyncio.create_task(stop.wait())]
        if until_idle:
            waits.append(asyncio.create_task(_wait_idle(jobs)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if stop.is_asked:
            output.note(f"Stopping: {stopping(jobs)}")
    return Exit.DONE


async def _wait_idle(jobs: JobManager) -> None:
    """Return when nothing is queued that could run here, and nothing runs here. Jobs that wait do not count."""
    while True:
        offers = Offers(frozenset(jobs.components.names()), jobs.resources)
        try:
            page, health = await jobs.list_jobs({"status": "QUEUED"}, limit=1_000), await jobs.health()
            pauses = await jobs.list_pauses()
            offers = offers.without({one.name for one in pauses if one.kind == "component"})
            paused = {one.name for one in pauses if one.kind == "workflow"}
            is_empty = page.cursor is None and not any(
                serves(offers, job.requires) and (job.workflow_id not in paused or job.cancel_requested) for job in page
            )
            if is_empty and health["running_jobs"] == 0:
                return
        except StoreUnavailable:
            pass  # the worker logs it and waits for the store, so do we
        await asyncio.sleep(IDLE_CHECK_S)


class _Teller:
    """Prints one line per transition of a job."""

    def __init__(self, jobs: JobManager, output: Output) -> None:
        self._jobs = jobs
        self._output = output
        self._names: OrderedDict[str, str] = OrderedDict()  # by job id; at most NAMES_KEPT

    async def tell(self, job_id: str, event: Event) -> None:
        name = await self._name(job_id)
        error: Any = event.data.get("error")
        if self._output.as_json:
            self._output.document(
                {"job": name, "id": job_id, "number": event.number, "type": event.type, "at": event.at, "error": error}
            )
            return
        line = f"{short_time(event.at)}  {name}  {event.type.removeprefix('job.').replace('_', ' ')}"
        if isinstance(error, dict):
            line += printable(f"  {error.get('type')}: {error.get('message')}")
        self._output.say(line)

    async def _name(self, job_id: str) -> str:
        name = self._names.get(job_id)
        if name is None:
            try:
                name = job_name((await self._jobs.get_summary(job_id)).workflow_id, job_id)
            except OpenAgentsError:  # deleted meanwhile, or the store is away
                return job_id
            self._names[job_id] = name
            if len(self._names) > NAMES_KEPT:
                self._names.popitem(last=False)
        return name
