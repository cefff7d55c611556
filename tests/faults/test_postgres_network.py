"""Jobs on PostgreSQL over a network that cuts connections and loses the answers to commits, with two workers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from openagents_json import JobManager, OpenAgentsApp, StepContext
from openagents_json.errors import StoreUnavailable
from openagents_json.job.store.postgres import PostgresJobStore
from tests.faults.checker import check_store
from tests.faults.proxy import Proxy, proxied
from tests.faults.sizes import Hits, campaign_random, sized
from tests.postgres_server import Server

JOBS = sized(30, 300)
FAULTS = sized(10, 100)  # cuts, and as many answers that get lost on the way
CUT, LOST = "connections cut", "answers to COMMIT lost"
PAUSE_S = (0.02, 0.15)
SAFETY_S = 60.0  # only a safety net


class Work:
    """An application whose calls are counted."""

    def __init__(self, url: str) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._url = url

    def jobs(self) -> JobManager:
        """A manager of its own, as on another machine."""
        app = OpenAgentsApp(store=self._url, max_jobs=8)

        @app.tool("work", isolation="inline")
        async def work(context: StepContext, n: int) -> int:
            self.calls[context.job_id, context.step] += 1
            await asyncio.sleep(0.01)
            return n + 1

        steps = [
            {"id": f"s{n}", "component": "work", "inputs": {"n": f"{{{{ steps.s{n - 1}.output }}}}" if n else 0}}
            for n in range(4)
        ]
        app.register_workflow({"id": "four", "steps": steps, "outputs": {"n": "{{ steps.s3.output }}"}})
        return app.jobs


@pytest.fixture
async def network(postgres: Server) -> AsyncIterator[tuple[Proxy, Work, str]]:
    async with proxied(*postgres.address) as (proxy, port):
        schema = await postgres.empty_schema()
        yield proxy, Work(postgres.store_url(schema, port=port)), postgres.store_url(schema)


async def disturb(proxy: Proxy, chance: random.Random, hits: Hits) -> None:
    """Cut connections and lose answers, at random moments."""
    for _ in range(FAULTS):
        proxy.lose_reply_to(b"COMMIT")
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        proxy.cut()
        hits.count(CUT)
        await asyncio.sleep(chance.uniform(*PAUSE_S))
    hits.count(LOST, proxy.lost)


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G12")
async def test_no_job_and_no_result_is_lost_or_doubled_by_a_bad_network(network: tuple[Proxy, Work, str]) -> None:
    proxy, work, direct = network
    chance, hits = campaign_random("tests/faults/test_postgres_network.py"), Hits((CUT, LOST))
    async with AsyncExitStack() as stack, asyncio.timeout(SAFETY_S):
        one, other = [await stack.enter_async_context(work.jobs()) for _ in range(2)]
        disturbing = asyncio.create_task(disturb(proxy, chance, hits))

        async def create(number: int) -> str:
            while True:
                try:
                    return await (one, other)[number % 2].create_job("four", idempotency_key=str(number), start=True)
                except StoreUnavailable:
                    await asyncio.sleep(0.02)

        async def wait(job_id: str) -> int:
            while True:
                try:
                    return int((await one.wait(job_id)).outputs["n"])
                except StoreUnavailable:
                    await asyncio.sleep(0.02)

        ids = await asyncio.gather(*(create(number) for number in range(JOBS)))
        results = await asyncio.gather(*(wait(job_id) for job_id in ids))
        await disturbing
    hits.check()
    assert len(set(ids)) == JOBS
    assert results == [4] * JOBS
    store = PostgresJobStore(direct)
    await store.open()
    assert await check_store(store) == []
    counts = await store.count_jobs(1_000)
    assert counts.by_status == {"COMPLETED": JOBS}  # none twice, none that nobody knows
    await store.close()
    # A worker that lived through it all repeats no call: each start was recorded once, whatever became of the answer.
    assert set(work.calls.values()) == {1} and len(work.calls) == 4 * JOBS
