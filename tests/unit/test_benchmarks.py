"""What a benchmark run rests on: the check of histories, the replay on plain SQLite, the table."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from benchmarks import file_store
from benchmarks.bare import replay
from benchmarks.table import Figure, as_markdown, as_text, number, without_timed_target
from benchmarks.verify import WrongHistory, check_history
from openagents_json.job.events import Event

GOOD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("job.created", {}),
    ("job.started", {}),
    ("attempt.started", {"path": "a", "attempt": 1, "key": "k1"}),
    ("attempt.started", {"path": "b", "attempt": 1, "key": "k2"}),
    ("step.completed", {"path": "b", "attempt": 1}),
    ("step.completed", {"path": "a", "attempt": 1}),
    ("step.completed", {"path": "container"}),
    ("job.completed", {}),
)


def history(*entries: tuple[str, dict[str, Any]]) -> list[Event]:
    return [Event(number, type, 0, data) for number, (type, data) in enumerate(entries, 1)]


def test_good_history_passes() -> None:
    check_history("job", history(*GOOD), component_steps=2)


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([], "first event is not job.created"),
        (history(*GOOD)[:3] + history(*GOOD)[4:], "without gaps"),
        (history(*GOOD[:-1]), "last event is step.completed"),
        (history(*GOOD[:-1], ("job.failed", {})), "last event is job.failed"),
        (history(*GOOD, ("job.completed", {})), "a final event is followed by others"),
        (history(*GOOD[:5], *GOOD[6:]), "1 step.completed of components instead of 2"),
        (history(*GOOD[:6], *GOOD[5:]), "step.completed stands twice for a"),
        (history(*GOOD[:3], *GOOD[2:]), "attempt.started stands twice for a"),
        (history(*GOOD[:2], ("attempt.started", {"path": "a"}), *GOOD[3:]), "idempotency key"),
        (history(*GOOD[:2], ("attempt.started", {"path": "a", "key": "k2"}), *GOOD[3:]), "idempotency key"),
        (history(*GOOD[:2], GOOD[5], *GOOD[2:5], *GOOD[6:]), "without an attempt that started before"),
    ],
)
def test_wrong_history_is_told(events: list[Event], complaint: str) -> None:
    with pytest.raises(WrongHistory, match=complaint):
        check_history("job", events, component_steps=2)


async def test_replay_writes_each_row_with_its_size_and_one_commit_per_wait(tmp_path: Path) -> None:
    replayed = await replay(tmp_path / "bare.db", [[[100], [7, 300]]], waiters=1)
    assert (replayed.rows, replayed.commits, len(replayed.job_seconds)) == (3, 2, 1)
    connection = sqlite3.connect(tmp_path / "bare.db")
    rows = connection.execute("SELECT job, first, length(events) FROM history ORDER BY seq").fetchall()
    assert rows == [(0, 1, 100), (0, 2, 7), (0, 3, 300)]
    assert connection.execute("SELECT last FROM jobs").fetchall() == [(3,)]
    connection.close()


async def test_replay_writes_all_jobs_with_more_jobs_than_waiters(tmp_path: Path) -> None:
    replayed = await replay(tmp_path / "bare.db", [[[10]] * 3] * 50, waiters=8)
    assert (replayed.rows, len(replayed.job_seconds)) == (150, 50)
    assert replayed.commits <= 150


async def test_replay_of_nothing_ends(tmp_path: Path) -> None:
    assert (await replay(tmp_path / "bare.db", [], waiters=8)).rows == 0


@pytest.mark.parametrize(
    ("figure", "target", "met"),
    [
        (Figure("rate", 12, at_least=10), "≥ 10", True),
        (Figure("rate", 9.5, at_least=10), "≥ 10", False),
        (Figure("time", 0.2, at_most=0.1), "≤ 0.10", False),
        (Figure("rate", 50, bare=100, ratio_at_least=0.6), "≥ 0.6 × bare", False),
        (Figure("rate", 50, bare=100, ratio=0.7, ratio_at_least=0.6), "≥ 0.6 × bare", True),
        (Figure("rate", 50), "", None),
    ],
)
def test_figure_knows_whether_its_target_is_met(figure: Figure, target: str, met: bool | None) -> None:
    assert (figure.target, figure.is_met) == (target, met)


def test_on_another_disk_only_counts_and_ratios_keep_their_targets() -> None:
    assert without_timed_target(Figure("time", 9, at_most=1)).target == ""
    assert without_timed_target(Figure("commits", 9, at_most=1, is_counted=True)).target == "≤ 1"
    assert without_timed_target(Figure("chain", 9, bare=9, ratio_at_least=0.6)).target == "≥ 0.6 × bare"


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.0123, "0.012"), (4, "4"), (0, "0")],
)
def test_number_shows_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_table_has_a_line_for_each_figure() -> None:
    figures = [Figure("one-step jobs", 6000, "jobs/s", at_least=5000, bare=12000, peers="DBOS 89"), Figure("idle", 1)]
    text = as_text(figures).splitlines()
    assert len(text) == 4
    assert text[2].split("  ")[0] == "one-step jobs, jobs/s"
    assert text[2].endswith("≥ 5,000  yes       12,000          0.50  DBOS 89")
    markdown = as_markdown(figures).splitlines()
    assert markdown[2] == "| one-step jobs, jobs/s | 6,000 | ≥ 5,000 | yes | 12,000 | 0.50 | DBOS 89 |"
    assert all(line.count("|") == 8 for line in markdown)


async def test_file_store_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await file_store.main(["--jobs", "5", "--pairs", "1", "--stored", "20", "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    for words in (
        "one-step jobs, file,",
        "file / sqlite, at least 0.80",
        "opening 20 jobs",
        "longest commit meanwhile",
    ):
        assert words in said
