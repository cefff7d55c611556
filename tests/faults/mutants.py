"""Seven weakened builds, each with the test that has to notice it (RELIABILITY.md).

A mutant is a small patch. `python -m pytest -p tests.faults.mutants` runs tests as they are, and with
MUTANTS=name,name,… each with the patch of the mutant that names it. What became of each test goes to the file
MUTANTS_REPORT, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from openagents_json.job.engine.attempt import Attempt
from openagents_json.job.machine import resources
from openagents_json.job.machine.state import JobState
from openagents_json.job.machine.turn import Turn
from openagents_json.job.store import Commit, MemoryJobStore

NAMES_VARIABLE, REPORT_VARIABLE = "MUTANTS", "MUTANTS_REPORT"
Patch = pytest.MonkeyPatch


def epoch_check_off(patch: Patch) -> None:
    """The store takes every commit: it looks at neither the owner, nor the epoch, nor the last event."""
    patch.setattr(MemoryJobStore, "_matches", lambda self, job, commit: True)


def synchronous_off(patch: Patch) -> None:
    """SQLite answers before the disk has it."""

    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *parameters)

    connect = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda *where, **how: connect(*where, **({"factory": Careless} | how)))


def inbox_ignored_at_finish(patch: Patch) -> None:
    """A job becomes final whatever stands in its inbox."""
    commit = MemoryJobStore.commit

    async def hasty(self: MemoryJobStore, one: Commit) -> None:
        job = self._jobs.get(one.claim.job_id)
        if job is not None and one.row.status.is_final:
            one = replace(one, drained=[request.sequence for request in job.requests])
        await commit(self, one)

    patch.setattr(MemoryJobStore, "commit", hasty)


def pause_checked_only_at_claim(patch: Patch) -> None:
    """A job that a worker runs goes on although a pause was asked for."""
    patch.setattr(Turn, "may_start", property(lambda self: self.is_held and self.releasing is None))


def slot_freed_before_reaping(patch: Patch) -> None:
    """The slot of an attempt that is told to stop is free at once, while its code still runs."""
    tell = Attempt._tell_to_stop

    def hasty(self: Attempt, reason: str, grace_s: float, *, is_forced: bool = False) -> None:
        tell(self, reason, grace_s, is_forced=is_forced)
        self._ended(self)
        self._ended = lambda attempt: None

    patch.setattr(Attempt, "_tell_to_stop", hasty)


def released_entry_forgotten(patch: Patch) -> None:
    """A resource whose release was called is out of the ledger, whether that release has ended or died."""
    worker_lost = resources.worker_lost

    def forgetful(state: JobState, at_us: int) -> None:
        for resource in list(state.ledger.values()):
            if resource.live:
                del state.ledger[resource.id]
        worker_lost(state, at_us)
        resources.close_if_empty(state)

    patch.setattr(resources, "worker_lost", forgetful)


def snapshot_older_than_its_number(patch: Patch) -> None:
    """A snapshot says that it holds one event more than it does."""
    record = MemoryJobStore._record

    def wrong(self: MemoryJobStore, job: Any, commit: Commit, now: int) -> None:
        record(self, job, commit, now)
        if commit.snapshot is not None:
            job.snapshot = commit.row.last_event + 1, commit.snapshot

    patch.setattr(MemoryJobStore, "_record", wrong)


@dataclass(frozen=True)
class Mutant:
    """A weakened build, the test that notices it, and whether the simulation does, too: with a few seeds (soon), with a
    hundred or so (late), or never."""

    weaken: Callable[[Patch], None]
    test: str
    simulation_notices: Literal["soon", "late", "never"]

    @property
    def name(self) -> str:
        return self.weaken.__name__


MUTANTS = (
    Mutant(
        epoch_check_off,
        "tests/faults/test_weakened.py::test_late_worker_records_nothing_and_the_checker_is_content[memory]",
        simulation_notices="soon",
    ),
    # `test_power_cut` shows what such a build loses; it has a control of its own, since it runs in another process.
    Mutant(
        synchronous_off,
        "tests/contract/test_sqlite.py::test_writer_syncs_each_commit",
        simulation_notices="never",
    ),
    Mutant(
        inbox_ignored_at_finish,
        "tests/race/test_cancel_arrives_before_the_final_commit.py"
        "::test_cancel_that_is_recorded_first_wins_over_the_completion[memory]",
        simulation_notices="late",
    ),
    Mutant(
        pause_checked_only_at_claim,
        "tests/race/test_pause_arrives_while_a_step_is_in_flight.py"
        "::test_pause_during_the_commit_that_starts_the_next_step_waits_for_that_step[memory]",
        simulation_notices="late",
    ),
    Mutant(
        slot_freed_before_reaping,
        "tests/engine/test_limits.py"
        "::test_slot_of_a_step_that_is_told_to_stop_stays_taken_until_its_code_has_ended[memory]",
        simulation_notices="late",
    ),
    Mutant(
        released_entry_forgotten,
        "tests/unit/machine/test_ledger.py::test_release_whose_worker_died_is_tried_again",
        simulation_notices="late",
    ),
    Mutant(
        snapshot_older_than_its_number,
        "tests/engine/test_run.py::test_job_of_a_thousand_events_gets_a_snapshot_that_tells_the_same[memory]",
        simulation_notices="soon",
    ),
)


# ── as a plugin of the process that runs the named tests ──────────────────────────────────────────────────────────


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test in the weakened build that is to fail it."""
    names = os.environ.get(NAMES_VARIABLE, "").split(",")
    with Patch.context() as patch:
        for mutant in MUTANTS:
            if mutant.name in names and mutant.test == item.nodeid:
                mutant.weaken(patch)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down what became of the test itself; what its fixtures find afterwards does not count."""
    report = yield
    if call.when == "call" and (path := os.environ.get(REPORT_VARIABLE)):
        error = call.excinfo.typename if call.excinfo is not None else ""
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([item.nodeid, error]) + "\n")
    return report
