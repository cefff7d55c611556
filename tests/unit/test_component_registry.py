"""Registering components, and finding them."""

import functools
from typing import Any, assert_type

import pytest

from openagents_json.components import ComponentRegistry, StepContext, capability
from openagents_json.errors import ComponentNotFound, DuplicateComponent, InvalidComponent


@pytest.fixture
def registry() -> ComponentRegistry:
    return ComponentRegistry()


def echo(value: Any = None) -> Any:
    """Return the value."""
    return value


# ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tool_keeps_the_function_and_registers_it(registry: ComponentRegistry) -> None:
    @registry.tool("audit.measure", tags=("audit",), timeout_s=30, retry={"max_attempts": 2}, resources={"cpu": 1})
    def measure(text: str) -> int:
        """Count the characters
        of a text.

        More about it.
        """
        return len(text)

    assert measure("abc") == 3
    component = registry.get("audit.measure")
    assert component.name == "audit.measure"
    assert component.version == "1.0.0"
    assert component.description == "Count the characters of a text."
    assert component.tags == ("audit",)
    assert component.isolation == "thread"
    assert (component.timeout_s, component.retry, component.resources) == (30, {"max_attempts": 2}, {"cpu": 1})
    assert component.agent is None
    assert not component.is_async
    file, line = component.defined_at.rsplit(":", 1)
    assert file == __file__
    assert line.isdigit()


async def test_bare_decorator_takes_name_and_isolation_from_the_function(registry: ComponentRegistry) -> None:
    @registry.tool
    async def fetch(url: str) -> str:
        return url

    assert await fetch("x") == "x"
    component = registry.get("fetch")
    assert component.is_async
    assert component.isolation == "inline"
    assert component.retry is None


def test_any_callable_can_be_registered(registry: ComponentRegistry) -> None:
    class Adder:
        def __call__(self, a: int, b: int = 1) -> int:
            """Add."""
            return a + b

    assert registry.register(Adder(), "add").description == "Add."
    assert (
        registry.register(functools.partial(echo, value=1), "one").input_schema["properties"]["value"]["default"] == 1
    )
    assert registry.register(Adder().__call__, "bound").input_schema["required"] == ["a"]
    assert registry.register(lambda: 1, "constant").output_schema is None
    with pytest.raises(InvalidComponent, match="give name="):
        registry.register(functools.partial(echo))
    with pytest.raises(InvalidComponent, match="<lambda>"):
        registry.register(lambda: 1)
    with pytest.raises(InvalidComponent, match="register it with `agent`"):
        registry.register(Adder)
    with pytest.raises(InvalidComponent, match="cannot be called"):
        registry.register(5, "five")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a", "_a", "a-b.c_d", "A.b.c", "a" * 200])
def test_names_are_words_joined_by_dots(registry: ComponentRegistry, name: str) -> None:
    assert registry.register(echo, name).name == name


@pytest.mark.parametrize("name", ["", "1a", ".a", "a.", "a..b", "a b", "a.1", "ä", "a\n", "-a", "a" * 201])
def test_other_names_are_refused(registry: ComponentRegistry, name: str) -> None:
    with pytest.raises(InvalidComponent, match="cannot name a component"):
        registry.register(echo, name)
    assert len(registry) == 0


def test_async_component_cannot_take_a_thread(registry: ComponentRegistry) -> None:
    async def fetch() -> None: ...

    with pytest.raises(InvalidComponent, match="only sync functions take a thread"):
        registry.register(fetch, isolation="thread")


def test_sync_component_may_be_inline(registry: ComponentRegistry) -> None:
    assert registry.register(echo, isolation="inline").isolation == "inline"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation": "moon"}, "unknown isolation"),
        ({"timeout_s": 0}, "seconds above 0"),
        ({"timeout_s": float("inf")}, "seconds above 0"),
        ({"timeout_s": "3"}, "seconds above 0"),
        ({"tags": "one"}, "tuple of strings"),
        ({"retry": 3}, "no mapping"),
        ({"resources": ["cpu"]}, "no mapping"),
        ({"resources": {"a gpu": 1}}, "have the name 'a gpu'; a name is letters"),
        ({"resources": {"gpu": -1}}, "gpu = -1; an amount is a number from 0"),
        ({"resources": {"gpu": True}}, "gpu = True; an amount is a number from 0"),
        ({"resources": {f"r{number}": 1 for number in range(9)}}, "name 9 resources; at most 8"),
        ({"version": "1.0"}, "semantic version"),
    ],
)
def test_senseless_options_are_refused(registry: ComponentRegistry, options: Any, message: str) -> None:
    with pytest.raises(InvalidComponent, match=message):
        registry.register(echo, **options)


