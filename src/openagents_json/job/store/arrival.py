"""Where a job stands in the queue: its virtual arrival time. Pure.

Jobs are claimed in the order of one number, written into the row when the job enters the queue and changed only with
its priority or the store's `aging_s`. It is the time at which the job came, less what it has waited in the queue
before, less `aging_s` for each rank of its priority. Of two that would stand at the same time the one that has begun
already comes first: it stands a microsecond earlier. So a job of a higher priority stands where one of a lower priority
would stand that came so much earlier, whoever waits comes before all that arrive later by more than that, and nothing
has to be computed again as time goes by.
"""

from __future__ import annotations

from openagents_json.clock import SECOND_US

DEFAULT_AGING_S = 3_600.0  # how long a job waits to gain one rank
DEADLINE_LEAD_S = 3_600.0  # so much waiting a job with a deadline can make up for
STRICT_AGING_S = 1e9  # a job of a higher priority always comes first: nothing waits for thirty years


def virtual_arrival_us(now_us: int, queued_total_us: int, rank: int, aging_s: float, *, has_begun: bool = False) -> int:
    """The key of the queue (DESIGN §5), in microseconds of the store's clock; earlier is sooner. `now_us` is when the
    job entered the queue, `queued_total_us` what it had waited there before."""
    return now_us - queued_total_us - rank * round(aging_s * SECOND_US) - has_begun


def place_us(
    entered_us: int,
    queued_total_us: int,
    rank: int,
    aging_s: float,
    tag_us: int | None,
    start_by_us: int | None,
    *,
    has_begun: bool = False,
) -> int:
    """The same of a job that perhaps has a share or a deadline. The tag of its share stands in for the time at which it
    came, less what it had waited before. And it stands as if it had come no later than `DEADLINE_LEAD_S` before the
    time at which it has to begin: where jobs wait no longer than that, it begins in time."""
    came_us = entered_us - queued_total_us if tag_us is None else tag_us
    if start_by_us is not None:
        came_us = min(came_us, start_by_us - round(DEADLINE_LEAD_S * SECOND_US))
    return virtual_arrival_us(came_us, 0, rank, aging_s, has_begun=has_begun)
