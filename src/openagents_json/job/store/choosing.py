"""Which jobs something is done with: those of some ids, or those that fit filters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from openagents_json.job.store.base import JobStore
from openagents_json.job.store.query import build_query, encode_cursor

PAGE = 100  # jobs of a listing
ORDER = "created_at"


async def chosen(
    store: JobStore, filters: Mapping[str, Any] | None, ids: Sequence[str] | None = None
) -> AsyncIterator[str]:
    """The ids, if they are given; else those of the jobs that fit the filters of `JobManager.list_jobs`, the oldest
    first, without jobs that come while this goes on. `InvalidQuery`."""
    if ids is not None:
        for job_id in dict.fromkeys(ids):
            yield job_id
        return
    build_query(filters)
    newest = await store.list_jobs(build_query(limit=1))
    cursor = None
    while newest:
        page = await store.list_jobs(build_query(filters, order=ORDER, limit=PAGE, cursor=cursor))
        for one in page:
            if one.position > newest[0].position:
                return
            yield one.summary.id
        if len(page) < PAGE:
            return
        cursor = encode_cursor(ORDER, *page[-1].position)