def test_unknown_option_is_a_type_error(registry: ComponentRegistry) -> None:
    with pytest.raises(TypeError, match="timeout"):
        registry.tool("echo", timeout=3)(echo)  # type: ignore[call-overload]


async def test_decorators_keep_the_types_that_users_wrote(registry: ComponentRegistry) -> None:
    @registry.tool
    def bare(a: int) -> str:
        return str(a)

    @registry.tool("named", version="2.0.0")
    async def named(a: int) -> str:
        return str(a)

    @registry.agent("text")
    class Text:
        @registry.capability
        def bare(self, a: int) -> str:
            return str(a)

        @capability("other", tags=("t",))
        def named(self, a: int) -> str:
            return str(a)

    assert_type(bare(1), str)
    assert_type(Text(), Text)
    assert_type(Text().bare(1), str)
    assert_type(Text().named(1), str)
    assert_type(await named(1), str)


# ── agents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_agent_makes_a_component_of_each_capability(registry: ComponentRegistry) -> None:
    @registry.agent("text", version="2.1.0", tags=("nlp",))
    class Text:
        @registry.capability(tags=("fast", "nlp"), isolation="inline")
        def upper(self, text: str) -> str:
            """Make it loud."""
            return text.upper()

        @registry.capability("summarize", timeout_s=5)
        async def summary(self, text: str, context: StepContext) -> str:
            return text

        def helper(self) -> None: ...

    assert Text().upper("a") == "A"
    assert registry.names() == ["text.summarize", "text.upper"]
    upper, summarize = registry.get("text.upper"), registry.get("text.summarize")
    assert upper.agent is summarize.agent is Text
    assert upper.version == summarize.version == "2.1.0"
    assert upper.tags == ("nlp", "fast")
    assert (upper.isolation, summarize.isolation) == ("inline", "inline")
    assert summarize.timeout_s == 5
    assert list(summarize.input_schema["properties"]) == ["text"]


def test_agent_is_named_after_its_class_by_default(registry: ComponentRegistry) -> None:
    @registry.agent()
    class Text:
        @capability()
        def run(self) -> None: ...

    assert registry.names() == ["Text.run"]


def test_subclass_inherits_overrides_and_takes_out_capabilities(registry: ComponentRegistry) -> None:
    class Base:
        @capability("first")
        def one(self) -> int:
            return 1

        @capability
        def two(self) -> int:
            return 2

        @capability
        def three(self) -> int:
            return 3

    @registry.agent("sub")
    class Sub(Base):
        def one(self, extra: int = 0) -> int:
            return 10 + extra

        two = None  # type: ignore[assignment]

    assert registry.names() == ["sub.first", "sub.three"]
    assert list(registry.get("sub.first").input_schema["properties"]) == ["extra"]


def test_agent_without_capabilities_is_refused(registry: ComponentRegistry) -> None:
    with pytest.raises(InvalidComponent, match="has no capability"):

        @registry.agent("empty")
        class Empty: ...


def test_agent_takes_a_class_only(registry: ComponentRegistry) -> None:
    with pytest.raises(InvalidComponent, match="use `tool`"):
        registry.agent("text")(echo)  # type: ignore[type-var]


def test_capabilities_are_ordinary_methods(registry: ComponentRegistry) -> None:
    with pytest.raises(InvalidComponent, match="ordinary methods"):

        @registry.agent("text")
        class Text:
            @staticmethod
            @capability
            def run() -> None: ...

    with pytest.raises(InvalidComponent, match="Put it innermost"):
        capability(staticmethod(echo))
    with pytest.raises(InvalidComponent, match="without `self`"):

        @registry.agent("selfless")
        class Selfless:
            @capability
            def run() -> None: ...  # type: ignore[misc]


@pytest.mark.parametrize("config", [{}, {"model": "m", "colour": "red"}])
def test_config_that_init_does_not_take_is_refused(registry: ComponentRegistry, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidComponent, match=r"does not fit Text\.__init__"):

        @registry.agent("text", config=config)
        class Text:
            def __init__(self, model: str) -> None: ...

            @capability
            def run(self) -> None: ...


