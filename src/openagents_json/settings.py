"""Settings: from arguments, then the environment (`OPENAGENTS_…`), then `.env`, validated once."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from openagents_json.errors import InvalidSettings

Seconds = float


class Settings(BaseSettings):
    """Every setting with its default. The environment variable of `max_jobs` is `OPENAGENTS_MAX_JOBS`."""

    model_config = SettingsConfigDict(env_prefix="OPENAGENTS_", env_file=".env", extra="ignore", frozen=True)

    job_store_type: Literal["memory", "file", "database"] | None = Field(
        default=None, description="Where jobs are kept; None: memory for JobManager, database for OpenAgentsApp"
    )
    job_store_path: str | None = Field(default=None, description="File or URL of the database store")
    job_retention_days: float | None = Field(
        default=7, ge=0, description="Final jobs older than this are deleted by themselves; None keeps them"
    )
    max_jobs: int = Field(default=256, ge=1, le=100_000, description="Jobs that a worker runs at a time")
    max_steps: int = Field(default=1_000, ge=1, le=100_000, description="Steps that a worker runs at a time")
    max_threads: int = Field(default=32, ge=1, le=1_000, description="Of these, steps that run in threads")
    linger_s: Seconds = Field(default=5.0, ge=0, description="A job that waits longer than this is let go of")
    lease_s: Seconds = Field(default=30.0, ge=1, description="A worker not heard of for so long counts as dead")
    cancel_grace_s: Seconds = Field(default=10.0, ge=0, description="What cancel gives running attempts to end")
    abandon_after_s: Seconds = Field(default=10.0, ge=0, description="What a timeout gives an attempt to end")
    stop_timeout_s: Seconds = Field(default=10.0, ge=0, description="What leaving the manager gives running attempts")
    shutdown_grace_s: Seconds = Field(default=2.0, ge=0, description="And, told to stop after that, to end")


def load_settings(**given: Any) -> Settings:
    """The settings of this process; arguments that are not None win. `InvalidSettings` lists every problem."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidSettings(f"The settings are not valid: {problems}.") from None
