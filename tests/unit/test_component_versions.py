"""Semantic versions: which are well formed, and their order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openagents_json.components import is_version, version_key

ASCENDING = [
    "0.9.9",
    "1.0.0-1",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.0+build",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0-dev",
]


@pytest.mark.parametrize(("lower", "higher"), list(itertools.pairwise(ASCENDING)))
def test_versions_rank_as_semver_says(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


@pytest.mark.parametrize(
    "text", ["", "1", "1.0", "v1.0.0", "1.0.0-", "1.0.0 ", "1.0.0\n", "١.0.0", "1.0.0-" + "a" * 100]
)
def test_other_texts_are_no_versions(text: str) -> None:
    assert not is_version(text)
    with pytest.raises(ValueError, match="not a semantic version"):
        version_key(text)


@given(st.tuples(*[st.integers(0, 10**6)] * 3), st.tuples(*[st.integers(0, 10**6)] * 3))
def test_release_versions_order_as_their_numbers(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    keys = [version_key(".".join(map(str, numbers))) for numbers in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)
