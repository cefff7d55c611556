"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Components = Annotated[
    list[str] | None,
    typer.Option(
        "--components",
        "-c",
        metavar="MODULE[:APP]",
        help="A module, or a .py file, that registers components; may be given several times.",
    ),
]
Workflows = Annotated[
    list[str] | None,
    typer.Option("--workflows", metavar="PATH", help="Definitions that jobs may start: a file or folder; repeatable."),
]
Statuses = Annotated[list[str] | None, typer.Option("--status", help="RUNNING, or several: RUNNING,QUEUED.")]
OfWorkflows = Annotated[list[str] | None, typer.Option("--workflow", help="Id of the workflow; repeatable.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeatable, all must be there.")]
Share = Annotated[str | None, typer.Option("--share", metavar="KEY", help="Key of the share they count to.")]
ErrorText = Annotated[str | None, typer.Option("--error", help="Part of the error's type or message.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Created since: 2026-01-31, 2026-01-31T12:00, or 2h, 3d ago.")
]
Until = Annotated[str | None, typer.Option("--until", help="Created before; as --since.")]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where the jobs are, such as sqlite:///jobs.db. Default: OPENAGENTS_JOB_STORE_PATH, else openagents.db.",
    ),
]
Resources = Annotated[
    list[str] | None,
    typer.Option(
        "--resource", metavar="NAME=AMOUNT", help="What a worker has of a resource, such as gpu=1; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobId = Annotated[
    str,
    typer.Argument(metavar="JOB", help="An id, its beginning or ending (4 characters or more), or workflow/ending."),
]
JobIds = Annotated[
    list[str],
    typer.Argument(metavar="JOB…", help="Ids, their beginnings or endings (4 characters or more), or workflow/ending."),
]
By = Annotated[str | None, typer.Option("--by", help="Who asks, for the record. Default: your login name.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the record.")]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="KIND=AMOUNT",
        help="What the job may spend until it is paused: tokens=10000, cost=2.5, seconds=600; repeatable.",
    ),
]
WaitUntilSo = Annotated[bool, typer.Option("--wait", help="Return when it is so, not when it is asked for.")]
WaitTimeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="With --wait: wait no longer; what was asked stands."),
]
