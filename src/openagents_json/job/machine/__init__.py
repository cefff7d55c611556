"""The machine, pure: `decide` says what follows, `apply` changes the state, `fold` reads a history."""

from openagents_json.job.machine.apply import apply, fold
from openagents_json.job.machine.decide import Admit, Call, Decision, create, decide, error_info, no_slots
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
from openagents_json.job.machine.requests import allowed_verbs, is_repeated, refuse
from openagents_json.job.machine.state import (
    FOLD_VERSION,
    JobState,
    ScopeNames,
    StepRun,
    decode_snapshot,
    encode_snapshot,
    new_state,
    step_output,
)

__all__ = [
    "FOLD_VERSION",
    "Admit",
    "AttemptFailed",
    "AttemptStopped",
    "AttemptSucceeded",
    "Call",
    "Claimed",
    "Decision",
    "Happening",
    "Interrupted",
    "JobState",
    "Released",
    "Requested",
    "ScopeNames",
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
    "no_slots",
    "refuse",
    "step_output",
]
