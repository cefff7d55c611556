"""`openagents run`: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.invocation import invocation_of
from openagents_json.cli.options import Budget, Components, Json, Resources, Store, Workflows
from openagents_json.cli.output import output_of


def run(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The workflow: a .json or .yaml file.")],
    components: Components = None,
    workflows: Workflows = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input: JSON where the schema does not ask for text; @file reads a file (@@ is a plain @).",
        ),
    ] = None,
    inputs_file: Annotated[
        str | None, typer.Option("--inputs", metavar="FILE", help="All inputs as a JSON object; - is stdin.")
    ] = None,
    store: Store = None,
    resources: Resources = None,
    priority: Annotated[str | None, typer.Option("--priority", help="LOW, MEDIUM, HIGH or CRITICAL.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key again gives the same job.")
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="A tag to find the job by; repeatable.")] = None,
    budget: Budget = None,
    share: Annotated[
        str | None, typer.Option("--share", metavar="KEY", help="Whose fair share of the work it counts to.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="TIME", help="Come forward in time for 2026-01-31T12:00, or 2h from now."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Queue the job and return; `openagents worker` runs it.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the workflow's newest job if it has not ended, else start one."),
    ] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop gently after so long, as Ctrl-C.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, as when the output is no terminal.")] = False,
    as_json: Json = False,
) -> int:
    """Run a workflow as a durable job and show it until it ends.

    Ctrl-C stops gently: what runs may end, the job goes back to the queue, and --resume goes on with it. Twice stops
    at once; that too loses nothing that was recorded.
    """
    from openagents_json.cli.running import RunOptions, run_workflow

    options = RunOptions(
        file=file,
        components=tuple(components or ()),
        workflows=tuple(workflows or ()),
        inputs=tuple(inputs or ()),
        inputs_file=inputs_file,
        store=store,
        resources=tuple(resources or ()),
        priority=priority,
        idempotency_key=idempotency_key,
        tags=tuple(tags or ()),
        budget=tuple(budget or ()),
        share=share,
        deadline=deadline,
        detach=detach,
        resume=resume,
        timeout_s=timeout_s,
        plain=plain,
    )
    return run_workflow(options, invocation_of(context), output_of(context, as_json))
