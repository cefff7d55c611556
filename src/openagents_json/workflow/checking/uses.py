"""The references of a term, each with how it is used: whether the expression allows for it to be missing."""

from __future__ import annotations

from dataclasses import dataclass

from openagents_json.workflow.terms import Applied, Constant, Operation, Path, Term


@dataclass(frozen=True, slots=True)
class Use:
    """A reference in a term. `may_miss`: the expression allows for it to be missing, by `default`, by a test such as
    `is none`, or because it is asked for only if something else holds."""

    reference: Path
    has_default: bool = False  # a missing path is covered too
    may_miss: bool = False


_ASKS = frozenset(["defined", "undefined", "none", "boolean", "string", "number", "mapping", "sequence", "iterable"])


def uses_of(term: Term, *, may_miss: bool = False) -> list[Use]:
    """Every reference of a term, in reading order."""
    found: list[Use] = []
    _collect(term, False, may_miss, found)
    return found


def _collect(term: Term, has_default: bool, may_miss: bool, found: list[Use]) -> None:
    if isinstance(term, Path):
        found.append(Use(term, has_default, may_miss))
    elif not isinstance(term, Constant) and term.parts:
        first, others = _attitudes(term, has_default, may_miss)
        _collect(term.parts[0], *first, found)
        for part in term.parts[1:]:
            _collect(part, *others, found)


def _attitudes(
    term: Applied | Operation, has_default: bool, may_miss: bool
) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
    """Whether the first part has a default and may miss, and whether the others do."""
    same = (has_default, may_miss)
    if isinstance(term, Operation):
        if term.name in ("and", "or", "if"):
            # `a and a.b`: what stands behind the first part is asked for only if the first part lets it.
            return same, (has_default, True)
        return ((has_default, True),) * 2 if term.name in ("==", "!=", "in") else (same, same)
    if term.is_test:
        covered = term.name in ("defined", "undefined")
        return (has_default or covered, may_miss or term.name in _ASKS), same
    return ((True, True), (False, True)) if term.name == "default" else (same, same)
