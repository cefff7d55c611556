"""What `openagents validate`, `openagents schema` and `openagents components` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openagents_json.cli.amounts import amounts_of
from openagents_json.cli.exit_codes import Exit
from openagents_json.cli.failures import problem_lines
from openagents_json.cli.loading import load_app
from openagents_json.cli.output import Output
from openagents_json.cli.text import count, printable
from openagents_json.components import Component
from openagents_json.errors import Problem
from openagents_json.workflow import Step, Workflow, check, load_workflow
from openagents_json.workflow.language_schema import language_schema

DESCRIPTION_CHARACTERS = 80
PROBLEMS_SHOWN = 201  # all that a check finds


def validate_file(file: str, components: Sequence[str], given: Sequence[str], output: Output) -> int:
    """Check a definition; `Exit.USAGE` if it has errors."""
    amounts = amounts_of(given)
    app = load_app(components) if components else None
    registry = app.components if app is not None else None
    resources = {**(app.resources if app is not None else {}), **amounts} or None
    problems = check(Path(file), registry, resources=resources, workflows=None if app is None else app.workflows)
    is_good = not any(problem.level == "error" for problem in problems)
    workflow = load_workflow(Path(file)) if is_good else None
    if output.as_json:
        output.document(_verdict(workflow, problems))
        return Exit.DONE if is_good else Exit.USAGE
    if workflow is not None:
        output.say(f"OK {workflow.id} {workflow.version}, {count(count_steps(workflow), 'step')}")
        if registry is None and any(step.component is not None for step in _all_steps(workflow)):
            output.say("Its components were not looked for; give --components to check them too.")
    if problems:
        output.note(f"{printable(file, 200)} has {_counted(problems)}:")
        for line in problem_lines(problems, PROBLEMS_SHOWN):
            output.note(f"  {line}")
    return Exit.DONE if is_good else Exit.USAGE


def _counted(problems: Sequence[Problem]) -> str:
    """`3 problems`, or `2 warnings and 1 note` if nothing is wrong."""
    if any(problem.level == "error" for problem in problems):
        return count(len(problems), "problem")
    counts = [(sum(problem.level == level for problem in problems), level) for level in ("warning", "note")]
    return " and ".join(count(number, level) for number, level in counts if number)


def _verdict(workflow: Workflow | None, problems: Sequence[Problem]) -> dict[str, object]:
    """{"ok", "id", "version", "steps", "problems": [{"level", "path", "message", "suggestion", "line", "column"}]}.

    Id, version and number of steps are null if there are errors.
    """
    return {
        "ok": workflow is not None,
        "id": workflow and workflow.id,
        "version": workflow and workflow.version,
        "steps": workflow and count_steps(workflow),
        "problems": [
            {
                "level": one.level,
                "path": one.path,
                "message": one.message,
                "suggestion": one.suggestion,
                "line": one.line,
                "column": one.column,
            }
            for one in problems
        ],
    }


def count_steps(workflow: Workflow) -> int:
    """All steps, nested ones and `finally` included."""
    return len(_all_steps(workflow))


def _all_steps(workflow: Workflow) -> list[Step]:
    steps = [*workflow.steps, *workflow.finally_]
    for step in steps:  # grows while it is walked: nested steps go to the end
        parts = [step.steps, step.default, *(step.parallel or {}).values()]
        parts += [one.steps for one in (*(step.switch or ()), *step.catch)]
        steps += [inner for part in parts for inner in part]
    return steps


def print_schema(output: Output) -> int:
    """Print the JSON Schema of the language."""
    output.data(language_schema())
    return Exit.DONE


def list_components(components: Sequence[str], name: str | None, tag: str | None, output: Output) -> int:
    """Print the components that fit."""
    found = load_app(components).components.find(name=name, tag=tag)
    if output.as_json:
        output.document({"components": [_document(one) for one in found]})
        return Exit.DONE
    if not found:
        output.say("No component fits.")
        return Exit.DONE
    rows = [("NAME", "VERSION", "RUNS", "TAGS", "DESCRIPTION")]
    rows += [
        (
            printable(one.name),
            printable(one.version),
            one.isolation,
            printable(", ".join(one.tags), 60) or "-",
            printable(one.description, DESCRIPTION_CHARACTERS),
        )
        for one in found
    ]
    output.table(rows)
    return Exit.DONE


def _document(component: Component) -> dict[str, object]:
    return {
        "name": component.name,
        "version": component.version,
        "description": component.description,
        "isolation": component.isolation,
        "tags": component.tags,
        "inputs": component.input_schema,
        "output": component.output_schema,
        "defined_at": component.defined_at,
    }
