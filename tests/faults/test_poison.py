"""Jobs that kill their workers, among good ones: the good ones complete, each poison is FAILED with `worker_lost`, and
whoever starts workers again after their deaths gets there (G6)."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from openagents_json import Event
from openagents_json.job.store.rules import SUSPECT_DEATHS
from tests.faults import poison, victim
from tests.faults.checker import Evidence, fault_violations, read_records
from tests.faults.nursery import Nursery
from tests.faults.poison import KINDS
from tests.faults.sizes import Hits, campaign_random, sized

GOOD = sized(20, 100)
DEATHS = SUSPECT_DEATHS + 1  # of a poison: the last one alone
WORKERS = 3 * DEATHS + 1  # at most, one after the other: the last one ends by itself
LIFE_S = 60.0  # at most, of a worker


@pytest.mark.guarantee("G6")
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS as Linux has it")
@pytest.mark.timeout(400)
async def test_poison_fails_and_its_neighbours_complete(tmp_path: Path) -> None:
    chance = campaign_random("tests/faults/test_poison.py")
    hits = Hits(tuple(KINDS))
    kinds = ["good"] * GOOD
    for kind in KINDS:
        kinds.insert(chance.randrange(GOOD), kind)
    prefixes: dict[str, list[Event]] = {}
    finals: dict[str, str] = {}
    app = poison.make_app(tmp_path)
    with Nursery(poison) as nursery:
        async with app.manager(worker=False) as jobs:
            deadly: dict[str, str] = {}
            accepted: list[str] = []
            for kind in kinds:
                accepted.append(await jobs.create_job(kind, start=True))
                if kind != "good":
                    deadly[accepted[-1]] = kind
            ends: Counter[int] = Counter()
            for _ in range(WORKERS):
                nursery.begin(tmp_path)
                code = await nursery.ended(within_s=LIFE_S)
                if code == 0:
                    break
                ends[code] += 1
                records = await read_records(jobs.store)
                prefixes |= {record.id: list(record.events) for record in records}
                finals |= {one.id: str(one.summary.status) for one in records if one.summary.status.is_final}
            assert code == 0, f"{WORKERS} workers have died: {dict(ends)}"
            records = await read_records(jobs.store)
    evidence = Evidence(
        records,
        accepted=set(accepted),
        effects=victim.read_effects(tmp_path),
        faults=ends.total(),
        concurrency=poison.MAX_JOBS,
        prefixes=prefixes,
        finals=finals,
    )
    assert fault_violations(evidence) == []
    assert ends.keys() == set(KINDS.values())
    for record in records:
        status, error = record.summary.status, record.summary.error_type
        if record.id not in deadly:
            assert status == "COMPLETED"
        else:
            kind = deadly[record.id]
            assert (status, error) == ("FAILED", "worker_lost"), kind
            deaths = [event.type for event in record.events].count("job.worker_lost")
            assert deaths == DEATHS, kind
            hits.count(kind, deaths)
    hits.check()
