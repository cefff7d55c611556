"""How a manager is: what its worker measures, what its store says, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openagents_json.clock import SECOND_US, as_datetime
from openagents_json.errors import StoreError
from openagents_json.job.engine import Worker
from openagents_json.job.engine.admission import MAX_ABANDONED
from openagents_json.job.engine.heart import BLOCKED_S
from openagents_json.job.engine.meter import percentile
from openagents_json.job.store.records import JobCounts
from openagents_json.resources import PROCESSES, STEPS, THREADS

COUNTED_JOBS = 100_000  # of the queue, and of the newest of the others


async def health_of(worker: Worker) -> dict[str, Any]:
    """What `JobManager.health` says."""
    admission, capacities, meter = worker.admission, worker.capacities, worker.meter
    counts, leaks = JobCounts({}, None), 0
    error: StoreError | None = worker.store_error
    try:
        counts = await worker.store.count_jobs(COUNTED_JOBS)
        leaks = await worker.store.count_leaks()
    except StoreError as now:
        error = error or now
    now_us, lag_s, commits_s = worker.clock.now_us(), max(meter.lags_s, default=0.0), list(meter.commits_s)
    since_us = counts.oldest_queued_us
    health = {
        "worker": worker.id,
        "jobs": {str(status): count for status, count in sorted(counts.by_status.items())},
        "queue_age_s": 0.0 if since_us is None else max(now_us - since_us, 0) / SECOND_US,
        "running_jobs": len(worker.runners),
        "max_jobs": worker.settings.max_jobs,
        "steps": admission.used(STEPS),
        "max_steps": capacities[STEPS],
        "threads": admission.used(THREADS),
        "max_threads": capacities[THREADS],
        "processes": admission.used(PROCESSES),
        "max_processes": capacities[PROCESSES],
        "resources": {name: {"used": admission.used(name), "of": amount} for name, amount in capacities.items()},
        "abandoned_threads": admission.abandoned,
        "loop_lag_ms": _milliseconds(lag_s),
        "commit_ms": {
            "p50": _milliseconds(percentile(commits_s, 50)),
            "p99": _milliseconds(percentile(commits_s, 99)),
            "count": len(commits_s),
        },
        "listeners": worker.bus.counts(),
        "output_lost_bytes": worker.outputs.lost,
        "leaks": leaks,
        "store_error": None if error is None else str(error),
        "store": worker.store.stats(),
        "at": as_datetime(now_us),
    }
    reasons = _reasons(health)
    return {"status": "degraded" if reasons else "ok", "reasons": reasons, **health}


def _reasons(health: Mapping[str, Any]) -> list[str]:
    """What is not as it should be, a sentence each."""
    reasons = []
    if health["store_error"] is not None:
        reasons.append(f"The store does not work: {health['store_error']}")
    if abandoned := health["abandoned_threads"]:
        more = "; no step starts in a thread until some end" if abandoned >= MAX_ABANDONED else ""
        reasons.append(f"{abandoned} threads run on that were told to stop{more}.")
    if leaks := health["leaks"]:
        reasons.append(f"{leaks} resources could not be released; `openagents jobs leaks` shows them.")
    if (lag_ms := health["loop_lag_ms"]) >= BLOCKED_S * 1_000:
        reasons.append(f"The event loop was blocked for {lag_ms:,.0f} ms within the last minute.")
    return reasons


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1_000, 3)
