"""What a job that retries another takes over: which of its recorded results stay, and which steps run again. Pure.

A step runs again if the retry begins from it, if the origin failed, was stopped or never came to it, if the origin has
undone it, or if it waits for one of these. Every other step has a result in the origin, and keeps it. A failure that
the definition lets the job go on after (`continue_on_error`) is a result: what came later was made with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openagents_json import jsondata
from openagents_json.errors import Problem
from openagents_json.job.machine.names import step_view
from openagents_json.job.machine.state import UNDO_LABEL, Data, JobState
from openagents_json.job.model import JobStatus, StepStatus
from openagents_json.workflow import limits
from openagents_json.workflow.plan import Block, Node, Plan
from openagents_json.workflow.problems import member_path, nearest, shown


@dataclass(frozen=True, slots=True)
class Takeover:
    """What a new job has from its origin: `about` is data of its `job.created` (origin, given), `results` are the data
    of its `step.taken_over`."""

    about: Data
    results: Sequence[Data]


def what_to_take_over(state: JobState, from_step: str | None, outputs: Mapping[str, Any]) -> list[Data]:
    """The data of each `step.taken_over`, in the order of the definition. `state` is final, `from_step` and `outputs`
    have been looked at by `takeover_problems`. `TooLarge` if the results take more than `limits.VIEW_BYTES`."""
    again = _runs_again(state, from_step)
    taken: list[Data] = []
    size_bytes = 0
    for node in state.plan.root.nodes:
        if node.id in outputs:
            data: Data = {"path": node.id, "status": str(StepStatus.COMPLETED), "output": outputs[node.id]}
        elif node.index not in again and _has_result(state, node):
            data = _result(state, node)
        else:
            continue
        copy, encoded = jsondata.plain(data)
        size_bytes += len(encoded)
        if size_bytes > limits.VIEW_BYTES:
            raise jsondata.TooLarge(size_bytes, limits.VIEW_BYTES)
        taken.append(copy)
    return taken


def _runs_again(state: JobState, from_step: str | None) -> set[int]:
    """The places of the steps that have to run whatever the origin recorded of them."""
    block = state.plan.root
    if from_step is not None:
        first = {block.by_id[from_step].index}
    elif state.status == JobStatus.COMPLETED:
        return set(range(len(block.nodes)))
    else:
        first = set()
    return _with_followers(block, first | _undone(state))


def _undone(state: JobState) -> set[int]:
    """The places of the steps of which the origin has undone something, or tried to: their results are void."""
    owners = (scope.owner for scope in state.scopes.values() if scope.label == UNDO_LABEL)
    return {state.plan.root.by_id[_top(path)].index for path in owners}


def _with_followers(block: Block, first: Iterable[int]) -> set[int]:
    found: set[int] = set()
    left = list(first)
    while left:
        index = left.pop()
        if index not in found:
            found.add(index)
            left += block.nodes[index].followers
    return found


def _has_result(state: JobState, node: Node) -> bool:
    run = state.runs.get(node.id)
    if run is None:
        return False
    is_tolerated = run.status == StepStatus.FAILED and node.step.continue_on_error
    return run.status in (StepStatus.COMPLETED, StepStatus.SKIPPED) or is_tolerated


def _result(state: JobState, node: Node) -> Data:
    """What `steps.<id>` is in the origin, as one value: of a container the whole view."""
    run, view = state.runs[node.id], step_view(state, node.id)
    data: Data = {"path": node.id, "status": view["status"]}
    data |= {key: view[key] for key in ("output", "error") if view[key] is not None}
    if view.get("errors"):
        data["errors"] = view["errors"]
    source = run.taken_from if run.taken else state.job_id
    return data if source is None else data | {"from": source}


# ── what is asked for ─────────────────────────────────────────────────────────────────────────────────────────────


def takeover_problems(plan: Plan, from_step: str | None, outputs: Iterable[str]) -> list[Problem]:
    """Why no retry can begin from that step, or have outputs set for these; empty if it can."""
    asked = [] if from_step is None else [("$.from_step", from_step)]
    asked += [(member_path("$.outputs", str(name)), name) for name in outputs]
    return [problem for path, name in asked if (problem := _step_problem(plan, path, name)) is not None]


def _step_problem(plan: Plan, path: str, name: Any) -> Problem | None:
    if not isinstance(name, str):
        return Problem(path, f"The id of a step is a text, not {shown(name)}.")
    known = plan.root.by_id
    if name in known:
        return None
    top = _top(name)
    if (node := plan.nodes.get(top)) is not None:
        while node.block.owner is not None:
            node = node.block.owner
        top = node.id
    if plan.finally_block is not None and top in plan.finally_block.by_id:
        return Problem(path, f"{shown(name)} is of the finally steps, which run at the end of every job.")
    if top in known:
        message = f"{shown(name)} is inside the step {top!r}; only whole steps of the definition are taken over or not."
        return Problem(path, message, f"Give {top!r}.")
    return Problem(path, f"There is no step {shown(name)}.", nearest(name, known) or f"There are: {_listed(known)}.")


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:20]) + (", …" if len(first) > 20 else "")


def _top(path: str) -> str:
    """The step of the definition that a path is of: `each` of `each[3].score`."""
    return re.split(r"[\[.~]", path, maxsplit=1)[0]
