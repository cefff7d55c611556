"""What a worker has of each resource, and what a step needs of them and may take."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from openagents_json.components import Component, Isolation
from openagents_json.job.engine.admission import Needs
from openagents_json.resources import (
    CPU,
    CPU_S,
    MAX_AMOUNT,
    MEMORY_MB,
    PROCESSES,
    STEPS,
    THREADS,
    UNIT,
    amount_of,
    had,
    occupied,
)
from openagents_json.settings import Settings
from openagents_json.workflow.model import Step

MIB = 1024 * 1024
CGROUPS = Path("/sys/fs/cgroup")  # of a container, what it may use


def capacities_of(settings: Settings) -> dict[str, float]:
    """What a worker has: what it says by itself, and over that what it was given."""
    own: dict[str, float] = {
        CPU: usable_cores(),
        MEMORY_MB: usable_memory_mb(),
        STEPS: settings.max_steps,
        THREADS: settings.max_threads,
        PROCESSES: settings.max_processes,
    }
    return {name: amount_of(had(amount)) for name, amount in (own | settings.resources).items()}


def usable_cores(cgroups: Path = CGROUPS) -> float:
    """The cores that this process may use: those of the machine, fewer if it is bound to some or has a quota."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = [*_words(cgroups / "cpu.max"), "", ""][:2]
    if not quota:  # the older kind of control groups
        quota = "".join(_words(cgroups / "cpu" / "cpu.cfs_quota_us"))
        period = "".join(_words(cgroups / "cpu" / "cpu.cfs_period_us"))
    if quota.isdigit() and period.isdigit() and int(quota) and int(period):
        cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory_mb(cgroups: Path = CGROUPS) -> float:
    """The memory (MiB) that the machine has, less if this process may use less; as good as endless where the system
    does not tell."""
    sizes = []
    try:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        pass  # not on every system
    for file in (cgroups / "memory.max", cgroups / "memory" / "memory.limit_in_bytes"):
        sizes += [int(word) for word in _words(file) if word.isdigit()]
    return min(sizes) // MIB if sizes else MAX_AMOUNT


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def stated(component: Component, step: Step) -> Mapping[str, float]:
    """What is said of the resources of a step: by its component, and over that by the step."""
    return {**component.resources, **step.resources} if step.resources else component.resources


def needs_of(isolation: Isolation, resources: Mapping[str, float]) -> Needs:
    """What a step that says this occupies: also one thread or process at least, if it runs in one."""
    return _needs_of(isolation, tuple(resources.items())) if resources else _NO_MORE[isolation]


@functools.lru_cache(maxsize=1_024)
def _needs_of(isolation: Isolation, resources: tuple[tuple[str, float], ...]) -> Needs:
    amounts = occupied(dict(resources))
    for name, kind in ((THREADS, "thread"), (PROCESSES, "process")):
        if isolation == kind:
            amounts[name] = max(amounts.get(name, 0), UNIT)
    return Needs.of(amounts)


# Of steps that say nothing; most of them.
_NO_MORE: dict[Isolation, Needs] = {isolation: _needs_of(isolation, ()) for isolation in get_args(Isolation)}


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What one call in a process may take beyond what its process has already. None: no limit."""

    memory_mb: int | None = None
    cpu_s: float | None = None  # seconds of CPU time

    @classmethod
    def of(cls, resources: Mapping[str, float], timeout_s: float | None) -> CallLimits:
        """As resources say it: `memory_mb`, and `cpu_s` or as much as `cpu` cores give within the timeout, whichever is
        less. An amount of 0 limits nothing."""
        if not resources:
            return _UNLIMITED
        bounds = [resources.get(CPU_S, 0)]
        if timeout_s is not None:
            bounds.append(resources.get(CPU, 0) * timeout_s)
        memory_mb = resources.get(MEMORY_MB, 0)
        return cls(math.ceil(memory_mb) or None, min((bound for bound in bounds if bound > 0), default=None))


_UNLIMITED = CallLimits()
