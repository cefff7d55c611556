"""`openagents jobs timeline`: its options. What it does is in `drawing`."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.graph import PictureFile
from openagents_json.cli.options import JobId, Json, Store
from openagents_json.cli.output import output_of


def timeline(
    context: typer.Context,
    job: JobId,
    format: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="text (the default) or svg.")] = None,
    picture: PictureFile = None,
    unfold: Annotated[
        bool, typer.Option("--all", help="Every item of a foreach and iteration of a repeat, not only the first.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Draw when the steps of a job ran and waited: attempts, back-off, timers, signals, child jobs, queue, pauses."""
    from openagents_json.cli.drawing import draw_timeline

    return draw_timeline(job, format, picture, unfold, store, output_of(context, as_json))
