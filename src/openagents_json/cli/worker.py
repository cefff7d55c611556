"""`openagents worker`: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.options import Components, Json, Resources, Store, Workflows
from openagents_json.cli.output import output_of


def worker(
    context: typer.Context,
    components: Components = None,
    workflows: Workflows = None,
    store: Store = None,
    max_jobs: Annotated[int | None, typer.Option("--max-jobs", min=1, help="Jobs at a time. Default: 256.")] = None,
    resource: Resources = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when no job is queued and none runs here.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Run queued jobs until Ctrl-C or SIGTERM, which let running steps end.

    Jobs that are not finished by then go back to the queue. --resource says what the worker has of a resource that
    steps occupy.
    """
    from openagents_json.cli.tending import work

    return work(
        components or [], workflows or [], store, max_jobs, resource or [], until_idle, output_of(context, as_json)
    )
