"""OpenAgentsApp: components, workflows and jobs behind one object."""

from __future__ import annotations

from pathlib import Path

import pytest

from openagents_json import OpenAgentsApp
from openagents_json.errors import InvalidDefinition, InvalidSettings
from openagents_json.job.store import FileJobStore, MemoryJobStore, SqliteJobStore
from openagents_json.testing import FakeClock

DEFINITION = {
    "id": "greet",
    "inputs": {"type": "object", "properties": {"name": {"type": "string"}}},
    "steps": [{"id": "say", "component": "hello", "inputs": {"name": "{{ inputs.name }}"}}],
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TYPE", "PATH"):
        monkeypatch.delenv(f"OPENAGENTS_JOB_STORE_{name}", raising=False)


def greeter(store: str | MemoryJobStore | None = None) -> OpenAgentsApp:
    app = OpenAgentsApp(store)

    @app.tool("hello")
    async def hello(name: str) -> str:
        return f"hello {name}"

    return app


async def test_app_registers_and_runs_a_workflow() -> None:
    app = greeter("memory")
    assert app.register_workflow(DEFINITION).id == "greet"
    async with app.jobs as jobs:
        job_id = await jobs.create_job("greet", {"name": "you"}, start=True)
        job = await jobs.wait(job_id, timeout_s=10)
    assert job.outputs == {"say": "hello you"}


async def test_agent_and_capability_are_registered_under_their_names() -> None:
    app = OpenAgentsApp("memory")

    @app.agent("text")
    class Text:
        @app.capability()
        async def shout(self, text: str) -> str:
            return text.upper()

    app.register_workflow({"id": "w", "steps": [{"id": "a", "component": "text.shout", "inputs": {"text": "hi"}}]})
    async with app.jobs as jobs:
        job = await jobs.wait(await jobs.create_job("w", start=True), timeout_s=10)
    assert job.outputs == {"a": "HI"}


def test_builtin_components_are_there() -> None:
    OpenAgentsApp().register_workflow(
        {"id": "w", "steps": [{"id": "a", "component": "core.echo", "inputs": {"value": 1}}]}
    )


def test_definition_is_checked_against_the_components_of_the_app() -> None:
    with pytest.raises(InvalidDefinition, match="There is no component 'hello'"):
        OpenAgentsApp().register_workflow(DEFINITION)


def test_jobs_is_one_manager_and_manager_makes_another() -> None:
    app = greeter("memory")
    assert app.jobs is app.jobs
    assert app.manager() is not app.jobs


def test_store_comes_from_the_argument_then_the_settings_then_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    own = MemoryJobStore()
    assert OpenAgentsApp(own).jobs.store is own
    assert OpenAgentsApp().manager("memory").store is not None
    default = OpenAgentsApp().jobs.store
    assert isinstance(default, SqliteJobStore)
    assert Path(default.path).name == "openagents.db"
    monkeypatch.setenv("OPENAGENTS_JOB_STORE_PATH", "other.db")
    named = OpenAgentsApp().jobs.store
    assert isinstance(named, SqliteJobStore)
    assert Path(named.path).name == "other.db"
    monkeypatch.setenv("OPENAGENTS_JOB_STORE_TYPE", "memory")
    assert isinstance(OpenAgentsApp().jobs.store, MemoryJobStore)
    assert isinstance(OpenAgentsApp("sqlite:///x.db").jobs.store, SqliteJobStore)


def test_options_of_the_app_reach_the_manager_and_its_own_win() -> None:
    app = OpenAgentsApp("memory", clock=FakeClock(), max_jobs=3)
    assert app.jobs.settings.max_jobs == 3
    assert app.manager(max_jobs=4).settings.max_jobs == 4
    with pytest.raises(InvalidSettings, match="max_jobs"):
        OpenAgentsApp("memory", max_jobs=0).manager()


def test_file_store_is_a_folder_of_the_current_one_or_of_a_path(tmp_path: Path) -> None:
    store = OpenAgentsApp("file").manager().store
    assert isinstance(store, FileJobStore) and store.path == Path.cwd() / "openagents.jobs"
    for path in (str(tmp_path / "mine"), f"file:///{tmp_path / 'mine'}"):
        store = OpenAgentsApp("file", path=path).manager().store
        assert isinstance(store, FileJobStore) and store.path == tmp_path / "mine"
