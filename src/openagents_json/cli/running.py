"""What `openagents run` does: a job is made or found, shown while a worker in this process runs it, and summed up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openagents_json.app import OpenAgentsApp
from openagents_json.cli.amounts import amount_text, resource_options
from openagents_json.cli.budgets import read_amounts
from openagents_json.cli.exit_codes import OF_STATUS, Exit
from openagents_json.cli.inputs import read_deadline, read_inputs
from openagents_json.cli.invocation import Invocation
from openagents_json.cli.loading import load_app
from openagents_json.cli.opening import asker, opened, refuse_memory
from openagents_json.cli.output import Output
from openagents_json.cli.showing import Display, job_name, make_display, show_result
from openagents_json.cli.stopping import Stop
from openagents_json.cli.text import printable
from openagents_json.cli.view import JobView
from openagents_json.clock import as_datetime
from openagents_json.errors import InvalidInputs, StoreUnavailable
from openagents_json.job.events import Event
from openagents_json.job.manager import JobManager
from openagents_json.job.model import JobStatus, JobSummary
from openagents_json.job.store import MemoryJobStore
from openagents_json.jsondata import decode
from openagents_json.workflow import InputSchema, Workflow

REFRESH_S = 0.12  # how often the display may draw
STORE_RETRY_S = 1.0  # how often a reader asks again while the store is away; it does so until the user stops it
REASON = "openagents run --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `run`, as given."""

    file: str
    components: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    inputs_file: str | None = None
    store: str | None = None
    resources: tuple[str, ...] = ()
    priority: str | None = None
    idempotency_key: str | None = None
    tags: tuple[str, ...] = ()
    budget: tuple[str, ...] = ()
    share: str | None = None
    deadline: str | None = None
    detach: bool = False
    resume: bool = False
    timeout_s: float | None = None
    plain: bool = False


def run_workflow(options: RunOptions, invocation: Invocation, output: Output) -> int:
    """Run the workflow file; the exit code tells the job's outcome."""
    app = load_app(options.components, options.workflows)
    workflow = app.register_workflow(Path(options.file))
    inputs = read_inputs(options.inputs, options.inputs_file, workflow.inputs)
    budget = read_amounts(options.budget, "--budget")
    with Stop() as stop:
        return asyncio.run(_Run(app, workflow, inputs, budget, options, invocation, output, stop).run())


