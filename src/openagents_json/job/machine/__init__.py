"""The machine, pure: `decide` says what follows, `apply` changes the state, `fold` reads a history."""

from openagents_json.job.machine.apply import apply, fold
from openagents_json.job.machine.decide import create, decide
from openagents_json.job.machine.happenings import (
    AttemptFailed,
    AttemptStopped,
    AttemptSucceeded,
    Claimed,
    Happening,
    Interrupted,
    Released,
    Requested,
    Tick,
    Verb,
)
from openagents_json.job.machine.names import ScopeNames, step_output
from openagents_json.job.machine.requests import allowed_verbs, is_repeated, refuse
from openagents_json.job.machine.state import (
    FOLD_VERSION,
    JobState,
    StepRun,
    decode_snapshot,
    encode_snapshot,
    new_state,
)
from openagents_json.job.machine.turn import (
    DEFAULT_CLEANUP_US,
    Admit,
    Call,
    Child,
    ChildSpec,
    Decision,
    Post,
    Spawn,
    error_info,
    no_children,
    no_slots,
)

__all__ = [
    "DEFAULT_CLEANUP_US",
    "FOLD_VERSION",
    "Admit",
    "AttemptFailed",
    "AttemptStopped",
    "AttemptSucceeded",
    "Call",
    "Child",
    "ChildSpec",
    "Claimed",
    "Decision",
    "Happening",
    "Interrupted",
    "JobState",
    "Post",
    "Released",
    "Requested",
    "ScopeNames",
    "Spawn",
    "StepRun",
    "Tick",
    "Verb",
    "allowed_verbs",
    "apply",
    "create",
    "decide",
    "decode_snapshot",
    "encode_snapshot",
    "error_info",
    "fold",
    "is_repeated",
    "new_state",
    "no_children",
    "no_slots",
    "refuse",
    "step_output",
]
