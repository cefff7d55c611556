"""What steps of running jobs are short of, as their workers tell it, so that other programs can say it too. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

MAX_JOBS = 50  # of a worker, of which it tells


@dataclass(frozen=True, slots=True)
class Short:
    """A resource that a step finds too little of. Amounts are numbers as people write them."""

    resource: str
    need: float
    capacity: float
    free: float  # what is left for it; what is free and kept for jobs that come first is not
    holders: tuple[str, ...]  # ids of the jobs whose steps occupy some of it, the longest first, only so many
    # Ids of the jobs that want it too and come first, in order, the job itself for an earlier step; only so many.
    ahead: tuple[str, ...]
    since_us: int  # when the step was first found to wait


Shortages = Mapping[str, Sequence[Short]]  # by job id

_decoder = msgspec.json.Decoder(dict[str, list[Short]])


def encode_shortages(shortages: Shortages) -> bytes:
    """As JSON."""
    return msgspec.json.encode(shortages)


def shortages_of(data: bytes | None, job_id: str) -> list[Short]:
    """What a worker has told of a job; [] if it has told nothing."""
    return [] if data is None else _decoder.decode(data).get(job_id, [])
