"""Settings: from arguments, then the environment (`OPENAGENTS_…`), then `.env`, validated once."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from openagents_json.errors import InvalidSettings
from openagents_json.resources import OFFERED_RESOURCES, PROCESSES, STEPS, THREADS, problem_with

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Finite


class Settings(BaseSettings):
    """Every setting with its default. The environment variable of `max_jobs` is `OPENAGENTS_MAX_JOBS`."""

    model_config = SettingsConfigDict(env_prefix="OPENAGENTS_", env_file=".env", extra="ignore", frozen=True)

    job_store_type: Literal["memory", "file", "database"] | None = Field(
        default=None, description="Where jobs are kept; None: memory for JobManager, database for OpenAgentsApp"
    )
    job_store_path: str | None = Field(default=None, description="Place or URL of the store")
    job_retention_days: Finite | None = Field(
        default=7, ge=0, description="Final jobs older than this are deleted by themselves; None keeps them"
    )
    max_jobs: int = Field(default=256, ge=1, le=100_000, description="Jobs that a worker runs at a time")
    max_steps: int = Field(default=1_000, ge=1, le=100_000, description="Steps that a worker runs at a time")
    max_threads: int = Field(default=32, ge=1, le=1_000, description="Of these, steps that run in threads")
    max_processes: int = Field(default=4, ge=1, le=1_000, description="And steps that run in processes of their own")
    max_preemptions: int = Field(
        default=3, ge=0, le=1_000, description="How often a job makes room for more urgent ones; 0: it never does"
    )
    resources: dict[str, float] = Field(
        default={}, description="What a worker has of each resource, by name; changes what it says by itself"
    )
    calls_per_process: int = Field(default=1_000, ge=1, description="Calls after which a process is replaced")
    capture_output: bool = Field(default=True, description="Keep what components print and log, for `jobs logs`")
    echo_output: bool = Field(default=True, description="And print it as well, as if nobody kept it")
    linger_s: Seconds = Field(default=5.0, ge=0, description="A job that waits longer than this is let go of")
    lease_s: Seconds = Field(default=30.0, ge=1, description="A worker not heard of for so long counts as dead")
    cancel_grace_s: Seconds = Field(default=10.0, ge=0, description="What cancel gives running attempts to end")
    kill_s: Seconds = Field(default=2.0, ge=0, description="What a killed process gets to be gone")
    cleanup_timeout_s: Seconds = Field(
        default=600.0, gt=0, description="What compensation gets to undo completed steps, and then the finally steps"
    )
    abandon_after_s: Seconds = Field(default=10.0, ge=0, description="What a timeout gives an attempt to end")
    stop_timeout_s: Seconds = Field(default=10.0, ge=0, description="How long leaving the manager may take")
    shutdown_grace_s: Seconds = Field(default=2.0, ge=0, description="Of it, attempts told to stop get this to end")

    @field_validator("resources")
    @classmethod
    def _check_resources(cls, given: dict[str, float]) -> dict[str, float]:
        if problem := problem_with(given, OFFERED_RESOURCES):
            raise ValueError(f"the resources of a worker {problem.removesuffix('.')}")
        for name in (STEPS, THREADS, PROCESSES):
            if given.get(name, 1) < 1:
                raise ValueError(f"the resources of a worker say {name} = {given[name]:g}; give 1 or more")
        return given


def load_settings(**given: Any) -> Settings:
    """The settings of this process; what is given wins, None included. `InvalidSettings` lists every problem."""
    if unknown := sorted(given.keys() - Settings.model_fields.keys()):
        near = difflib.get_close_matches(unknown[0], Settings.model_fields, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(Settings.model_fields)}."
        raise InvalidSettings(f"There is no setting {unknown[0]!r}. {hint}")
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidSettings(f"The settings are not valid: {problems}.") from None
