"""The code audit example: measuring, ranking and the wording of the report, all pure."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from examples.code_audit.measure import UNREADABLE, Measures, measure_source, read_source, reason
from examples.code_audit.ranking import FileError, FileMeasures, file_measures, rank_results
from examples.code_audit.report import render


def measured(source: str, module_name: str = "module") -> Measures:
    return measure_source(dedent(source), module_name)


def complexity(body: str) -> int:
    """The complexity of a function with this body."""
    lines = dedent(body).strip("\n").splitlines()
    source = "async def function(a, b, c, things):\n" + "\n".join(f"    {line}" for line in lines)
    found = measure_source(source).most_complex
    assert found is not None
    return found.complexity


# ── complexity, counted by hand ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return a", 1),
        ("if a:\n    b()", 2),
        ("if a:\n    b()\nelse:\n    c()", 2),
        ("if a:\n    b()\nelif b:\n    c()\nelif c:\n    a()\nelse:\n    pass", 4),
        ("if a and b and c:\n    a()", 4),
        ("if a and b or c:\n    a()", 4),
        ("return a or b", 2),
        ("return a if b else c", 2),
        ("for a in things:\n    a()\nelse:\n    b()", 2),
        ("async for a in things:\n    a()", 2),
        ("while a:\n    if b:\n        break", 3),
        ("try:\n    a()\nexcept ValueError:\n    b()\nexcept (KeyError, OSError):\n    c()\nelse:\n    a()", 3),
        ("try:\n    a()\nfinally:\n    b()", 1),
        ("with a:\n    b()", 1),
        ("assert a, b", 1),
        ("assert a and b", 2),
        ("return [x for x in things]", 2),
        ("return {x: y for x in a if x if x > 1 for y in b if y}", 6),
        ("return sorted(things, key=lambda x: a if x else b)", 2),
        ("return not a", 1),
        ("match a:\n    case 1:\n        b()\n    case 2 if b:\n        c()\n    case _:\n        a()", 4),
        ("match a:\n    case 1 | 2:\n        b()\n    case other:\n        a()", 2),
        ("match a:\n    case [x, y] as z:\n        b()", 2),
    ],
)
def test_complexity_is_the_number_of_decisions_plus_one(body: str, expected: int) -> None:
    assert complexity(body) == expected


def test_nested_function_is_measured_on_its_own() -> None:
    found = measured(
        """
        def outer(a):
            def inner(b=1 if a else 2):
                if b:
                    return [x for x in b]
            if a:
                return inner
        """
    )
    assert [(function.name, function.complexity) for function in found.functions] == [("outer", 3), ("outer.inner", 3)]
    assert found.complexity == 1 + 3 + 3


def test_file_complexity_includes_top_level_code_and_class_bodies() -> None:
    found = measured(
        """
        if True:
            x = 1
        class Thing:
            if x:
                y = 2
            def method(self):
                return self.x or self.y
        """
    )
    assert [(function.name, function.complexity) for function in found.functions] == [("Thing.method", 2)]
    assert found.complexity == 3 + 2


def test_worst_and_longest_function_are_named_with_their_place() -> None:
    found = measured(
        """\
        class Thing:
            def short(self):
                return [x for x in self if x]

            @property
            def long(self):
                a = 1
                b = 2
                return a + b
        """
    )
    assert found.most_complex is not None and found.longest is not None
    assert (found.most_complex.name, found.most_complex.line, found.most_complex.complexity) == ("Thing.short", 2, 3)
    assert (found.longest.name, found.longest.line, found.longest.lines) == ("Thing.long", 6, 4)


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    assert measured("x = " + "+".join(["1"] * 900)).complexity == 1  # a recursive visitor needs two frames for each


# ── lines, docstrings, marks ──────────────────────────────────────────────────────────────────────────────────────


def test_code_lines_are_neither_blank_nor_comment_nor_docstring() -> None:
    found = measured(
        '''\
        """Module.

        More.
        """
        # a comment
        import os  # not alone on its line

        TEXT = """
        # this is text
        """

        def function():
            """Says so."""
            return 1
        '''
    )
    assert found.lines == 14
    assert found.code == 6


@pytest.mark.parametrize(
    ("text", "lines"), [("", 0), ("x = 1", 1), ("x = 1\n", 1), ("\n\n", 2), ("x = 1\n\x0cy = 2\n", 2)]
)
def test_lines_end_with_line_breaks_only(text: str, lines: int) -> None:
    assert measure_source(text).lines == lines


def test_docstrings_are_counted_for_public_names_only() -> None:
    found = measured(
        '''\
        """Module."""
        class Public:
            """Yes."""
            def method(self):
                """Yes."""
            def undocumented(self):
                """"""
                pass
            def missing(self): ...
            def _private(self): ...
            def __init__(self): ...
        class _Private:
            def method(self): ...
        def function():
            def nested():
                """Not public."""
        '''
    )
    assert found.public == 6  # module, Public, its three public methods, function
    assert found.documented == 4  # an empty docstring is one; `function` has none


@pytest.mark.parametrize(("module_name", "public"), [("module", 2), ("_module", 0), ("__init__", 2)])
def test_names_of_a_private_module_are_not_public(module_name: str, public: int) -> None:
    assert measured("def function(): ...", module_name).public == public


def test_empty_module_needs_no_docstring() -> None:
    assert measure_source("# nothing\n").public == 0


def test_marks_are_counted_in_comments_not_in_strings() -> None:
    found = measured(
        r'''
        # TODO: one
        x = "# TODO not this"  # FIXME and TODO are one comment
        y = """
        # XXX nor this
        """
        z = 'it\'s # TODO nor this' # XXX
        w = r"\" # TODO nor this"  # TODOs are no mark
        v = f"{x!r} # TODO nor this"
        '''
    )
    assert found.marks == 3


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x = 1\r\ny = 2\r", "x = 1\ny = 2\n"),
        (b"\xef\xbb\xbfx = 1\n", "x = 1\n"),
        (b"# coding: latin-1\nx = '\xe9'\n", "# coding: latin-1\nx = 'é'\n"),
    ],
)
def test_source_is_decoded_as_python_decodes_it(data: bytes, text: str) -> None:
    assert read_source(data) == text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"print 'hello'\n", "SyntaxError: Missing parentheses"),
        (b"if x:\npass\n", "IndentationError: expected an indented block"),
        (b"x = '\xff'\n", "SyntaxError: invalid or missing encoding declaration"),
        (b"# coding: nonsense\n", "SyntaxError: unknown encoding: nonsense"),
        (b"# coding: hex\nx = 1\n", "LookupError: 'hex' is not a text encoding"),
        (b"x = 1\0\n", ": source code string cannot contain null bytes"),
        (b"(" * 5000, "SyntaxError: too many nested parentheses"),
    ],
)
def test_file_that_does_not_parse_says_why_on_one_line(data: bytes, expected: str) -> None:
    with pytest.raises(UNREADABLE) as caught:
        measure_source(read_source(data))
    text = reason(caught.value)
    assert expected in text
    assert "\n" not in text and len(text) <= 160


def test_reason_is_cut_but_keeps_its_line_number() -> None:
    error = SyntaxError("x" * 500, ("file", 7, 1, "text"))
    assert len(reason(error)) == 160
    assert reason(error).endswith(" (line 7)")


def test_warnings_about_the_measured_code_are_not_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # newer than our filter, so it would win if the filter were not put in again
        assert measure_source("x = '\\d'\n").lines == 1


def test_only_warnings_about_the_measured_code_are_silenced() -> None:
    measure_source("x = 1\n")
    with pytest.warns(UserWarning):
        warnings.warn("still heard", UserWarning, stacklevel=1)


# ── ranking ───────────────────────────────────────────────────────────────────────────────────────────────────────


def results_of(*results: FileMeasures | FileError) -> list[FileMeasures | FileError]:
    return list(results)


def file(path: str, complexity: int, code: int = 10, marks: int = 0, **more: Any) -> FileMeasures:
    result: Any = {
        "path": path,
        "lines": code + 5,
        "code": code,
        "functions": 1,
        "complexity": complexity,
        "worst": {"name": "f", "line": 1, "complexity": complexity},
        "longest": {"name": "g", "line": 2, "lines": code},
        "public": 4,
        "documented": 1,
        "marks": marks,
    }
    result.update(more)
    return result  # type: ignore[no-any-return]


def test_ranking_puts_the_worst_first_and_equals_by_path() -> None:
    results = [file("b.py", 5), file("a.py", 5), file("c.py", 9, code=1), file("d.py", 5, code=99), file("e.py", 1)]
    ranking = rank_results("/root", results, top=4)
    assert [entry["path"] for entry in ranking["files"]] == ["c.py", "d.py", "a.py", "b.py"]
    assert [entry["path"] for entry in ranking["functions"]] == ["c.py", "a.py", "b.py", "d.py"]
    assert [entry["path"] for entry in ranking["longest"]] == ["d.py", "a.py", "b.py", "e.py"]
    assert ranking["functions"][0] == {"path": "c.py", "name": "f", "line": 1, "complexity": 9}


def test_ranking_does_not_depend_on_the_order_of_results() -> None:
    error: FileError = {"path": "bad.py", "error": "SyntaxError"}
    results = results_of(file("b.py", 5, marks=1), file("a.py", 5, marks=1), error)
    assert rank_results("/root", results, top=9) == rank_results("/root", results[::-1], top=9)


def test_totals_add_up_measured_files_and_count_the_others() -> None:
    error: FileError = {"path": "c.py", "error": "SyntaxError"}
    results = results_of(file("a.py", 3, code=10, marks=2), file("b.py", 4, code=20, public=0, documented=0), error)
    totals = rank_results("/root", results, top=1, left_out=7)["totals"]
    assert totals == {
        "files": 2,
        "lines": 40,
        "code": 30,
        "functions": 2,
        "complexity": 7,
        "docstrings": 0.25,
        "marks": 2,
        "unparsable": 1,
        "left_out": 7,
    }


def test_folder_without_files_ranks_to_nothing() -> None:
    ranking = rank_results("/root", [], top=5)
    assert ranking["totals"]["files"] == 0
    assert not ranking["files"] and not ranking["functions"] and not ranking["errors"]
    assert "None." in render(ranking)


def test_one_result_stays_below_400_bytes() -> None:
    name = "a_method_name_of_forty_characters_in_all"
    source = f"class {name}:\n    def {name}(self):\n        return 1\n"
    path = "package/subpackage/another/module_with_a_long_name_as_they_come.py"
    recorded = json.dumps(file_measures(path, measure_source(source)), separators=(",", ":"))
    assert len(recorded) < 400


# ── report ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_report_shows_totals_rankings_and_what_did_not_parse() -> None:
    error: FileError = {"path": "c.py", "error": "SyntaxError: invalid syntax (line 3)"}
    results = results_of(file("a.py", 1234, code=30, marks=2), file("b.py", 2), error)
    text = render(rank_results("/code", results, top=5))
    assert text.startswith("# Code audit\n\nFolder: `/code`\n")
    assert "| files measured | 2 |" in text
    assert "| 1 | `f` | `a.py:1` | 1,234 |" in text
    assert "| 1 | `g` | `a.py:2` | 30 |" in text
    assert "| 1 | `a.py` | 1,234 | 1 | 30 | 25 % |" in text
    assert "| `a.py` | 2 |" in text
    assert "| `c.py` | SyntaxError: invalid syntax (line 3) |" in text
    assert "left out" not in text
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_report_says_how_many_files_were_left_out() -> None:
    assert "1,200 more files were left out" in render(rank_results("/code", [], top=5, left_out=1200))


def test_odd_file_names_and_messages_cannot_break_the_tables() -> None:
    odd = "a|b`c\n<img>.py"
    error: FileError = {"path": "x", "error": "<b> | *c*\n[d](e)"}
    text = render(rank_results("/code", results_of(file(odd, 2), error), top=5))
    assert "| `` a\\|b`c\N{REPLACEMENT CHARACTER}<img>.py `` |" in text
    assert r"| `x` | &lt;b&gt; \| \*c\* \[d\](e) |" in text


# ── the definition ────────────────────────────────────────────────────────────────────────────────────────────────


def test_workflow_names_only_components_of_the_example() -> None:
    folder = Path(__file__).parents[2] / "examples" / "code_audit"
    definition = json.loads((folder / "audit.json").read_text())
    steps = [*definition["steps"], *definition["steps"][1]["steps"]]
    named = {step["component"] for step in steps if "component" in step}
    assert named == {"audit.list_files", "audit.measure", "audit.rank", "audit.write_report"}
    assert all("timeout" in step and "retry" in step for step in steps if "component" in step)
