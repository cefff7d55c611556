"""`openagents store export` and `import`: their options. What they do is in `transfer`."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.exit_codes import epilog
from openagents_json.cli.options import ErrorText, Json, OfWorkflows, Since, Statuses, Tags, Until
from openagents_json.cli.output import output_of

Url = Annotated[str, typer.Argument(metavar="URL", help="The store, such as sqlite:///jobs.db.")]


def add_moving(app: typer.Typer) -> None:
    """Make these commands of `openagents store`."""
    app.command("export", epilog=epilog())(export)
    app.command("import", epilog=epilog())(import_)


def export(
    context: typer.Context,
    url: Url,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file, or - for stdout.")],
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOB]…", help="Only these: ids, their beginnings or endings, or workflow/ending."),
    ] = None,
    status: Statuses = None,
    workflow: OfWorkflows = None,
    tag: Tags = None,
    error: ErrorText = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> int:
    """Write jobs with their definitions and histories to one file, which any store can import.

    All jobs, or those that fit the options. Children go with their parents. The jobs stay where they are: what has not
    ended goes on in both stores, unless no worker runs here any more.
    """
    from openagents_json.cli.listing import Filters
    from openagents_json.cli.transfer import export_store

    filters = Filters(status, workflow, tag, error, since, until)
    return export_store(url, file, tuple(jobs or ()), filters, output_of(context, as_json))


def import_(
    context: typer.Context,
    url: Url,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `store export` has written, or - for stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    drop_keys: Annotated[
        bool, typer.Option("--drop-keys", help="Without the jobs' idempotency keys, which others may have here.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Take exported jobs into a store, which is made when it is missing. They go on there as after a crash.

    The whole file is checked first. Jobs that are there already are passed over, so an import that was interrupted is
    simply done again; nothing is ever overwritten.
    """
    from openagents_json.cli.transfer import import_store

    return import_store(url, file, output_of(context, as_json), dry_run=dry_run, drop_keys=drop_keys)
