"""Readable failures for the contract suite, which is no test module itself, and an empty SQLite store to copy."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from openagents_json.job.store.sqlite_schema import connect, migrate

pytest.register_assert_rewrite("openagents_json.job.store.contract")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "jobs.db"
    with closing(connect(path)) as connection:
        migrate(connection, path, 1)
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """An empty store of this test's own: copied, because making one syncs a dozen times."""
    return Path(shutil.copy(empty_database, tmp_path / "jobs.db"))
