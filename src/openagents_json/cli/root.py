"""The commands of `openagents`, and what goes before a command: --version, --verbose, --debug."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from openagents_json.cli.definitions import components, schema, validate
from openagents_json.cli.exit_codes import Exit, epilog
from openagents_json.cli.graph import graph
from openagents_json.cli.health import health
from openagents_json.cli.invocation import invocation_of
from openagents_json.cli.jobs import app as jobs
from openagents_json.cli.pauses import pause, pauses, resume
from openagents_json.cli.run import run
from openagents_json.cli.shares import app as shares
from openagents_json.cli.store import app as store
from openagents_json.cli.worker import worker
from openagents_json.cli.workers import workers

app = typer.Typer(
    name="openagents",
    help="Run JSON workflows of Python components as durable jobs.",
    epilog=epilog(),
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run", epilog=epilog())(run)
app.command("validate", epilog=epilog())(validate)
app.command("schema", epilog=epilog())(schema)
app.command("graph", epilog=epilog())(graph)
app.command("components", epilog=epilog())(components)
app.add_typer(jobs, name="jobs", epilog=epilog())
app.command("pause", epilog=epilog())(pause)
app.command("resume", epilog=epilog())(resume)
app.command("pauses", epilog=epilog())(pauses)
app.command("worker", epilog=epilog())(worker)
app.command("workers", epilog=epilog())(workers)
app.add_typer(shares, name="shares", epilog=epilog())
app.command("health", epilog=epilog())(health)
app.add_typer(store, name="store", epilog=epilog())


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openagents {importlib.metadata.version('openagents-json')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every transition to stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; also by OPENAGENTS_DEBUG=1.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(Exit.USAGE)
    from openagents_json.cli.logs import configure_logging

    configure_logging(verbose=verbose, debug=invocation_of(context).is_debug)
