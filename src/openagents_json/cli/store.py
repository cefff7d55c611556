"""`openagents store …`: their options. What they do is in modules of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.exit_codes import Exit, epilog
from openagents_json.cli.moving import add_moving
from openagents_json.cli.options import Json
from openagents_json.cli.output import output_of

app = typer.Typer(help="Look after a store.", rich_markup_mode=None)
add_moving(app)

StoreUrl = Annotated[str, typer.Argument(metavar="URL", help="The store, such as file:///openagents.jobs.")]


MaybeUrl = Annotated[
    str | None,
    typer.Argument(
        metavar="[URL]",
        help="The store, such as sqlite:///jobs.db. Default: OPENAGENTS_JOB_STORE_PATH, else openagents.db.",
    ),
]


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


@app.command("info", epilog=epilog())
def info(context: typer.Context, url: MaybeUrl = None, as_json: Json = False) -> int:
    """Say what a store is, how many jobs it has, and how large it is. Nothing is changed, not the schema either."""
    from openagents_json.cli.inspecting import show_facts

    return show_facts(url, output_of(context, as_json))


@app.command("set-aging", epilog=epilog())
def set_aging(
    context: typer.Context,
    aging: Annotated[
        str, typer.Argument(metavar="SECONDS|strict", help="What a job waits to gain one level of priority.")
    ],
    url: MaybeUrl = None,
    as_json: Json = False,
) -> int:
    """Change how much a level of priority is worth, in seconds of waiting. The queue gets its new order at once.

    0: priorities count for nothing. strict: a job of a higher priority always comes first.
    """
    from openagents_json.cli.ordering import set_store_aging

    return set_store_aging(aging, url, output_of(context, as_json))


@app.command("check", epilog=epilog())
def check(context: typer.Context, url: MaybeUrl = None, as_json: Json = False) -> int:
    """Read all of a store and say what is not as it should be: bytes, rows, histories, snapshots, definitions.

    Exits with 0 if nothing is wrong, 6 if something is, 5 if the store cannot be read.
    """
    from openagents_json.cli.verifying import check_store

    return check_store(url, output_of(context, as_json))


@app.command("vacuum", epilog=epilog())
def vacuum(
    context: typer.Context,
    url: MaybeUrl = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also while workers live that have to wait for it (SQLite).")
    ] = False,
    as_json: Json = False,
) -> int:
    """Give back the room that deleted jobs have left on the disk."""
    from openagents_json.cli.vacuuming import vacuum_store

    return vacuum_store(url, force, output_of(context, as_json))


@app.command("migrate", epilog=epilog())
def migrate(
    context: typer.Context,
    url: MaybeUrl = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    backup: Annotated[
        str | None,
        typer.Option("--backup", metavar="PATH", help="Copy the SQLite file there first; nothing may be there yet."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Bring the schema of a store up to that of this program, with no worker on it."""
    from openagents_json.cli.migrating import migrate_store

    return migrate_store(url, dry_run, backup, output_of(context, as_json))
