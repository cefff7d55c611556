"""Keys of the limits of components: expressions over the inputs of the attempt that is about to begin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from openagents_json.components.limits import use_key_check
from openagents_json.errors import ExpressionError
from openagents_json.jsondata import freeze
from openagents_json.workflow.expressions import Template, compile_template

KEYS_KEPT = 1_000  # compiled


class InputNames:
    """What an expression sees that can look at inputs alone (implements `expressions.Names`)."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self._inputs = freeze(dict(inputs))

    def value(self, name: str) -> Any:
        if name != "inputs":
            raise KeyError(name)
        return self._inputs

    def step(self, step_id: str) -> Mapping[str, Any]:
        raise KeyError(step_id)

    def secret(self, name: str) -> str:
        raise KeyError(name)


@lru_cache(maxsize=KEYS_KEPT)
def compiled_key(source: str) -> Template:
    """The key. `ExpressionError` when it is none."""
    return compile_template(source)


def key_value(source: str, inputs: Mapping[str, Any]) -> Any:
    """The value of a key for these inputs. `ExpressionError` when it cannot be worked out of them."""
    return compiled_key(source).render(InputNames(inputs))


def key_fault(source: str) -> str | None:
    """What is wrong with a key, and what to do; None if nothing is."""
    try:
        key = compiled_key(source)
    except ExpressionError as error:
        return str(error).rstrip(".")
    others = [*sorted(key.roots - {"inputs"}), *(["steps"] if key.steps else []), *(["secrets"] if key.secrets else [])]
    if others:
        return f"`{others[0]}` cannot be used here; use the `inputs` of the component"
    if "inputs" not in key.roots:
        return "it is the same for every attempt; leave it out, or use the `inputs` of the component"
    return None


use_key_check(key_fault)
