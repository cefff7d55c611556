"""Settings: where they come from, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from openagents_json import JobManager, MemoryJobStore, OpenAgentsApp, SqliteJobStore
from openagents_json.errors import InvalidSettings
from openagents_json.settings import load_settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def path_of(jobs: JobManager) -> Path:
    assert isinstance(jobs.store, SqliteJobStore)
    return jobs.store.path


def test_app_without_settings_keeps_jobs_in_a_file_of_the_working_directory(tmp_path: Path) -> None:
    assert path_of(OpenAgentsApp().manager()) == tmp_path / "openagents.db"


def test_app_takes_its_store_from_keywords(tmp_path: Path) -> None:
    assert path_of(OpenAgentsApp(job_store_path="mine.db").manager()) == tmp_path / "mine.db"
    assert path_of(OpenAgentsApp(path="mine.db").manager()) == tmp_path / "mine.db"
    assert isinstance(OpenAgentsApp(job_store_type="memory").manager().store, MemoryJobStore)


def test_app_takes_its_store_from_given_settings(tmp_path: Path) -> None:
    settings = load_settings(job_store_path="mine.db")
    assert path_of(OpenAgentsApp(settings=settings).manager()) == tmp_path / "mine.db"


@pytest.mark.parametrize("written", ["jobs.db", "sqlite:///jobs.db"])
def test_store_path_of_the_environment_may_be_a_file_or_a_url(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAGENTS_JOB_STORE_PATH", written)
    assert path_of(OpenAgentsApp().manager()) == tmp_path / "jobs.db"


def test_store_that_is_named_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAGENTS_JOB_STORE_TYPE", "database")
    assert isinstance(OpenAgentsApp("memory").manager().store, MemoryJobStore)


def test_retention_of_none_keeps_jobs() -> None:
    assert JobManager(job_retention_days=None).settings.job_retention_days is None


def test_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidSettings, match=r"max_stesp.*Did you mean 'max_steps'"):
        JobManager(max_stesp=3)


def test_dot_env_is_read_and_the_environment_wins_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("OPENAGENTS_MAX_JOBS=5\nOPENAGENTS_MAX_STEPS=6\n")
    monkeypatch.setenv("OPENAGENTS_MAX_STEPS", "7")
    settings = load_settings()
    assert (settings.max_jobs, settings.max_steps) == (5, 7)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(InvalidSettings, match=r"max_jobs: .*; lease_s: "):
        load_settings(max_jobs=0, lease_s=-1)
