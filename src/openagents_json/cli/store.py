"""`openagents store …`: their options. What they do is in modules of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.exit_codes import Exit, epilog
from openagents_json.cli.options import Json
from openagents_json.cli.output import output_of

app = typer.Typer(help="Look after a store.", rich_markup_mode=None)

StoreUrl = Annotated[str, typer.Argument(metavar="URL", help="The store, such as file:///openagents.jobs.")]


@app.callback(invoke_without_command=True)
def store(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(Exit.USAGE)


@app.command("repair", epilog=epilog())
def repair(context: typer.Context, url: StoreUrl, as_json: Json = False) -> int:
    """Cut what is damaged out of a file store, keep it aside, and say what each job has lost.

    No process may use the store meanwhile. Copy the folder first: a better way to mend it may be found later.
    """
    from openagents_json.cli.repairing import repair_store

    return repair_store(url, output_of(context, as_json))
