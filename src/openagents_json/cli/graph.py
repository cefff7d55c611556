"""`openagents graph`: its options. What it does is in `drawing`."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.options import Json, Store
from openagents_json.cli.output import output_of

PictureFile = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the picture there, by its ending also the format."),
]


def graph(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The workflow: a .json or .yaml file.", show_default=False)
    ] = None,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", help="Show the states and durations of this job, in its own definition."),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="mermaid (the default), dot or svg.")
    ] = None,
    picture: PictureFile = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Draw a workflow: its steps, what is nested in them, conditions, loops, and what waits for what.

    With --job FILE may be left out: a job keeps the definition it was made from.
    """
    from openagents_json.cli.drawing import draw_graph

    return draw_graph(file, job, format, picture, store, output_of(context, as_json))
