"""The wording of the code audit: a ranking as a Markdown report. The same ranking always gives the same text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from examples.code_audit.ranking import Ranking, Totals

_HOW = """\
- **Complexity** is the cyclomatic complexity of McCabe (1976): the number of decisions plus one. `if`, `elif`, the
  conditional expression, `for`, `while`, `except`, each `for` and `if` of a comprehension, each `case` that can fail to
  match and each guard is one; `and` and `or` are one for each operand but the first. Nested functions are measured on
  their own. The complexity of a file is the sum over its functions and its top-level code.
- **Code** lines hold more than blanks, a comment or a docstring.
- **Docstrings** is the share of public modules, classes, functions and methods that have one.
- **Marks** are comments that say TODO, FIXME or XXX.
- Each file enters the rankings of functions with its most complex and its longest one.
- Nothing was imported or run: the files were parsed by the `ast` module of Python {python}.
"""


def render(ranking: Ranking) -> str:
    """The report as Markdown (tables as GitHub renders them), ending with a line break."""
    sections = [
        f"# Code audit\n\nFolder: {_code(ranking['root'])}\n\n{_summary(ranking['totals'])}",
        _section("Most complex functions", _complex_functions(ranking)),
        _section("Longest functions", _long_functions(ranking)),
        _section("Most complex files", _files(ranking)),
        _section("Most TODO, FIXME and XXX marks", _marks(ranking)),
        _section("Files that were not measured", _errors(ranking)),
        _section("How this was computed", _HOW.format(python=ranking["python"])),
    ]
    return "\n".join(sections)


def _summary(totals: Totals) -> str:
    rows = [
        ("files measured", _count(totals["files"])),
        ("files not measured", _count(totals["unparsable"])),
        ("lines", _count(totals["lines"])),
        ("lines of code", _count(totals["code"])),
        ("functions and methods", _count(totals["functions"])),
        ("complexity of all files", _count(totals["complexity"])),
        ("public names with a docstring", _percent(totals["docstrings"])),
        ("TODO, FIXME and XXX marks", _count(totals["marks"])),
    ]
    text = _table(("", "total"), ("---", "---:"), rows)
    if totals["left_out"]:
        text += (
            f"\n{_count(totals['left_out'])} more files were left out by the limits `max_files` and `max_file_kb`.\n"
        )
    return text


def _complex_functions(ranking: Ranking) -> str:
    rows = [
        (str(place), _code(entry["name"]), _code(f"{entry['path']}:{entry['line']}"), _count(entry["complexity"]))
        for place, entry in enumerate(ranking["functions"], 1)
    ]
    return _table(("#", "function", "place", "complexity"), ("---:", "---", "---", "---:"), rows)


def _long_functions(ranking: Ranking) -> str:
    rows = [
        (str(place), _code(entry["name"]), _code(f"{entry['path']}:{entry['line']}"), _count(entry["lines"]))
        for place, entry in enumerate(ranking["longest"], 1)
    ]
    return _table(("#", "function", "place", "lines"), ("---:", "---", "---", "---:"), rows)


def _files(ranking: Ranking) -> str:
    rows = [
        (
            str(place),
            _code(file["path"]),
            _count(file["complexity"]),
            _count(file["functions"]),
            _count(file["code"]),
            _percent(file["docstrings"]),
        )
        for place, file in enumerate(ranking["files"], 1)
    ]
    header = ("#", "file", "complexity", "functions", "code", "docstrings")
    return _table(header, ("---:", "---", "---:", "---:", "---:", "---:"), rows)


def _marks(ranking: Ranking) -> str:
    rows = [(_code(file["path"]), _count(file["marks"])) for file in ranking["marked"]]
    return _table(("file", "marks"), ("---", "---:"), rows)


def _errors(ranking: Ranking) -> str:
    rows = [(_code(entry["path"]), _text(entry["error"])) for entry in ranking["errors"]]
    unlisted = ranking["totals"]["unparsable"] - len(rows)
    more = f"\nand {_count(unlisted)} more.\n" if unlisted > 0 else ""
    return _table(("file", "reason"), ("---", "---"), rows) + more


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _table(header: Sequence[str], alignment: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (header, alignment, *rows)]
    return "".join(lines) if len(lines) > 2 else "None.\n"


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _code(text: str) -> str:
    """Text as a code span in a table cell. A file name may hold anything: line breaks, pipes, back ticks."""
    flat = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    longest = max((len(run) for run in re.findall("`+", flat)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{flat}{space}{fence}".replace("|", "\\|")


def _text(text: str) -> str:
    """Plain text in a table cell: no line breaks, and nothing that Markdown or HTML would read as markup."""
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
