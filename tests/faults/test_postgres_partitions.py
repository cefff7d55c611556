"""A network that breaks between one of two workers and PostgreSQL, until the other has its jobs, and is whole again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.postgres_worker import LEASE_S
from tests.faults.proxy import Proxy
from tests.faults.rivals import Rivalry, lost_attempts, rivalry
from tests.faults.sizes import Hits, campaign_random, sized
from tests.postgres_server import Server

PARTITIONS = sized(3, 30)
KINDS = ("both directions swallowed", "only replies swallowed", "connections reset")
LATEST_S = 5.0  # so long after the end of a lease its jobs are taken over at the latest
TRIES = 20
TAKEN_OVER, IN_TIME = "attempts taken over", "steps stopped before the lease ended"
LATE, REFUSED = "worker that came back too late", "late commits refused"
# What a worker logs, by window.
SAID = {IN_TIME: "cannot renew its leases", LATE: "was taken for dead", REFUSED: "is not held by"}


def part(proxy: Proxy, kind: str) -> None:
    """Break the network."""
    if kind == KINDS[0]:
        proxy.freeze()
    elif kind == KINDS[1]:
        proxy.freeze("replies")
    else:
        proxy.refuses = True
        proxy.cut()


def heal(proxy: Proxy) -> None:
    proxy.refuses = False
    proxy.thaw()


async def partition(campaign: Rivalry, kind: str, hits: Hits) -> float:
    """Part a worker that holds jobs from the server, until the other one has taken them over; how long that took."""
    cut_off = campaign.chance.choice(campaign.rivals)
    for _ in range(TRIES):
        await campaign.until_working(cut_off)
        part(cut_off.proxy, kind)
        if held := await campaign.held_by(cut_off):
            break
        heal(cut_off.proxy)  # it has ended them all in that very moment
    else:
        raise AssertionError("it never held a job when the network broke")
    campaign.faults += 1
    began_s = time.monotonic()

    async def is_robbed() -> bool:
        return not await campaign.held_by(cut_off)

    await campaign.until(is_robbed, f"the jobs of {cut_off.name} are taken over ({kind})")
    took_s = time.monotonic() - began_s
    hits.count(kind, bool(await campaign.taken_over(held)))
    heal(cut_off.proxy)
    await campaign.until(lambda: campaign.lives(cut_off), f"{cut_off.name} is back ({kind})")
    await campaign.look()
    return took_s


@pytest.mark.guarantee("G1")
@pytest.mark.guarantee("G2")
@pytest.mark.guarantee("G4")
@pytest.mark.guarantee("G5")
async def test_partitioned_worker_loses_its_jobs_to_the_other_and_changes_none_of_them(
    postgres: Server, tmp_path: Path
) -> None:
    chance = campaign_random("tests/faults/test_postgres_partitions.py")
    hits = Hits((*KINDS, TAKEN_OVER, *SAID))
    async with rivalry(postgres, tmp_path, chance) as campaign:
        longest_s = max([await partition(campaign, KINDS[each % len(KINDS)], hits) for each in range(PARTITIONS)])
        records = await campaign.settle()
    hits.count(TAKEN_OVER, lost_attempts(records))
    for window, words in SAID.items():
        hits.count(window, sum(rival.has_logged(words) for rival in campaign.rivals))
    hits.check()
    print(f"the longest takeover took {longest_s:.1f} s")
    assert longest_s < LEASE_S + LATEST_S
