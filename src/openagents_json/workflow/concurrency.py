"""The key of `concurrency`, and `share_key`: what may stand in them. Each is worked out when a job is made, so that it
can look at inputs alone, and it is shown to whoever asks what a job waits for."""

from __future__ import annotations

from collections.abc import Iterator

from openagents_json.workflow.expressions import Template


def key_problems(key: Template, secret_inputs: frozenset[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a key, each with what to do; names that the inputs do not have are not looked at."""
    roots = [*sorted(key.roots - {"inputs"}), *(["steps"] if key.steps else []), *(["secrets"] if key.secrets else [])]
    for root in roots:
        yield f"`{root}` cannot be used here: the key is worked out before anything runs.", "Use `inputs`."
    secret = key.inputs & secret_inputs
    if "inputs" in key.roots and not key.inputs:
        secret = secret_inputs  # all of them at once
    for name in sorted(secret):
        yield f"The input {name!r} is secret, and the key is shown.", "Use another input."
