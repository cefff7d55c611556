"""Semantic versions (semver.org, 2.0.0) as strings: which are well formed, and which of two is the higher."""

from __future__ import annotations

import re
from typing import TypeAlias

DEFAULT_VERSION = "1.0.0"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z.-]+))?", re.ASCII)
_MAX_CHARACTERS = 100

VersionKey: TypeAlias = tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...], str]


def is_version(text: str) -> bool:
    """Whether `text` is a semantic version of at most 100 characters, such as `1.2.0`, `2.0.0-dev.1` or `1.0.0+a`."""
    return len(text) <= _MAX_CHARACTERS and _VERSION.fullmatch(text) is not None


def version_key(version: str) -> VersionKey:
    """A key that sorts versions: `1.0.0-dev` < `1.0.0` < `1.10.0`. `ValueError` if it is not a semantic version.

    Versions that differ only in their build part (`+…`) rank the same for semver; here the build text decides, so that
    the order is total.
    """
    match = _VERSION.fullmatch(version)
    if match is None or len(version) > _MAX_CHARACTERS:
        raise ValueError(f"{version!r} is not a semantic version such as 1.0.0")
    major, minor, patch, before, build = match.groups()
    parts = before.split(".") if before else []
    prerelease = tuple((False, int(part), "") if part.isdigit() else (True, 0, part) for part in parts)
    return (int(major), int(minor), int(patch)), not parts, prerelease, build or ""
