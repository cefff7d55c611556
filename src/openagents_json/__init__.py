"""openagents_json: an embeddable job manager. JSON workflows of Python components run as durable jobs."""

from openagents_json.app import OpenAgentsApp
from openagents_json.components import ComponentRegistry, StepContext
from openagents_json.errors import (
    FatalError,
    IdempotencyConflict,
    InvalidDefinition,
    InvalidInputs,
    InvalidTransition,
    JobNotFound,
    OpenAgentsError,
    ResultsNotReady,
    RetryableError,
    StepFailure,
    StoreError,
    StoreUnavailable,
    WaitTimeout,
)
from openagents_json.job.events import Event
from openagents_json.job.manager import JobManager
from openagents_json.job.model import (
    Job,
    JobPriority,
    JobStatus,
    JobSummary,
    OutputText,
    Page,
    StepStatus,
    WorkerSummary,
)
from openagents_json.job.store import FileJobStore, JobStore, MemoryJobStore, SqliteJobStore
from openagents_json.settings import Settings
from openagents_json.version import VERSION
from openagents_json.workflow import SecretProvider, Workflow, WorkflowRegistry, check

__version__ = VERSION

__all__ = [
    "ComponentRegistry",
    "Event",
    "FatalError",
    "FileJobStore",
    "IdempotencyConflict",
    "InvalidDefinition",
    "InvalidInputs",
    "InvalidTransition",
    "Job",
    "JobManager",
    "JobNotFound",
    "JobPriority",
    "JobStatus",
    "JobStore",
    "JobSummary",
    "MemoryJobStore",
    "OpenAgentsApp",
    "OpenAgentsError",
    "OutputText",
    "Page",
    "ResultsNotReady",
    "RetryableError",
    "SecretProvider",
    "Settings",
    "SqliteJobStore",
    "StepContext",
    "StepFailure",
    "StepStatus",
    "StoreError",
    "StoreUnavailable",
    "WaitTimeout",
    "WorkerSummary",
    "Workflow",
    "WorkflowRegistry",
    "__version__",
    "check",
]
