"""What passes between the machine and the store, in the form of the other side. Pure."""

from __future__ import annotations

from collections.abc import Collection

from openagents_json.job.machine import (
    AttemptFailed,
    AttemptStopped,
    Decision,
    Happening,
    JobState,
    ReleaseEnded,
    Requested,
    error_info,
)
from openagents_json.job.model import JobStatus
from openagents_json.job.store.records import Claim, Commit, Request, row_of


def commit_of(
    claim: Claim,
    expected: int,
    previous: JobStatus,
    state: JobState,
    decision: Decision,
    drained: Collection[int],
    now_us: int,
    snapshot: bytes | None = None,
) -> Commit:
    """What a turn decided, as the store takes it: all that has to be written together."""
    return Commit(
        claim=claim,
        expected=expected,
        events=decision.events,
        row=row_of(state),
        previous_status=previous,
        drained=list(drained) if drained else (),
        snapshot=snapshot,
        abandoned=sum(1 for event in decision.events if event.data.get("abandoned")),
        children=[child.job[0] for child in decision.children] if decision.children else (),
        posts=[
            (post.job_id, Request(post.key, post.verb, post.by, post.reason, now_us, post.arguments))
            for post in decision.posts
        ]
        if decision.posts
        else (),
        leaks=decision.leaks,
    )


def release_ended(resource_id: str, token: int, outcome: Happening) -> ReleaseEnded:
    """What became of the attempt of a release, as what became of the release."""
    match outcome:
        case AttemptFailed():
            return ReleaseEnded(resource_id, token, outcome.error, outcome.stop)
        case AttemptStopped():
            error = error_info("release.stopped", f"The release was stopped ({outcome.reason}).")
            return ReleaseEnded(resource_id, token, error, outcome.stop, was_told=True)
    return ReleaseEnded(resource_id, token)


def as_requested(request: Request) -> Requested:
    """An inbox entry as a happening."""
    return Requested(
        request.kind,  # type: ignore[arg-type]
        request.by,
        request.reason,
        request.payload,
        request.sequence,
        request.key,
    )
