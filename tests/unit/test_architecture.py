"""Rules of the architecture, read off the syntax trees: who makes events, who sets a status, how large a file is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "openagents_json"
FILES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

MACHINE = "job/machine/"
APPLY = {"job/machine/apply.py", "job/machine/scopes.py"}  # apply's rules, and what they do to scopes
# Rows of the live view: what a terminal shows, not what a job is.
VIEWS = {"cli/view.py"}

LINES = 450
LARGER: dict[str, str] = {
    "job/manager.py": "one class, whose methods are the public verbs of DESIGN.md §8 one after the other",
    "job/machine/apply.py": "one short rule for each type of event, and the table of them",
    "job/engine/worker.py": "the loops of one worker, and what runners and the manager tell it",
    "job/store/memory.py": "the verbs of the contract one after the other, each a few lines",
    "job/store/file_changes.py": "one short class for each kind of line, and the table of them",
    "job/store/postgres.py": "the verbs of the contract one after the other; what they do stands elsewhere",
    "job/store/sqlite.py": "the verbs of the contract one after the other; what they do stands elsewhere",
    "workflow/grammar.py": "one recursive-descent parser; a rule and its neighbours are read together",
}


def inside(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the function that it stands in."""
    for node in ast.iter_child_nodes(tree):
        name = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield node, name
        yield from inside(node, name)


def imported_event_names(tree: ast.AST) -> set[str]:
    """The names under which a file knows the class Event of job.events."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openagents_json.job")
        for alias in node.names
        if alias.name == "Event"
    }


def event_makers(tree: ast.AST) -> list[str]:
    """The functions of a file that construct an Event, by its name or by `…events.Event`."""
    names = imported_event_names(tree)
    makers = []
    for node, function in inside(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        by_name = isinstance(called, ast.Name) and called.id in names
        by_module = isinstance(called, ast.Attribute) and called.attr == "Event" and "events" in ast.unparse(called)
        if by_name or by_module:
            makers.append(function)
    return makers


def test_only_the_machine_constructs_events() -> None:
    makers = {name: functions for name, tree in TREES.items() if (functions := event_makers(tree))}
    assert makers == {"job/machine/turn.py": ["record"]}


def test_news_that_no_history_holds_are_made_in_events_only() -> None:
    tree = TREES["job/events.py"]
    made = [
        function
        for node, function in inside(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("cls", "Event")
    ]
    assert made == ["unrecorded"]


LEASE_VERBS = {
    "claim", "hold", "hold_due", "hold_orphans", "hold_requested", "hold_again", "read_leases", "commit", "release",
    "create_held",
}  # fmt: skip


def test_leases_begin_and_end_in_one_place() -> None:
    """Who asks the store for one elsewhere has a lease that the worker takes for lost."""
    callers = {
        name
        for name, tree in TREES.items()
        if name.startswith("job/engine/") or name == "job/manager.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in LEASE_VERBS and ast.unparse(node.value).endswith("store")
    }
    assert callers == {"job/engine/leases.py"}


def status_writers(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Functions that assign an attribute called `status` of something other than `self`, or do it by setattr."""
    for node, function in inside(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
            targets = [node.target]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            if ast.unparse(node.args[1]) == "'status'":
                yield function, node
            continue
        for target in targets:
            if any(is_status(part) for part in ast.walk(target)):
                yield function, node


def is_status(part: ast.AST) -> bool:
    """Whether this is `something.status`, being assigned to."""
    is_assigned = isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
    return is_assigned and ast.unparse(part).endswith(".status") and ast.unparse(part) != "self.status"


def test_only_apply_sets_a_status() -> None:
    writers: dict[tuple[str, str], int] = {}
    for name, tree in TREES.items():
        if name in APPLY or name in VIEWS:
            continue
        for function, _ in status_writers(tree):
            writers[name, function] = writers.get((name, function), 0) + 1
    assert writers == {}
    assert all(list(status_writers(TREES[name])) for name in APPLY)


def test_apply_and_the_state_evaluate_nothing_and_read_no_clock() -> None:
    for name in [*(name for name in TREES if name.startswith(MACHINE)), "job/retry.py"]:
        modules = {
            alias.name for node in ast.walk(TREES[name]) if isinstance(node, ast.Import) for alias in node.names
        } | {node.module or "" for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom)}
        assert not modules & {"time", "random", "os", "asyncio", "threading", "secrets", "uuid"}, name
    assert not [
        node
        for name in APPLY
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "render"
    ]


def test_nothing_but_the_clock_and_the_limits_of_expressions_reads_the_time() -> None:
    readers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func) in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow")
    }
    assert readers <= {"clock.py", "cli/live.py", "cli/plain.py", "cli/explaining.py", "cli/listing.py", "cli/text.py"}


def public(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions of a module whose names begin without an underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            # A docstring of a command-line callback would be its help; an overload's stands at the implementation.
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            if "overload" not in decorators and ".callback(" not in decorators:
                yield node


SPEAKS_BY_ITS_BASE = {"errors.py"}  # leaves of the tree that is drawn on top of the file


@pytest.mark.parametrize("name", FILES)
def test_module_says_what_it_is_about(name: str) -> None:
    if TREES[name].body:
        assert ast.get_docstring(TREES[name]), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name in FILES if not Path(name).name.startswith("_")])
def test_public_functions_and_classes_have_a_docstring(name: str) -> None:
    silent = [
        node.name
        for node in public(TREES[name])
        if not ast.get_docstring(node) and not (name in SPEAKS_BY_ITS_BASE and isinstance(node, ast.ClassDef))
    ]
    assert silent == []


def test_errors_without_a_docstring_stand_in_the_tree_on_top() -> None:
    tree = TREES["errors.py"]
    drawn = ast.get_docstring(tree) or ""
    assert [node.name for node in public(tree) if node.name not in drawn and node.name != "Problem"] == []


def lines_of(name: str) -> int:
    return len(FILES[name].read_text().splitlines())


def test_files_are_short_but_for_a_named_few() -> None:
    longer = {name for name in FILES if lines_of(name) > LINES}
    assert longer == LARGER.keys()
    assert all(lines_of(name) < 2 * LINES for name in LARGER)


def test_the_machine_knows_neither_store_nor_engine_nor_bus() -> None:
    for name, tree in TREES.items():
        if name.startswith(MACHINE):
            above = [
                node.module
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith(
                    ("openagents_json.job.store", "openagents_json.job.engine", "openagents_json.job.bus")
                )
            ]
            assert above == [], name


def test_scanner_sees_what_it_looks_for() -> None:
    bad = ast.parse(
        "from openagents_json.job.events import Event as E\n"
        "from openagents_json.job import events\n"
        "def a(): return E(1, 'x', 0, {})\n"
        "def b(): return events.Event(1, 'x', 0, {})\n"
        "def c(run): run.status = 1\n"
        "def d(run): x, run.status = 1, 2\n"
        "def e(run): setattr(run, 'status', 1)\n"
        "class F:\n    def f(self): self.status = 1\n"
    )
    assert event_makers(bad) == ["a", "b"]
    assert [function for function, _ in status_writers(bad)] == ["c", "d", "e"]
