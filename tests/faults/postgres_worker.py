"""A worker on PostgreSQL that competes with others for the jobs of `victim.py`, until its standard input ends.

    python -m tests.faults.postgres_worker FOLDER URL

Its leases are as short as they can be, and it looks for jobs of dead workers often: what a takeover costs is in the
figures; here there have to be many. It logs to its standard error.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from openagents_json.job.engine import worker
from tests.faults import victim

LEASE_S = 1.0  # the shortest there is
RECOVER_S = 0.2


async def main(folder: Path, url: str) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, told.set)  # nothing is ever sent
    async with victim.make_app(folder, url=url, lease_s=LEASE_S).jobs:
        await told.wait()


if __name__ == "__main__":
    worker.RECOVER_S = RECOVER_S
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(levelname)s %(message)s")
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
