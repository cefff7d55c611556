"""Every error of the package, as one tree.

    OpenAgentsError
    ├── InvalidSettings            settings that contradict each other or do not parse
    ├── ComponentError
    │   ├── ComponentNotFound      no component of that name (with the nearest one)
    │   ├── DuplicateComponent     the name and version are taken
    │   └── InvalidComponent       a callable that cannot be a component
    ├── InvalidDefinition          a workflow definition with problems, all of them
    ├── WorkflowNotFound
    ├── WorkflowConflict           the same id and version with other content
    ├── ExpressionError            an expression that does not compile or evaluate
    ├── InvalidInputs              inputs of a job that do not fit the workflow, all problems
    ├── JobError                   (carries job_id)
    │   ├── JobNotFound
    │   ├── LeakNotFound
    │   ├── AmbiguousJobId         a prefix that fits several jobs
    │   ├── InvalidTransition      a verb that the job's status does not allow
    │   ├── ResultsNotReady        outputs asked of a job that has none (yet)
    │   ├── IdempotencyConflict    the key was used for another body
    │   ├── LimitReached           the workflow's `concurrency` lets no further job start
    │   └── WaitTimeout            the job did not become what was waited for in time
    ├── InvalidExport              a file of exported jobs that is not whole, or not as it was written
    ├── InvalidQuery               a filter, order or cursor of list_jobs that is not understood
    ├── StepFailure                what a component may raise to say more than "failed"
    │   ├── RetryableError         worth another attempt, perhaps after delay_s
    │   └── FatalError             no further attempt will help
    └── StoreError
        ├── StoreUnavailable       cannot be opened, read or written now; nothing was acknowledged
        │   └── StoreFull          no space left
        ├── InvalidStore           the place holds something else (a directory, another file)
        ├── SchemaTooNew           written by a newer version of this package
        ├── LeaseLost              another worker owns the job now; nothing was written
        └── RequestsPending        a final commit met requests that it has not seen; nothing was written

Errors carry their facts as attributes; `code` is the dotted type under which an error stands in a job's record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Level: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document, and where.

    `path` is a JSON path such as `$.steps[2].inputs.url`; `line` and `column` count from 1 and are None where the
    document did not come from text. `level`: an error keeps a definition from running, a warning tells what is likely
    to fail some day, a note what is good to know.
    """

    path: str
    message: str
    suggestion: str | None = None
    line: int | None = None
    column: int | None = None
    level: Level = "error"

    def __str__(self) -> str:
        place = f"{self.path} (line {self.line}, column {self.column})" if self.line else self.path
        level = "" if self.level == "error" else f"{self.level}: "
        return f"{place}: {level}{self.message}" + (f" {self.suggestion}" if self.suggestion else "")


class OpenAgentsError(Exception):
    """The root: catch this to catch everything that this package raises on purpose."""

    code = "error"


class InvalidSettings(OpenAgentsError):
    """Settings that do not parse or contradict each other; the message names each one."""

    code = "settings.invalid"


# ── components ────────────────────────────────────────────────────────────────────────────────────────────────────


class ComponentError(OpenAgentsError):
    """Something is wrong with a component's registration."""

    code = "component"

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class ComponentNotFound(ComponentError):
    code = "component.not_found"


class DuplicateComponent(ComponentError):
    code = "component.duplicate"


class InvalidComponent(ComponentError):
    code = "component.invalid"


# ── workflows ─────────────────────────────────────────────────────────────────────────────────────────────────────


class InvalidDefinition(OpenAgentsError):
    """A definition that cannot be registered. `problems` holds all that was found."""

    code = "definition.invalid"

    def __init__(self, problems: Sequence[Problem], source: str = "the definition") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{source} has {count}:\n" + "\n".join(f"  {problem}" for problem in self.problems))


class WorkflowNotFound(OpenAgentsError):
    code = "workflow.not_found"

    def __init__(self, message: str, *, workflow_id: str = "") -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowConflict(OpenAgentsError):
    """The same id and version was registered with other content; raise the version, or end it with `-dev`."""

    code = "workflow.conflict"


class ExpressionError(OpenAgentsError):
    """An expression that does not compile or evaluate.

    `code` says which way (`expression.syntax`, `expression.undefined`, `expression.invalid`, `limit.expression`),
    `expression` holds its source.
    """

    def __init__(self, message: str, *, expression: str = "", code: str = "expression.invalid") -> None:
        super().__init__(message)
        self.expression = expression
        self.code = code


