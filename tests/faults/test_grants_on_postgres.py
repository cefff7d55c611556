"""Three stores on one PostgreSQL schema race for the slots of a component, and some of them vanish in the middle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from openagents_json.clock import SECOND_US
from openagents_json.job.store.contract.jobs import new_job
from openagents_json.job.store.grants import Cap, Want, cap_key
from openagents_json.job.store.limits import Place
from openagents_json.job.store.postgres import PostgresJobStore
from openagents_json.testing import FakeClock
from tests.postgres_server import Server

SLOTS = Cap(cap_key("concurrency", "fetch", "a.org"), 2)
TOKENS = Cap(cap_key("rate", "fetch"), 5, 3_600 * SECOND_US)
ROUNDS = 25


class Rival:
    """A worker that takes slots, keeps them for a moment, and gives them back."""

    def __init__(self, store: PostgresJobStore, name: str, on: Counter[str], rng: random.Random) -> None:
        self.store = store
        self.name = name
        self._on = on  # slots that each worker has, by name
        self._random = rng
        self.served = 0

    async def compete(self) -> None:
        for number in range(ROUNDS):
            want = Want("job", f"{self.name}-{number}", Place(number, number), 0, (SLOTS,))
            while (await self.store.take_grants(self.name, {SLOTS.key: 0}, [want]))[0] is not None:  # noqa: ASYNC110
                await asyncio.sleep(self._random.uniform(0, 0.004))  # others are stores of their own: nobody tells us
            self._on[self.name] += 1
            assert self._on.total() <= SLOTS.limit, dict(self._on)
            await asyncio.sleep(self._random.uniform(0, 0.004))
            self._on[self.name] -= 1
            self.served += 1
        await self.store.take_grants(self.name, {SLOTS.key: 0}, [])


async def test_three_stores_race_for_two_slots(postgres: Server) -> None:
    url = postgres.store_url(await postgres.empty_schema())
    stores = [PostgresJobStore(url) for _ in range(3)]
    on: Counter[str] = Counter()
    try:
        for number, store in enumerate(stores):
            await store.open()
            await store.register_worker(f"w{number}")
        rivals = [Rival(store, f"w{n}", on, random.Random(n)) for n, store in enumerate(stores)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(rival.compete() for rival in rivals))
        assert [rival.served for rival in rivals] == [ROUNDS] * 3
        async with postgres.connected() as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {stores[0].place.schema}.grants") == 0
    finally:
        for store in stores:
            await store.close()


async def test_stores_race_for_the_last_slot_and_for_tokens(postgres: Server) -> None:
    url = postgres.store_url(await postgres.empty_schema())
    stores = [PostgresJobStore(url) for _ in range(3)]
    try:
        for number, store in enumerate(stores):
            await store.open()
            await store.register_worker(f"w{number}")
        one = Cap(SLOTS.key, 1)
        for _ in range(10):
            answers = await asyncio.gather(
                *(
                    store.take_grants(f"w{n}", {}, [Want("job", "s", Place(1, 1), 0, (one,))])
                    for n, store in enumerate(stores)
                )
            )
            assert [answer for [answer] in answers].count(None) == 1, "exactly one has it"
            for number, store in enumerate(stores):
                await store.take_grants(f"w{number}", {one.key: 0}, [])
        wants = [Want("job", str(n), Place(n, n), 0, (TOKENS,)) for n in range(4)]
        found = await asyncio.gather(*(store.take_grants(f"w{n}", {}, wants) for n, store in enumerate(stores)))
        assert sum(answers.count(None) for answers in found) == TOKENS.limit
    finally:
        for store in stores:
            await store.close()


async def test_pause_is_lifted_while_claims_set_jobs_aside(postgres: Server) -> None:
    """No job stays aside for a pause that is over, whatever came first."""
    clock = FakeClock()
    url = postgres.store_url(await postgres.empty_schema())
    stores = [PostgresJobStore(url, clock) for _ in range(3)]
    try:
        for store in stores:
            await store.open()
        ids = set(await stores[0].create_all([new_job(clock) for _ in range(40)]))
        claimed: set[str] = set()

        async def claim(store: PostgresJobStore) -> None:
            for _ in range(4):
                claimed.update(claim.job_id for claim in await store.claim("w", 5))

        for _ in range(10):
            await stores[0].set_pause("workflow", "calls", None, None)
            await asyncio.gather(claim(stores[1]), stores[0].lift_pause("workflow", "calls"), claim(stores[2]))
            if claimed == ids:
                break
        for store in stores:
            claimed.update(claim.job_id for claim in await store.claim("w", 100))
        assert claimed == ids
    finally:
        for store in stores:
            await store.close()
