"""Where a job stands in the queue: its virtual arrival time. Pure.

Jobs are claimed in the order of one number, written into the row when the job enters the queue and changed only with
its priority or the store's `aging_s`. It is the time at which the job came, less what it has waited in the queue
before, less `aging_s` for each rank of its priority. So a job of a higher priority stands where one of a lower priority
would stand that came so much earlier, whoever waits comes before all that arrive later by more than that, and nothing
has to be computed again as time goes by.
"""

from __future__ import annotations

from openagents_json.clock import SECOND_US

DEFAULT_AGING_S = 3_600.0  # how long a job waits to gain one rank
STRICT_AGING_S = 1e9  # a job of a higher priority always comes first: nothing waits for thirty years


def virtual_arrival_us(now_us: int, queued_total_us: int, rank: int, aging_s: float) -> int:
    """The key of the queue (DESIGN §5), in microseconds of the store's clock; earlier is sooner. `now_us` is when the
    job entered the queue, `queued_total_us` what it had waited there before."""
    return now_us - queued_total_us - rank * round(aging_s * SECOND_US)
