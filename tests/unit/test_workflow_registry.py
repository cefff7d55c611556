"""The registry of workflows: versions, conflicts, folders and plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openagents_json.components import ComponentRegistry
from openagents_json.errors import InvalidDefinition, WorkflowConflict, WorkflowNotFound
from openagents_json.workflow import WorkflowRegistry
from openagents_json.workflow import registry as registry_module


def definition(id: str = "w", version: str = "1.0.0", value: Any = 1) -> dict[str, Any]:
    return {"id": id, "version": version, "steps": [{"id": "a", "set": value}]}


def registry_of(*versions: str) -> WorkflowRegistry:
    registry = WorkflowRegistry()
    for version in versions:
        registry.register(definition(version=version))
    return registry


@pytest.mark.parametrize(
    ("versions", "highest"),
    [
        (["1.0.0", "1.10.0", "1.9.0"], "1.10.0"),
        (["1.0.0", "2.0.0-rc.1", "2.0.0-dev"], "1.0.0"),
        (["2.0.0-rc.2", "2.0.0-rc.10"], "2.0.0-rc.10"),
        (["1.0.0+x-y"], "1.0.0+x-y"),
    ],
)
def test_without_a_version_the_highest_release_is_given(versions: list[str], highest: str) -> None:
    assert registry_of(*versions).get("w").version == highest


def test_named_version_is_given_exactly() -> None:
    registry = registry_of("1.0.0", "2.0.0")
    assert registry.get("w", "1.0.0").version == "1.0.0"
    assert [workflow.version for workflow in registry.list()] == ["1.0.0", "2.0.0"]
    assert len(registry) == 2
    assert "w" in registry
    assert "v" not in registry


@pytest.mark.parametrize(("version", "words"), [("3.0.0", "no version '3.0.0'"), ("new", "not a version at all")])
def test_missing_version_lists_those_there_are(version: str, words: str) -> None:
    with pytest.raises(WorkflowNotFound, match=words) as caught:
        registry_of("1.0.0", "2.0.0").get("w", version)
    assert "1.0.0, 2.0.0" in str(caught.value)
    assert caught.value.workflow_id == "w"


def test_of_many_versions_only_the_highest_are_shown() -> None:
    with pytest.raises(WorkflowNotFound, match="and 5 lower ones"):
        registry_of(*[f"1.{n}.0" for n in range(25)]).get("w", "9.0.0")


def test_unknown_workflow_is_suggested_or_the_known_ones_are_listed() -> None:
    with pytest.raises(WorkflowNotFound, match="None is registered"):
        WorkflowRegistry().get("w")
    registry = WorkflowRegistry()
    for name in ["review", *[f"other{n}" for n in range(25)]]:
        registry.register(definition(name))
    with pytest.raises(WorkflowNotFound, match="Did you mean 'review'"):
        registry.get("reveiw")
    with pytest.raises(WorkflowNotFound, match="and 6 more"):
        registry.get("zzz")


@pytest.mark.guarantee("G11")
def test_registered_version_never_changes() -> None:
    registry = registry_of("1.0.0")
    first = registry.get("w")
    assert registry.register(definition()) is first
    with pytest.raises(WorkflowConflict, match="registered with other content"):
        registry.register(definition(value=2))
    assert registry.get("w") is first


def test_version_under_development_may_be_replaced() -> None:
    registry = registry_of("1.0.0-dev")
    registry.register(definition(version="1.0.0-dev", value=2))
    assert registry.get("w").steps[0].set == 2
    assert len(registry) == 1


def test_components_are_checked_where_they_are_known() -> None:
    step = {"id": "a", "component": "nope"}
    WorkflowRegistry().register({"id": "w", "steps": [step]})
    with pytest.raises(InvalidDefinition, match="nope"):
        WorkflowRegistry(ComponentRegistry()).register({"id": "w", "steps": [step]})


def test_folder_is_registered_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(definition("a")))
    (tmp_path / "b.yaml").write_text("id: b\nsteps: [{id: a, set: 1}]\n")
    registry = WorkflowRegistry()
    assert [workflow.id for workflow in registry.register_folder(tmp_path)] == ["a", "b"]
    (tmp_path / "c.json").write_text(json.dumps(definition("c")))
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(InvalidDefinition):
        registry.register_folder(tmp_path)
    assert "c" not in registry


def test_two_files_of_a_folder_that_disagree_are_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(definition()))
    (tmp_path / "b.json").write_text(json.dumps(definition()))
    registry = WorkflowRegistry()
    assert len(registry.register_folder(tmp_path)) == 2
    (tmp_path / "b.json").write_text(json.dumps(definition(value=2)))
    with pytest.raises(WorkflowConflict, match="Two files"):
        WorkflowRegistry().register_folder(tmp_path)


def test_folder_that_disagrees_with_what_is_registered_is_a_conflict(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(definition(value=2)))
    with pytest.raises(WorkflowConflict, match="registered with other content"):
        registry_of("1.0.0").register_folder(tmp_path)


def test_plans_are_kept_by_content_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "PLANS_KEPT", 2)
    registry = WorkflowRegistry()
    workflows = [registry.register(definition(f"w{n}")) for n in range(3)]
    last = registry.plan(workflows[2])
    assert registry.plan(workflows[2]) is last
    again = registry.plan(workflows[0])
    assert registry.plan(workflows[2]) is last
    assert registry.plan(workflows[0]) is again