def test_hooks_are_no_capabilities(registry: ComponentRegistry) -> None:
    with pytest.raises(InvalidComponent, match="hook of agents"):

        @registry.agent("text")
        class Text:
            @capability
            def close(self) -> None: ...


def test_quick_sync_capability_cannot_wait_for_an_async_setup(registry: ComponentRegistry) -> None:
    with pytest.raises(InvalidComponent, match="async setup"):

        @registry.agent("text")
        class Text:
            async def setup(self) -> None: ...

            @capability(isolation="inline")
            def run(self) -> None: ...


def test_agent_registers_all_capabilities_or_none(registry: ComponentRegistry) -> None:
    registry.register(echo, "text.two")
    with pytest.raises(DuplicateComponent):

        @registry.agent("text")
        class Text:
            @capability
            def one(self) -> None: ...

            @capability
            def two(self) -> None: ...

    assert registry.names() == ["text.two"]


def test_two_capabilities_of_one_name_are_refused(registry: ComponentRegistry) -> None:
    with pytest.raises(DuplicateComponent):

        @registry.agent("text")
        class Text:
            @capability("run")
            def one(self) -> None: ...

            @capability("run")
            def two(self) -> None: ...


# ── versions and questions ────────────────────────────────────────────────────────────────────────────────────────


def test_duplicate_says_where_the_first_was_defined(registry: ComponentRegistry) -> None:
    first = registry.register(echo)
    with pytest.raises(DuplicateComponent) as caught:
        registry.tool("echo")(lambda: 1)
    assert first.defined_at in str(caught.value)
    assert caught.value.name == "echo"
    assert registry.get("echo") is first


def test_highest_version_is_given_unless_asked_otherwise(registry: ComponentRegistry) -> None:
    for version in ("1.10.0", "1.9.0", "1.10.0-rc.1"):
        registry.register(echo, version=version)
    assert registry.get("echo").version == "1.10.0"
    assert registry.get("echo", "1.9.0").version == "1.9.0"
    assert [component.version for component in registry] == ["1.9.0", "1.10.0-rc.1", "1.10.0"]
    assert registry.names() == ["echo"]
    assert len(registry) == 3
    assert "echo" in registry
    assert "ehco" not in registry


def test_missing_component_suggests_the_nearest_name_and_its_versions(registry: ComponentRegistry) -> None:
    with pytest.raises(ComponentNotFound, match="none is registered"):
        registry.get("echo")
    registry.register(echo, version="1.10.0")
    registry.register(echo, version="1.9.0")
    with pytest.raises(ComponentNotFound, match=r"Did you mean 'echo' \(1\.9\.0, 1\.10\.0\)") as caught:
        registry.get("ehco")
    assert caught.value.name == "ehco"
    with pytest.raises(ComponentNotFound, match=r"no version 2\.0\.0\. There are: 1\.9\.0, 1\.10\.0"):
        registry.get("echo", "2.0.0")
    with pytest.raises(ComponentNotFound, match=r"There are: echo\."):
        registry.get("zzzz")
    for number in range(10):
        registry.register(echo, f"tool{number}")
    with pytest.raises(ComponentNotFound, match=r"There are: echo, tool0, .*, tool8 and 1 more\."):
        registry.get("zzzz")


def test_find_takes_tag_glob_and_version(registry: ComponentRegistry) -> None:
    registry.register(echo, "text.b", tags=("nlp",))
    registry.register(echo, "text.a")
    registry.register(echo, "text.a", version="2.0.0", tags=("nlp", "new"))
    registry.register(echo, "web.a", tags=("nlp",))

    def found(**query: str) -> list[str]:
        return [f"{component.name} {component.version}" for component in registry.find(**query)]

    assert found() == ["text.a 1.0.0", "text.a 2.0.0", "text.b 1.0.0", "web.a 1.0.0"]
    assert found(tag="nlp", name="text.*") == ["text.a 2.0.0", "text.b 1.0.0"]
    assert found(version="2.0.0") == ["text.a 2.0.0"]
    assert found(name="*.a", version="1.0.0") == ["text.a 1.0.0", "web.a 1.0.0"]
    assert found(tag="old") == []
