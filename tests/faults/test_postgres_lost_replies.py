"""Creates on PostgreSQL whose answers get lost on the way: with an idempotency key, exactly the jobs asked for (G7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openagents_json import JobManager
from openagents_json.errors import StoreUnavailable
from openagents_json.job.store.postgres import PostgresJobStore
from tests.faults import victim
from tests.faults.checker import Evidence, read_records, violations
from tests.faults.proxy import Proxy, proxied
from tests.faults.sizes import Hits, campaign_random, sized
from tests.postgres_server import Server

CREATES = sized(20, 500)
WITHOUT_KEY = 6  # of all kinds
MANY_AT_ONCE = 3
NEVER_EVERY = 10
ONE, MANY, NEVER = KINDS = ("answer to one statement", "answer to COMMIT", "question that never came")
SAFETY_S = 20.0  # only a safety net; of one create


class Client:
    """Asks for jobs through a network that loses things, again and again until it has an answer."""

    def __init__(self, jobs: JobManager, proxy: Proxy, hits: Hits) -> None:
        self.jobs, self.proxy, self.hits = jobs, proxy, hits
        self.unanswered = 0

    async def ask(self, kind: str, numbers: list[int], *, with_key: bool = True) -> list[str]:
        """The ids of jobs with these numbers. The first answer is lost, or the first question."""
        marks = [mark_of(number) for number in numbers]
        if kind == NEVER:
            self.proxy.lose_request(marks[0].encode())
        else:
            self.proxy.lose_reply_to(b"COMMIT" if kind == MANY else marks[0].encode())
        inputs, keys = [{"n": number} for number in numbers], marks if with_key else None
        mark = {"mark": marks[0]}  # found in the question, with a key or without
        unanswered, lost = self.unanswered, self.proxy.lost

        async def create() -> list[str]:
            if kind == MANY:
                return await self.jobs.create_jobs("victim", inputs, idempotency_keys=keys, metadata=mark)
            key = marks[0] if with_key else None
            job_id = await self.jobs.create_job("victim", inputs[0], idempotency_key=key, metadata=mark)
            return [job_id]

        async with asyncio.timeout(SAFETY_S):
            while True:
                try:
                    ids = await create()
                    break
                except StoreUnavailable:
                    self.unanswered += 1
        assert self.unanswered > unanswered, "it was not told that nobody knows"
        self.hits.count(kind, self.proxy.lost - lost)
        return ids


def mark_of(number: int) -> str:
    """An idempotency key that stands nowhere else in what goes to the server."""
    return f"<job number {number}>"


@pytest.fixture
async def client(postgres: Server, tmp_path: Path) -> AsyncIterator[tuple[Client, str]]:
    """The client, and the URL of the same store without its proxy."""
    schema = await postgres.empty_schema()
    async with proxied(*postgres.address) as (proxy, port):
        app = victim.make_app(tmp_path, url=postgres.store_url(schema, port=port))
        async with app.manager(worker=False) as jobs:
            yield Client(jobs, proxy, Hits(KINDS)), postgres.store_url(schema)


async def numbers_of(url: str) -> list[int]:
    """The numbers of all jobs of a store, which keeps all laws."""
    store = PostgresJobStore(url)
    await store.open()
    try:
        records = await read_records(store)
    finally:
        await store.close()
    assert violations(Evidence(records, is_quiet=False)) == []
    return sorted(record.state.inputs["n"] for record in records)


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G7")
async def test_creates_with_lost_replies_and_a_key_make_exactly_the_jobs_asked_for(client: tuple[Client, str]) -> None:
    asking, url = client
    chance = campaign_random("tests/faults/test_postgres_lost_replies.py -k exactly")
    ids: list[str] = []
    for each in range(CREATES):
        for kind in (KINDS[each % 2], NEVER) if each % NEVER_EVERY == 0 else (KINDS[each % 2],):
            count = chance.randrange(1, MANY_AT_ONCE + 1) if kind == MANY else 1
            ids += await asking.ask(kind, list(range(len(ids), len(ids) + count)))
    assert len(set(ids)) == len(ids)
    assert await numbers_of(url) == list(range(len(ids)))
    asking.hits.check()


async def test_creates_with_lost_replies_and_no_key_make_jobs_twice(client: tuple[Client, str]) -> None:
    """What the key is for; and that answers of jobs get lost which are there."""
    asking, url = client
    for number in range(WITHOUT_KEY):
        await asking.ask(KINDS[number % 3], [number], with_key=False)
    expected = [number for number in range(WITHOUT_KEY) for _ in range(1 if KINDS[number % 3] == NEVER else 2)]
    assert await numbers_of(url) == expected