class InvalidInputs(OpenAgentsError):
    """Inputs that do not fit the workflow's schema. `problems` holds all of them, with paths such as `$.path`."""

    code = "input.invalid"

    def __init__(self, problems: Sequence[Problem], subject: str = "the inputs") -> None:
        self.problems = tuple(problems)
        super().__init__(f"{subject} are not valid:\n" + "\n".join(f"  {problem}" for problem in self.problems))


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class JobError(OpenAgentsError):
    code = "job"

    def __init__(self, message: str, *, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotFound(JobError):
    code = "job.not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}. `openagents jobs list` shows the ones there are.", job_id=job_id)


class LeakNotFound(JobError):
    code = "leak.not_found"

    def __init__(self, key: int) -> None:
        super().__init__(f"There is no leak {key}. `openagents jobs leaks` shows the ones there are.")


class AmbiguousJobId(JobError):
    """A prefix that fits several jobs; `candidates` are some of them."""

    code = "job.ambiguous"

    def __init__(self, job_id: str, candidates: Sequence[str]) -> None:
        super().__init__(f"{job_id!r} fits several jobs: {', '.join(candidates)}. Give more characters.", job_id=job_id)
        self.candidates = tuple(candidates)


class InvalidTransition(JobError):
    """A verb that the job's status does not allow. `status` is what it is, `allowed` the verbs that would work."""

    code = "job.invalid_transition"

    def __init__(self, job_id: str, verb: str, status: str, allowed: Sequence[str], why: str = "") -> None:
        possible = f"Allowed now: {', '.join(allowed)}." if allowed else "Nothing can be done to it any more."
        reason = f" ({why})" if why else ""
        super().__init__(f"Cannot {verb} job {job_id}: it is {status}{reason}. {possible}", job_id=job_id)
        self.verb, self.status, self.allowed = verb, status, tuple(allowed)


class ResultsNotReady(JobError):
    """The job has no outputs: it is not final yet, or ended otherwise than COMPLETED. `status` tells."""

    code = "job.results_not_ready"

    def __init__(self, job_id: str, status: str, detail: str = "") -> None:
        super().__init__(f"Job {job_id} has no results: it is {status}.{' ' + detail if detail else ''}", job_id=job_id)
        self.status = status


class IdempotencyConflict(JobError):
    """The idempotency key was used before, for a job with another workflow or other inputs (`job_id` names it)."""

    code = "job.idempotency_conflict"


class LimitReached(JobError):
    """The job may not start: as many jobs as its workflow's `concurrency` lets are on already, and `overflow` is
    reject. `key` is the workflow's id with the key's value as JSON behind a space, `limit` how many jobs it lets,
    `held_by` are the ids of those, 10 at most."""

    code = "job.limit_reached"

    def __init__(
        self, message: str, *, job_id: str = "", key: str = "", limit: int = 0, held_by: Sequence[str] = ()
    ) -> None:
        super().__init__(message, job_id=job_id)
        self.key, self.limit, self.held_by = key, limit, tuple(held_by)


class WaitTimeout(JobError):
    """The job was not final, or not PAUSED, within the time given to wait for that; it goes on."""

    code = "job.wait_timeout"


class InvalidExport(OpenAgentsError):
    """A file of exported jobs that cannot be imported. `line` (from 1) says where; nothing was written."""

    code = "export.invalid"

    def __init__(self, why: str, line: int) -> None:
        super().__init__(f"The export cannot be imported: line {line:,}: {why}. Nothing was imported.")
        self.line = line


class InvalidQuery(OpenAgentsError):
    code = "query.invalid"


# ── what components may raise ─────────────────────────────────────────────────────────────────────────────────────


class StepFailure(OpenAgentsError):
    """A failure with a type of the component's own, such as `http.404`; `details` is plain JSON for the record."""

    code = "component.StepFailure"
    retryable: bool | None = None  # None: the step's retry policy decides by type

    def __init__(self, type: str, message: str = "", *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message or type)
        self.code = type
        self.details = details


class RetryableError(StepFailure):
    """Worth another attempt; `delay_s` (for example a server's Retry-After) replaces a shorter backoff."""

    retryable = True

    def __init__(
        self, type: str, message: str = "", delay_s: float | None = None, *, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(type, message, details=details)
        self.delay_s = delay_s


class FatalError(StepFailure):
    """No further attempt will help, whatever the retry policy says."""

    retryable = False


# ── stores ────────────────────────────────────────────────────────────────────────────────────────────────────────


class StoreError(OpenAgentsError):
    code = "store"


class StoreUnavailable(StoreError):
    code = "store.unavailable"


class StoreFull(StoreUnavailable):
    code = "store.full"


class InvalidStore(StoreError):
    code = "store.invalid"


class SchemaTooNew(StoreError):
    code = "store.schema_too_new"


class LeaseLost(StoreError):
    code = "store.lease_lost"


class RequestsPending(StoreError):
    code = "store.requests_pending"
