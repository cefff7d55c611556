"""Where an app keeps its jobs, by keyword, settings object or a URL in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from openagents_json import JobManager, MemoryJobStore, OpenAgentsApp, SqliteJobStore
from openagents_json.settings import load_settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TYPE", "PATH"):
        monkeypatch.delenv(f"OPENAGENTS_JOB_STORE_{name}", raising=False)


def path_of(jobs: JobManager) -> Path:
    assert isinstance(jobs.store, SqliteJobStore)
    return jobs.store.path


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
