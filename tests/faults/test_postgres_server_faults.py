"""PostgreSQL that crashes, ends sessions, or loses a worker to kill −9, while two workers compete for its jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openagents_json.job.store.postgres_rows import SQL
from tests.faults.rivals import Rivalry, lost_attempts, rivalry
from tests.faults.sizes import Hits, campaign_random, sized
from tests.postgres_server import Server

RESTARTS, KILLS, ENDED_SESSIONS = sized(1, 20), sized(1, 10), sized(5, 100)
TAKEN_OVER = "attempts taken over"
TRIES = 20
BEGINNING = 200  # characters that tell a statement from all others
LOOK_EVERY = 10

# ── crashes of the server ─────────────────────────────────────────────────────────────────────────────────────────

HELD, UNANSWERED, BACK = "jobs that each worker held", "creates without an answer", "workers that came back"
ASKED_MEANWHILE = 3  # jobs that the client asks for while the server is away


async def crash(campaign: Rivalry, hits: Hits) -> None:
    """Stop the server at once while both workers hold jobs, ask for more, and start it again."""
    for _ in range(TRIES):
        await campaign.until_working(*campaign.rivals)
        if held := min([len(await campaign.held_by(rival)) for rival in campaign.rivals]):
            break
    else:
        raise AssertionError("the workers never held jobs at the same time")
    unanswered = campaign.unanswered
    await asyncio.to_thread(campaign.server.stop)
    async with asyncio.TaskGroup() as both:
        both.create_task(campaign.ask_for(ASKED_MEANWHILE))
        both.create_task(asyncio.to_thread(campaign.server.start))
    campaign.faults += 1
    hits.count(HELD, held)
    hits.count(UNANSWERED, campaign.unanswered - unanswered)
    crashed_us = await campaign.ask("SELECT store_now(NULL)")
    for rival in campaign.rivals:
        await campaign.until(lambda rival=rival: campaign.lives(rival, crashed_us), f"{rival.name} is back")  # type: ignore[misc]
        hits.count(BACK)
    await campaign.patiently(campaign.look)


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G12")
async def test_crashes_of_the_server_lose_nothing_and_the_workers_go_on_by_themselves(
    postgres: Server, tmp_path: Path
) -> None:
    if not postgres.is_ours:
        pytest.skip("stops the server")
    chance = campaign_random("tests/faults/test_postgres_server_faults.py -k crashes")
    hits = Hits((HELD, UNANSWERED, BACK))
    async with rivalry(postgres, tmp_path, chance) as campaign:
        for _ in range(RESTARTS):
            await crash(campaign, hits)
        await campaign.settle(struck=len(campaign.rivals))
    hits.check()


# ── sessions that somebody ends ───────────────────────────────────────────────────────────────────────────────────

# What a session was asked last, as the beginnings of such statements. It is ended while it runs it, or after it inside
# the transaction; with False also at rest, which is how one that listens is found.
SESSIONS = {
    "listening": (["LISTEN", "NOTIFY"], False),
    "claiming": ([SQL["claim"]], True),
    "committing": (["COMMIT"], True),
    "committing in one statement": ([SQL["commit"], SQL["commit_running"]], True),
    "beating": ([SQL["worker_renew"]], False),
}
# Looks until a session of that kind is there, and ends it; whether there was one.
HIT = """
CREATE FUNCTION pg_temp.hit(sessions text, beginnings text[], is_busy boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE ended boolean; until timestamptz := clock_timestamp() + interval '1 s';
BEGIN
  LOOP
    PERFORM pg_stat_clear_snapshot();
    SELECT pg_terminate_backend(pid) INTO ended FROM pg_stat_activity
    WHERE application_name = sessions AND NOT (is_busy AND state = 'idle')
    AND EXISTS (SELECT 1 FROM unnest(beginnings) AS beginning WHERE starts_with(query, beginning)) LIMIT 1;
    IF ended OR clock_timestamp() > until THEN RETURN coalesce(ended, false); END IF;
  END LOOP;
END $$
"""


async def end_session(campaign: Rivalry, kind: str, hits: Hits) -> None:
    """End a session of one of the workers."""
    statements, is_busy = SESSIONS[kind]
    beginnings = [statement[:BEGINNING] for statement in statements]
    async with campaign.server.connected() as connection:
        await connection.execute(HIT)
        for _ in range(TRIES):
            rival = campaign.chance.choice(campaign.rivals)
            await campaign.until_working(rival)
            query = "SELECT pg_temp.hit($1, $2, $3)"
            if await connection.fetchval(query, rival.application, beginnings, is_busy):
                break
        else:
            raise AssertionError(f"no session was ever {kind}")
    campaign.faults += 1
    hits.count(kind)


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G12")
async def test_ended_sessions_lose_nothing_and_the_workers_make_new_ones(postgres: Server, tmp_path: Path) -> None:
    chance = campaign_random("tests/faults/test_postgres_server_faults.py -k sessions")
    hits = Hits(tuple(SESSIONS))
    async with rivalry(postgres, tmp_path, chance) as campaign:
        for number in range(ENDED_SESSIONS):
            await end_session(campaign, list(SESSIONS)[number % len(SESSIONS)], hits)
            if number % LOOK_EVERY == 0:
                await campaign.look()
        await campaign.settle()
    hits.check()


# ── kill −9 of a worker ───────────────────────────────────────────────────────────────────────────────────────────

KILLED = "attempts of a killed worker"


async def kill(campaign: Rivalry, hits: Hits) -> None:
    """Kill a worker that holds jobs; the other one takes them over, and a new one comes in its place."""
    killed = campaign.chance.choice(campaign.rivals)
    await campaign.until_working(killed)
    killed.process.kill()
    killed.process.wait()
    held = await campaign.held_by(killed)
    campaign.faults += 1

    async def is_robbed() -> bool:
        return not await campaign.held_by(killed)

    await campaign.until(is_robbed, f"the jobs of {killed.name} are taken over")
    hits.count(KILLED, await campaign.taken_over(held))
    campaign.start(killed)
    await campaign.look()


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G5")
async def test_jobs_of_a_killed_worker_are_ended_by_the_other(postgres: Server, tmp_path: Path) -> None:
    chance = campaign_random("tests/faults/test_postgres_server_faults.py -k killed")
    hits = Hits((KILLED, TAKEN_OVER))
    async with rivalry(postgres, tmp_path, chance) as campaign:
        for _ in range(KILLS):
            await kill(campaign, hits)
        records = await campaign.settle()
    hits.count(TAKEN_OVER, lost_attempts(records))
    hits.check()
