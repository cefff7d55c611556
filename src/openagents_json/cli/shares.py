"""`openagents shares …`: who gets how much of the work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from openagents_json.cli.exit_codes import Exit, epilog
from openagents_json.cli.options import Json, Store
from openagents_json.cli.output import Output, output_of

if TYPE_CHECKING:
    from openagents_json.job.store.shares import StoredShare

app = typer.Typer(help="See and set how much of the work each share gets.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def shares(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(Exit.USAGE)


@app.command("list", epilog=epilog())
def list_(
    context: typer.Context,
    after: Annotated[str, typer.Option("--after", metavar="KEY", help="Only keys above this one.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="Shares at most, up to 1000.")] = 100,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """List shares by key: their weights, and how much work each is ahead of those that are served next.

    Shares with a weight of 1 that are not ahead are forgotten after a while.
    """
    return asyncio.run(_list(after, limit, store, output_of(context, as_json)))


@app.command("set", epilog=epilog())
def set_(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key of the share.")],
    weight: Annotated[float, typer.Argument(metavar="WEIGHT", help="How much it gets; others get 1.")],
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Give the jobs of a share more or less of the work, from their next job on."""
    return asyncio.run(_set(key, weight, store, output_of(context, as_json)))


async def _list(after: str, limit: int, store: str | None, output: Output) -> int:
    from openagents_json.cli.opening import opened

    async with opened(store) as jobs:
        found = await jobs.list_shares(after, limit)
    if output.as_json:
        shown = [{"key": one.key, "weight": one.weight, "ahead_s": one.ahead_us / 1_000_000} for one in found]
        output.document({"shares": shown})
    elif found:
        output.table([("SHARE", "WEIGHT", "AHEAD"), *(_row(one) for one in found)])
    else:
        output.say("No share has another weight than 1, or is ahead.")
    return Exit.DONE


def _row(share: StoredShare) -> tuple[str, ...]:
    from openagents_json.cli.text import duration, printable

    return printable(share.key, 60), f"{share.weight:g}", duration(share.ahead_us / 1_000_000)


async def _set(key: str, weight: float, store: str | None, output: Output) -> int:
    from openagents_json.cli.failures import UsageProblem
    from openagents_json.cli.opening import opened
    from openagents_json.cli.text import printable
    from openagents_json.job.arguments import weight_of

    try:
        weight_of(weight)
    except ValueError as error:
        raise UsageProblem(str(error)) from None
    async with opened(store) as jobs:
        await jobs.set_share(key, weight)
    if output.as_json:
        output.document({"key": key, "weight": weight})
    output.say(f"share {printable(key)} has the weight {weight:g}")
    return Exit.DONE