@dataclass(slots=True)
class _Run:
    app: OpenAgentsApp
    workflow: Workflow
    inputs: dict[str, Any]
    budget: dict[str, Any]
    options: RunOptions
    invocation: Invocation
    output: Output
    stop: Stop

    async def run(self) -> int:
        options = resource_options(self.app, self.options.resources)
        jobs = self.app.manager(self.options.store, worker=not self.options.detach, **options)
        if self.options.detach:
            refuse_memory(jobs)
        async with jobs:
            job_id = await self.job(jobs)
            if self.options.detach:
                return await self.leave(jobs, job_id)
            await self.tell_what_is_short(jobs, job_id)
            if await self.watch(jobs, job_id):
                return await self.finish(jobs, job_id)
            why = "Stopping" if self.stop.is_asked else "The time is up, stopping"
            self.output.note(f"{why}: {stopping(jobs)}")
        return await self.stopped(jobs, job_id)

    # ── which job ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def job(self, jobs: JobManager) -> str:
        """The id of the job to run: the one to resume, or a new one."""
        options = self.options
        if options.resume and (found := await self.unfinished(jobs)) is not None:
            await self.continue_job(jobs, found)
            return found.id
        now, deadline = as_datetime(jobs.clock.now_us()), options.deadline
        job_id = await jobs.create_job(
            self.workflow.id,
            self.inputs,
            options.priority,
            version=self.workflow.version,
            idempotency_key=options.idempotency_key,
            tags=options.tags,
            budget=self.budget,
            start=True,
            share_key=options.share,
            deadline=None if deadline is None else read_deadline(deadline, now),
        )
        if options.idempotency_key is not None:  # it may be an earlier one, which nobody has started or resumed
            await self.set_going(jobs, await jobs.get_summary(job_id))
        return job_id

    async def unfinished(self, jobs: JobManager) -> JobSummary | None:
        """The newest job of the workflow, if it has not ended."""
        page = await jobs.list_jobs({"workflow_id": self.workflow.id}, limit=1)
        newest = next(iter(page.jobs), None)
        return None if newest is None or newest.status.is_final else newest

    async def continue_job(self, jobs: JobManager, job: JobSummary) -> None:
        self.output.note(f"Goes on with {job_name(job.workflow_id, job.id)}, which is {job.status}.")
        created = await first_event(jobs, job.id)
        is_same = created.data["definition"] == self.workflow.content_hash
        if not is_same:
            file = printable(self.options.file, 200)
            self.output.note(f"It keeps the definition it was created with; {file} is another one by now.")
        if different := self.different_inputs(created.data["inputs"], is_same):
            names = printable(", ".join(different), 200)
            self.output.note(f"It keeps the inputs it was created with; now other ones were given: {names}.")
        if self.budget:
            self.output.note("It keeps its budget; `openagents jobs add-budget` gives it more.")
        await self.set_going(jobs, job)

    def different_inputs(self, inputs: dict[str, Any], is_same_definition: bool) -> list[str]:
        """The names of inputs that the job has otherwise than this command line says. Defaults count if the
        definition is the same."""
        try:
            given = InputSchema(self.workflow.inputs).validate(self.inputs)
        except InvalidInputs:
            if self.inputs:
                raise
            return []  # none were given, and some have no default
        names = given if is_same_definition else self.inputs
        return [name for name in names if name not in inputs or inputs[name] != given[name]]

    async def set_going(self, jobs: JobManager, job: JobSummary) -> None:
        if job.status == JobStatus.PAUSED or job.pause_requested:
            await jobs.resume_job(job.id, by=asker(None), reason=REASON)
        elif job.status == JobStatus.CREATED:
            await jobs.start_job(job.id, by=asker(None), reason=REASON)

    async def leave(self, jobs: JobManager, job_id: str) -> int:
        """Tell the id of a job that another process is to run."""
        summary = await jobs.get_summary(job_id)
        name = job_name(summary.workflow_id, job_id)
        if self.output.as_json:
            self.output.document({"id": job_id, "job": name, "status": summary.status})
        else:
            self.output.say(f"{name} is {summary.status}. `openagents worker` runs it; its id is {job_id}")
        return Exit.DONE

    async def tell_what_is_short(self, jobs: JobManager, job_id: str) -> None:
        """Say it if the job is left to other workers, for want of a resource here."""
        for wait in (await jobs.get_job_status(job_id))["waiting_for"]:
            if lacking := wait.get("resources"):
                name, needs = job_name(self.workflow.id, job_id), " and ".join(map(amount_text, lacking))
                given = " ".join(f"--resource {one['resource']}={one['need']:g}" for one in lacking)
                self.output.note(f"{name} waits: no worker has {needs}. Give this one more by {given}.")

    # ── showing it ────────────────────────────────────────────────────────────────────────────────────────────────

    async def watch(self, jobs: JobManager, job_id: str) -> bool:
        """Show the job until it is final (True), or until somebody asks to stop or the time is up (False)."""
        created = await first_event(jobs, job_id)
        document = await jobs.store.read_definition(created.data["definition"])
        view = JobView(None if document is None else decode(document))
        known = (await jobs.get_summary(job_id)).events
        view.take(created)
        await take_history(jobs, view, job_id, known)
        display = make_display(view, self.output, plain=self.options.plain)
        follower = asyncio.create_task(self.follow(jobs, display, job_id))
        drawer = asyncio.create_task(_draw(jobs, display))
        stopper = asyncio.create_task(self.stop.wait())

        def report(told_id: str, event: Event) -> None:
            if told_id == job_id:
                data = event.data
                display.report(data["path"], data["fraction"], data["message"], event.at_us)

        listener = jobs.on("step.progress", report)
        try:
            await asyncio.wait(
                (follower, drawer, stopper), timeout=self.options.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in (follower, drawer):
                if task.done():
                    task.result()  # raises what it met
            return view.is_final
        finally:
            listener.cancel()
            for task in (follower, drawer, stopper):
                task.cancel()
            await asyncio.gather(follower, drawer, stopper, return_exceptions=True)
            display.close()

    async def follow(self, jobs: JobManager, display: Display, job_id: str) -> None:
        """Hand each event to the display. While the store is away, wait for it: the job does the same."""
        was_away = False
        while True:
            try:
                async with watching(jobs, job_id, display.view.number) as events:
                    async for event in events:
                        display.take(event)
                return
            except StoreUnavailable as error:
                if not was_away:
                    self.output.note(f"The store is away, the job stands still: {printable(str(error))}")
                was_away = True
                await asyncio.sleep(STORE_RETRY_S)

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def finish(self, jobs: JobManager, job_id: str) -> int:
        job = await jobs.get_job(job_id)
        show_result(job, self.output)
        return OF_STATUS[job.status]

    async def stopped(self, jobs: JobManager, job_id: str) -> int:
        """After a gentle stop: the job may have ended meanwhile, else say how to go on with it."""
        if isinstance(jobs.store, MemoryJobStore):
            self.output.note("Stopped. The job was in memory and is gone.")
            return Exit.INTERRUPTED
        async with opened(self.options.store, self.app) as reader:
            summary = await reader.get_summary(job_id)
            if summary.status.is_final:
                return await self.finish(reader, job_id)
        name = job_name(summary.workflow_id, job_id)
        again = self.invocation.again("--resume")
        if self.output.as_json:
            self.output.document({"id": job_id, "job": name, "status": summary.status, "resume": again})
        if summary.status == JobStatus.RUNNING:
            self.output.note(f"Stopped. {name} is RUNNING in another worker; watch it there by\n  {again}")
        else:
            self.output.note(f"Stopped. {name} is {summary.status} and keeps what is done. Go on with it by\n  {again}")
        return Exit.INTERRUPTED


@contextlib.asynccontextmanager
async def watching(jobs: JobManager, job_id: str, after: int = 0) -> AsyncIterator[AsyncIterator[Event]]:
    """The job's events after a number, closed properly when the reader leaves early."""
    async with contextlib.aclosing(jobs.watch(job_id, after)) as events:
        yield events


async def first_event(jobs: JobManager, job_id: str) -> Event:
    """`job.created`: it names the definition and holds the inputs."""
    async with watching(jobs, job_id) as events:
        return await anext(events)


async def take_history(jobs: JobManager, view: JobView, job_id: str, known: int) -> None:
    """Fold what happened before anybody looked, up to event number `known`."""
    if view.number >= known:
        return
    async with watching(jobs, job_id, view.number) as events:
        async for event in events:
            view.take(event)
            if event.number >= known:
                return


def stopping(jobs: JobManager) -> str:
    """What a gentle stop means, for people."""
    limit_s = jobs.settings.stop_timeout_s
    return f"what runs now may end, for {limit_s:g} s at most. Ctrl-C (or SIGTERM) again stops at once."


async def _draw(jobs: JobManager, display: Display) -> None:
    while True:
        display.refresh(jobs.clock.now_us())
        await asyncio.sleep(REFRESH_S)
