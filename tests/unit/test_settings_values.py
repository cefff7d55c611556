"""Settings: arguments over the environment over `.env`, validated once, every problem named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openagents_json.errors import InvalidSettings
from openagents_json.job.store import FileJobStore, make_store
from openagents_json.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder to stand in, and no variables."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"OPENAGENTS_{name.upper()}", raising=False)


def test_defaults_are_those_of_the_docs() -> None:
    settings = load_settings()
    assert (settings.job_store_type, settings.job_store_path, settings.job_retention_days) == (None, None, 7)
    assert (settings.max_jobs, settings.max_steps, settings.linger_s, settings.lease_s) == (256, 1_000, 5.0, 30.0)


def test_arguments_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OPENAGENTS_MAX_JOBS=1\nOPENAGENTS_MAX_STEPS=1\nOPENAGENTS_LINGER_S=1\nOTHER=x\n")
    monkeypatch.setenv("OPENAGENTS_MAX_JOBS", "2")
    monkeypatch.setenv("OPENAGENTS_MAX_STEPS", "2")
    settings = load_settings(max_jobs=3)
    assert (settings.max_jobs, settings.max_steps, settings.linger_s) == (3, 2, 1.0)


def test_argument_of_none_wins_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAGENTS_JOB_RETENTION_DAYS", "30")
    assert load_settings().job_retention_days == 30
    assert load_settings(job_retention_days=None).job_retention_days is None


def test_unknown_argument_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidSettings, match="Did you mean 'max_jobs'"):
        load_settings(max_job=3)
    with pytest.raises(InvalidSettings, match="There are: job_store_type"):
        load_settings(colour="red")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().max_jobs = 3


BAD: list[tuple[str, Any]] = [
    ("job_store_type", "redis"),
    ("job_store_path", 3),
    ("job_retention_days", -1),
    ("job_retention_days", "soon"),
    ("max_jobs", 0),
    ("max_jobs", 100_001),
    ("max_jobs", "many"),
    ("max_steps", 0),
    ("max_steps", 100_001),
    ("max_threads", 0),
    ("max_threads", 1_001),
    ("linger_s", -0.1),
    ("lease_s", 0.9),
    ("cancel_grace_s", -1),
    ("abandon_after_s", -1),
    ("stop_timeout_s", -1),
    ("shutdown_grace_s", -1),
    ("shutdown_grace_s", "a minute"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=name) as caught:
        load_settings(**{name: value})
    assert caught.value.code == "settings.invalid"


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_jobs", 1), ("max_jobs", 100_000), ("max_threads", 1_000), ("linger_s", 0), ("lease_s", 1)],
)
def test_value_at_a_limit_is_taken(name: str, value: Any) -> None:
    assert getattr(load_settings(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["linger_s", "lease_s", "cancel_grace_s", "job_retention_days"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_time_that_never_comes_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"OPENAGENTS_{name.upper()}", value)
    with pytest.raises(InvalidSettings, match=name):
        load_settings()


def test_every_problem_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAGENTS_MAX_JOBS", "none")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(lease_s=0, linger_s="x")
    assert all(name in str(caught.value) for name in ("max_jobs", "lease_s", "linger_s"))


def test_file_store_is_made_by_name_or_url(tmp_path: Path) -> None:
    assert load_settings(job_store_type="file").job_store_type == "file"
    for store in (make_store("file", tmp_path / "a"), make_store(f"file:///{tmp_path}/a")):
        assert isinstance(store, FileJobStore) and store.path == tmp_path / "a"
    with pytest.raises(InvalidSettings, match="no path"):
        make_store("file:///")
