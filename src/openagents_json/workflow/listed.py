"""Older definitions that the framework's own model classes wrote: parameters are lists, steps have a `type`.

A step of type `input` stands for the inputs of the workflow, one of type `output` for its outputs, and the others call
`agent` and `capability`. They are turned into the other older form, with `component`, `set`, `source` and `target`.
"""

from __future__ import annotations

from typing import Any

from openagents_json.workflow.older_names import member, step_path
from openagents_json.workflow.problems import member_path, shown
from openagents_json.workflow.rewriting import Rewriting
from openagents_json.workflow.wiring import Ports

_ENDS = {"from_step": "source", "from_output": "source", "to_step": "target", "to_input": "target"}
_TYPES = ("input", "output", "agent", "tool", "component")


def is_listed(document: dict[str, Any]) -> bool:
    """Whether the definition has this form: no other has steps with a type or an agent."""
    steps = document.get("steps")
    return isinstance(steps, list) and any(
        isinstance(step, dict) and (isinstance(step.get("type"), str) or "agent" in step) for step in steps
    )


def unlist(document: dict[str, Any], rewriting: Rewriting, ports: Ports) -> dict[str, Any]:
    """The same definition with its inputs and outputs by name. Notes in `ports` what that form cannot say."""
    document = dict(document)
    if isinstance(connections := document.get("connections"), list):
        document["connections"] = [
            _connection(one, f"$.connections[{index}]", rewriting) for index, one in enumerate(connections)
        ]
        ports.order_only = frozenset(
            index
            for index, one in enumerate(connections)
            if isinstance(one, dict) and one.get("is_control_flow") is True
        )
    ports.own_inputs = True
    for name in ("inputs", "outputs"):
        if isinstance(document.get(name), list):
            document[name] = _by_name(document[name], f"$.{name}", rewriting)
    steps = document["steps"]
    sources, sinks = _of_type(steps, "input", "outputs"), _of_type(steps, "output", "inputs")
    given = document.get("inputs", {})
    if isinstance(given, dict) and given.get("type") != "object":
        wanted = {name: one for declared in sources.values() for name, one in declared.items()}
        from_inputs = _paired(list(wanted), list(given))
        document["inputs"] = {**given, **{name: one for name, one in wanted.items() if name not in from_inputs}}
    else:
        from_inputs = {}
    _outputs(document, sinks)
    document["steps"] = [
        _step(step, f"$.steps[{index}]", rewriting, ports, from_inputs) if isinstance(step, dict) else step
        for index, step in enumerate(steps)
    ]
    ports.sinks = frozenset(sinks)
    return document


def _connection(given: Any, path: str, rewriting: Rewriting) -> Any:
    if not isinstance(given, dict) or "from_step" not in given:
        return given
    made = {name: value for name, value in given.items() if name not in _ENDS and name != "is_control_flow"}
    for end, step, port in (("source", "from_step", "from_output"), ("target", "to_step", "to_input")):
        if step in given:
            made[end] = f"{given[step]}.{given[port]}" if given.get(port) else given[step]
            rewriting.move(f"{path}.{end}", f"{path}.{step}")
    return made


def _by_name(parameters: list[Any], path: str, rewriting: Rewriting) -> dict[str, Any]:
    """A list of parameters as an object. Those without a name are problems."""
    named: dict[str, Any] = {}
    for index, one in enumerate(parameters):
        place = f"{path}[{index}]"
        if isinstance(one, dict) and isinstance(name := one.get("name"), str) and name not in named:
            named[name] = {key: value for key, value in one.items() if key != "name"}
            rewriting.move(member_path(path, name), place)
        else:
            rewriting.add(place, "A parameter in a list is an object with a `name` of its own.")
    return named


def _of_type(steps: list[Any], type: str, field: str) -> dict[str, dict[str, Any]]:
    """The named parameters of each step of a type, by the step's id."""
    found = {}
    for step in steps:
        if isinstance(step, dict) and step.get("type") == type and isinstance(step.get("id"), str):
            found[step["id"]] = _named(step.get(field))
    return found


def _named(parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, list):
        return {}
    return {
        one["name"]: {key: value for key, value in one.items() if key != "name"}
        for one in parameters
        if isinstance(one, dict) and isinstance(one.get("name"), str)
    }


def _paired(wanted: list[str], given: list[str]) -> dict[str, str]:
    """Which of the given names stands for each wanted one: the same, and the last two left over for each other."""
    pairs = {name: name for name in wanted if name in given}
    left, free = [name for name in wanted if name not in pairs], [name for name in given if name not in pairs]
    if len(left) == len(free) == 1:
        pairs[left[0]] = free[0]
    return pairs


def _outputs(document: dict[str, Any], sinks: dict[str, dict[str, Any]]) -> None:
    """The workflow's outputs from those of its steps of type `output`."""
    declared = document.pop("outputs", {})
    collected = {name: f"{step_path(sink)}.output{member(name)}" for sink, names in sinks.items() for name in names}
    if not isinstance(declared, dict):
        document["outputs"] = declared
    elif declared:
        pairs = _paired(list(declared), list(collected))
        document["outputs"] = {name: f"{{{{ {collected[pairs[name]]} }}}}" for name in declared if name in pairs}
    elif collected:
        document["outputs"] = {name: f"{{{{ {value} }}}}" for name, value in collected.items()}


def _step(
    step: dict[str, Any], path: str, rewriting: Rewriting, ports: Ports, from_inputs: dict[str, str]
) -> dict[str, Any]:
    made = {name: value for name, value in step.items() if name not in ("type", "agent", "capability", "tool")}
    kind = step.get("type", "agent")
    if kind == "input":
        made.pop("inputs", None)
        outputs = _named(made.pop("outputs", None))
        made["set"] = {
            name: f"{{{{ inputs{member(from_inputs.get(name, name))} | default(none) }}}}" for name in outputs
        }
        return made
    if kind == "output":
        made.pop("outputs", None)
        made["set"] = dict.fromkeys(_named(made.pop("inputs", None)))
        return made
    if kind not in _TYPES:
        rewriting.add_unknown(f"{path}.type", f"There is no step type {shown(kind)}.", str(kind), list(_TYPES))
    if "component" not in made:
        names = [step[name] for name in ("agent", "capability", "tool") if isinstance(step.get(name), str)]
        if names:
            made["component"] = ".".join(names)
            rewriting.move(f"{path}.component", f"{path}.{'tool' if 'tool' in step else 'agent'}")
    if isinstance(step.get("inputs"), list):
        named = _named(step["inputs"])
        made["inputs"] = {name: one["default"] for name, one in named.items() if one.get("default") is not None}
    if isinstance(step.get("outputs"), list):
        made["outputs"] = dict.fromkeys(_named(step["outputs"]), "")
    return made
