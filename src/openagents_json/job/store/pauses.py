"""Pauses of whole components and workflows: what is kept of one, and how many are. Pure.

A pause is one row of the store. Workers heed it: none begins an attempt of a paused component, and none takes up a job
of a paused workflow. A claim that meets jobs of a paused workflow sets them aside, each once, so that no claim after it
meets them again; whatever is recorded of a job, and the end of the pause, puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from openagents_json.errors import StoreError

MAX_PAUSES = 1_000  # of a store
SET_ASIDE_AT_ONCE = 1_000  # jobs, in one transaction of a claim

PauseKind: TypeAlias = Literal["component", "workflow"]


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing of it starts until it is resumed. Who asked, why, and since when by the store's clock."""

    kind: PauseKind
    name: str  # of the component, or id of the workflow
    by: str | None
    reason: str | None
    at_us: int


def refuse_more(count: int) -> None:
    """`StoreError` when a store with so many pauses takes no further one."""
    if count >= MAX_PAUSES:
        raise StoreError(f"{MAX_PAUSES:,} components and workflows are paused, and no more can be. Resume some first.")
