"""The names that expressions may use. What is not listed here does not exist for them."""

from __future__ import annotations

import difflib
from collections.abc import Collection

ROOTS = ("inputs", "item", "index", "iteration", "last", "job", "error")
KNOWN_ROOTS = (*ROOTS, "steps", "secrets")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYWORDS = _words("and or not in is if else true false none True False None")
OPERATOR_WORDS = _words("and or not in is if")
CONSTANTS = {"true": "true", "True": "true", "false": "false", "False": "false", "none": "none", "None": "none"}
FUNCTIONS = _words("range")
LOOP_FIELDS = _words("index index0 revindex revindex0 first last length")
TAGS = _words("for endfor if elif else endif set raw endraw")

FILTERS = _words(
    "abs batch bool capitalize center count default dictsort first float format groupby indent int items join keys "
    "last length lines list lower map max min reject rejectattr replace reverse round select selectattr slice sort "
    "split string sum title tojson trim truncate unique upper urlencode values"
)
ALIASES = {"d": "default"}
MAY_BE_EMPTY = _words("first last max min")  # of nothing these are undefined
ATTRIBUTE_FILTERS = _words("groupby max min rejectattr selectattr sort sum unique")
METHOD_NAMES = frozenset(dir(dict))  # minijinja takes these of a Python object that has no such key
ADVICE = {
    "safe": "Nothing is escaped here; leave it out.",
    "e": "Nothing is escaped here; leave it out.",
    "escape": "Nothing is escaped here; leave it out.",
    "random": "Results must be the same each time.",
}

TESTS = _words(
    "boolean defined divisibleby endingwith eq equalto even false float ge gt in integer iterable le lower lt mapping "
    "ne none number odd sequence startingwith string true undefined upper"
)
SIGN_TESTS = _words("== != < <= > >= greaterthan lessthan")  # further ones for select and selectattr


def nearest(name: str, known: Collection[str]) -> str:
    """A sentence that suggests the nearest known name, with a space before it, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{matches[0]}`?" if matches else ""
