"""Reading an export: every line is checked before anything is made of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

from openagents_json.errors import InvalidExport, OpenAgentsError
from openagents_json.job.events import EVENT_TYPES, Event
from openagents_json.job.machine import JobState, fold
from openagents_json.job.moving.format import (
    LINE_BYTES,
    AnyLine,
    DefinitionLine,
    EndLine,
    EventsLine,
    FamilyLine,
    Header,
    JobLine,
    OutputLine,
    WithdrawnLine,
    decode_line,
)
from openagents_json.job.store import Definition, NewJob, row_of
from openagents_json.job.store.moving import MovedJob
from openagents_json.jsondata import decode
from openagents_json.workflow import Plan, build_plan, stored_workflow

PLANS_KEPT = 64


@dataclass(slots=True)
class Family:
    """A job with its attached children, ready to be restored. `line` is that of the job."""

    line: int
    jobs: list[MovedJob]
    events: int

    @property
    def root(self) -> MovedJob:
        return self.jobs[0]


@dataclass(slots=True)
class _Open:
    """A job whose events are being read."""

    line: int
    job: JobLine
    events: list[Event] = field(default_factory=list)


class ExportReader:
    """Reads a file from where it stands to its end. Holds the definitions and one family at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self._definitions: dict[str, Definition] = {}
        self._plans: OrderedDict[str, Plan] = OrderedDict()
        self._open: list[_Open] = []
        self._family: set[str] = set()  # ids of the family before
        self._jobs = self._events = 0

    def items(self) -> Iterator[Family | OutputLine]:
        """The families, each followed by its output. `InvalidExport` names the line and what is wrong with it."""
        for line in self._lines():
            match line:
                case DefinitionLine():
                    self._define(line)
                case JobLine():
                    self._open.append(_Open(self._number, line))
                case EventsLine():
                    self._add_events(line)
                case FamilyLine():
                    yield self._whole(line)
                case WithdrawnLine():
                    if not self._open or self._open[0].job.id != line.job:
                        self._refuse(f"it withdraws job {line.job}, which is not the one before it")
                    self._open, self._family = [], set()
                case OutputLine():
                    if self._open or line.job not in self._family:
                        self._refuse(f"it is output of job {line.job}, which is not of the family before it")
                    yield line
                case Header() | EndLine():
                    pass

    def _lines(self) -> Iterator[AnyLine]:
        digest = hashlib.sha256()
        line: AnyLine | None = None
        while data := self._file.readline(LINE_BYTES + 1):
            self._number += 1
            if isinstance(line, EndLine):
                self._refuse("something follows the end of the export")
            if len(data) > LINE_BYTES:
                self._refuse(f"it is longer than {LINE_BYTES:,} bytes")
            if not data.endswith(b"\n"):
                self._refuse("it is cut off: the file is not whole. Export again")
            line = decode_line(data, self._number)
            if isinstance(line, EndLine):
                self._compare(line, digest.hexdigest())
            digest.update(data)
            yield line
        if self._number == 0:
            raise InvalidExport("the file is empty", 1)
        if not isinstance(line, EndLine):
            self._refuse("the export ends here without its last line: the file is not whole. Export again")

    def _compare(self, end: EndLine, sha256: str) -> None:
        if self._open:
            self._refuse(f"the export ends within job {self._open[-1].job.id}")
        if end.sha256 != sha256:
            self._refuse("the checksum does not fit: the lines before it are not those that were written")
        found = (self._jobs, self._events, len(self._definitions))
        if found != (end.jobs, end.events, end.definitions):
            self._refuse(
                f"it counts {end.jobs:,} jobs, {end.events:,} events and {end.definitions:,} definitions, and there "
                f"are {found[0]:,}, {found[1]:,} and {found[2]:,}"
            )

    def _refuse(self, why: str, line: int | None = None) -> NoReturn:
        raise InvalidExport(why, line or self._number)

    def _define(self, line: DefinitionLine) -> None:
        document = bytes(line.document)
        if hashlib.sha256(document).hexdigest() != line.hash:
            self._refuse(f"the definition is not the one that its hash {line.hash} is of")
        definition = Definition(line.hash, line.workflow_id, line.version, document)
        plan = self._plan(definition)
        if (plan.workflow.id, plan.workflow.version) != (line.workflow_id, line.version):
            self._refuse(f"the definition is of {plan.workflow.id} {plan.workflow.version}, not what the line says")
        self._definitions[line.hash] = definition

    def _plan(self, definition: Definition) -> Plan:
        plan = self._plans.get(definition.hash)
        if plan is None:
            try:
                plan = build_plan(stored_workflow(decode(definition.document)))
            except (ValueError, KeyError, TypeError, OpenAgentsError) as error:
                self._refuse(f"the definition cannot be read: {_short(error)}")
            self._plans[definition.hash] = plan
            if len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(definition.hash)
        return plan

    def _add_events(self, line: EventsLine) -> None:
        if not self._open or self._open[-1].job.id != line.job:
            self._refuse(f"it has events of job {line.job}, which is not the one before it")
        known = self._open[-1].events
        for event in line.events:
            if event.number != len(known) + 1:
                self._refuse(f"job {line.job} has {len(known):,} events before it, and event {event.number:,} follows")
            if event.type not in EVENT_TYPES:
                self._refuse(f"event {event.number:,} of job {line.job} is {event.type!r}, which is not known here")
            known.append(event)

    def _whole(self, line: FamilyLine) -> Family:
        opened, self._open = self._open, []
        if not opened or opened[0].job.id != line.job or len(opened) != line.jobs:
            self._refuse(f"the family of job {line.job} has {line.jobs:,} jobs, and {len(opened):,} stand before it")
        ids = [one.job.id for one in opened]
        for place, one in enumerate(opened):
            parent = one.job.parent_id
            if one.job.id in ids[:place]:
                self._refuse(f"job {one.job.id} is there twice", one.line)
            if (parent is None) != (place == 0) or (parent is not None and parent not in ids[:place]):
                self._refuse(f"job {one.job.id} does not stand behind its parent", one.line)
        jobs = [self._moved(one) for one in opened]
        events = sum(len(one.events) for one in opened)
        self._family = set(ids)
        self._jobs += len(jobs)
        self._events += events
        return Family(opened[0].line, jobs, events)

    def _moved(self, one: _Open) -> MovedJob:
        """The job with its row, which follows from its history."""
        job = one.job
        if job.definition not in self._definitions:
            self._refuse(f"the definition {job.definition} of job {job.id} does not stand before it", one.line)
        if len(one.events) != job.events or not one.events:
            self._refuse(f"job {job.id} has {job.events:,} events, and {len(one.events):,} follow it", one.line)
        definition = self._definitions[job.definition]
        plan = self._plan(definition)
        try:
            state = fold(plan, one.events)
            row = row_of(state)
            said = _said(job, definition, state, one.events[0])
        except Exception as error:  # rules read events as the machine makes them: whatever they raise, it made others
            self._refuse(
                f"the history of job {job.id} does not fold: {type(error).__name__}: {_short(error)}", one.line
            )
        for name, (line, history) in said.items():
            if line != history:
                self._refuse(f"{name} of job {job.id} is {line!r}, and its history says {history!r}", one.line)
        if job.limit is not None and (job.limit.limit < 1 or job.limit.workflow_id != definition.workflow_id):
            self._refuse(f"the limit of job {job.id} is none of its workflow", one.line)
        new = NewJob(
            job.id, definition, row, one.events, job.created_us, tuple(job.tags), job.idempotency_key, job.body_hash,
            job.parent_id, job.origin_id, job.limit,
        )  # fmt: skip
        return MovedJob(
            new, job.owner, job.epoch, job.queued_us, job.queued_total_us, job.requests, job.drained, job.leaks
        )


def _said(job: JobLine, definition: Definition, state: JobState, created: Event) -> dict[str, tuple[Any, Any]]:
    """What both the line of a job and its history say, by name. A line may lack the key that the history has."""
    parent = state.parent if state.parent is not None and not state.parent["detached"] else None
    key = created.data.get("idempotency_key")
    return {
        "id": (job.id, state.job_id),
        "status": (str(job.status), str(state.status)),
        "definition": (job.definition, created.data["definition"]),
        "workflow": (definition.workflow_id, state.workflow_id),
        "version": (definition.version, state.version),
        "created_us": (job.created_us, state.created_us),
        "tags": (job.tags, state.tags),
        "idempotency_key": (job.idempotency_key or key, key),
        "parent_id": (job.parent_id, None if parent is None else parent["job_id"]),
        "origin_id": (job.origin_id, None if state.origin is None else state.origin["job_id"]),
    }


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:299] + "…"
