"""Components by name: which ones another process can find, and that it makes the same of them."""

from __future__ import annotations

import functools
import importlib
import sys

import pytest

from openagents_json import ComponentRegistry
from openagents_json.components import Rebuilder, capability, reference_to, why_not_in_process
from openagents_json.errors import InvalidComponent


class Pair:
    def __init__(self, start: int) -> None:
        self.start = start

    @capability
    def left(self, by: int) -> int:
        return self.start - by

    @capability("rightwards")
    def right(self, by: int) -> int:
        return self.start + by


def module_level(x: int) -> int:
    return x


def test_component_that_no_import_reaches_is_refused_with_a_sentence() -> None:
    def local() -> None:
        """Inside a test."""

    class Config:
        """No JSON."""

    class Agent:
        def __init__(self, config: object) -> None:
            """Nothing."""

        @capability
        def act(self) -> None:
            """Nothing."""

    components = ComponentRegistry()
    components.agent("agent", config={"config": Config()})(Agent)
    refused = {
        "is defined inside a function": components.register(local),
        "a lambda has no name": components.register(lambda: None, "nameless"),
        "has no name to import it by": components.register(functools.partial(module_level, x=1), "part"),
        "Agent is defined inside a function": components.get("agent.act"),
    }
    for sentence, component in refused.items():
        assert sentence in (why_not_in_process(component) or "")
        with pytest.raises(InvalidComponent, match=sentence):
            reference_to(component)
    assert why_not_in_process(components.register(module_level)) is None


def test_name_that_stands_for_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    component = ComponentRegistry().register(module_level)
    monkeypatch.setattr(sys.modules[__name__], "module_level", functools.lru_cache(module_level))
    assert "is something else than what was registered" in (why_not_in_process(component) or "")


def test_agent_is_made_again_once_for_all_its_capabilities() -> None:
    components = ComponentRegistry()
    components.agent("pair", version="1.2.0", config={"start": 3})(Pair)
    rebuilder = Rebuilder(importlib.import_module)
    left, right = (rebuilder.component(reference_to(components.get(name))) for name in ("pair.left", "pair.rightwards"))
    assert (left.name, right.name, left.version) == ("pair.left", "pair.rightwards", "1.2.0")
    assert left.input_schema == components.get("pair.left").input_schema
    agent = left.origin[1]
    assert agent is right.origin[1]
    assert agent is not None
    assert (agent.cls, agent.config) == (Pair, {"start": 3})
    assert rebuilder.component(reference_to(components.get("pair.left"))) is left
