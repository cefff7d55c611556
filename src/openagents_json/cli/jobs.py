"""`openagents jobs …`: their options. What they do is in `listing` (reading) and `control` (asking)."""

from __future__ import annotations

from typing import Annotated

import typer

from openagents_json.cli.exit_codes import Exit, epilog
from openagents_json.cli.options import (
    Budget,
    By,
    Components,
    ErrorText,
    JobId,
    JobIds,
    Json,
    OfWorkflows,
    Reason,
    Share,
    Since,
    Statuses,
    Store,
    Tags,
    Until,
    WaitTimeout,
    WaitUntilSo,
)
from openagents_json.cli.output import output_of
from openagents_json.cli.timeline import timeline

app = typer.Typer(help="Look at jobs and control them.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(Exit.USAGE)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("list", epilog=epilog())
def list_(
    context: typer.Context,
    status: Statuses = None,
    workflow: OfWorkflows = None,
    tag: Tags = None,
    share: Share = None,
    error: ErrorText = None,
    since: Since = None,
    until: Until = None,
    order: Annotated[
        str, typer.Option("--order", help="created_at, started_at, completed_at or priority; - is descending.")
    ] = "-created_at",
    limit: Annotated[int, typer.Option("--limit", help="Jobs at most, up to 1000.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """List jobs, the newest first."""
    from openagents_json.cli.listing import Filters, list_jobs

    filters = Filters(status, workflow, tag, error, since, until, order, limit, cursor, share)
    return list_jobs(filters, store, output_of(context, as_json))


@app.command("show", epilog=epilog())
def show(context: typer.Context, job: JobId, store: Store = None, as_json: Json = False) -> int:
    """Show where a job stands, what it waits for, and what went wrong."""
    from openagents_json.cli.listing import show_job

    return show_job(job, store, output_of(context, as_json))


@app.command("explain", epilog=epilog())
def explain(context: typer.Context, job: JobId, store: Store = None, as_json: Json = False) -> int:
    """Say why a job is not running, when it will, and why it began when it did."""
    from openagents_json.cli.explaining import explain_job

    return explain_job(job, store, output_of(context, as_json))


@app.command("results", epilog=epilog())
def results(context: typer.Context, job: JobId, store: Store = None, as_json: Json = False) -> int:
    """Print the outputs of a completed job as JSON."""
    from openagents_json.cli.listing import show_results

    return show_results(job, store, output_of(context, as_json))


@app.command("events", epilog=epilog())
def events(
    context: typer.Context,
    job: JobId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events above this number.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="With --follow: also what steps emit, such as the tokens of an answer.")
    ] = False,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Print the history of a job; with --follow also what happens from now on, as one JSON document per line."""
    from openagents_json.cli.listing import show_events

    return show_events(job, after, follow, store, output_of(context, as_json), live=live)


@app.command("logs", epilog=epilog())
def logs(
    context: typer.Context,
    job: JobId,
    step: Annotated[
        str | None, typer.Option("--step", metavar="PATH", help="Only of this step run and those inside it.")
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, metavar="N", help="Only of this attempt.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    emitted: Annotated[bool, typer.Option("--emitted", help="Also what steps emitted, as JSON.")] = False,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Print what the steps of a job printed and logged; with --follow also what comes from now on."""
    from openagents_json.cli.steplogs import Wanted, show_logs

    return show_logs(job, Wanted(step, attempt, emitted), follow, store, output_of(context, as_json))


app.command("timeline", epilog=epilog())(timeline)


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("start", epilog=epilog())
def start(
    context: typer.Context, jobs: JobIds, by: By = None, reason: Reason = None, store: Store = None,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Queue jobs that were created and not started."""
    from openagents_json.cli.control import ask

    return ask("start", jobs, by, reason, store, output_of(context, as_json))


@app.command("pause", epilog=epilog())
def pause(
    context: typer.Context, jobs: JobIds, wait: WaitUntilSo = False, timeout_s: WaitTimeout = None, by: By = None,
    reason: Reason = None, store: Store = None, as_json: Json = False,
) -> int:  # fmt: skip
    """Pause jobs: what runs may end, nothing new starts."""
    from openagents_json.cli.control import Waiting, ask

    return ask("pause", jobs, by, reason, store, output_of(context, as_json), waiting=Waiting(wait, timeout_s))


@app.command("resume", epilog=epilog())
def resume(
    context: typer.Context, jobs: JobIds, by: By = None, reason: Reason = None, store: Store = None,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Let paused jobs go on: a worker, or `openagents run --resume`, takes them up."""
    from openagents_json.cli.control import ask

    return ask("resume", jobs, by, reason, store, output_of(context, as_json))


@app.command("cancel", epilog=epilog())
def cancel(
    context: typer.Context,
    jobs: JobIds,
    force: Annotated[
        bool,
        typer.Option("--force", help="Without grace; completed steps are not undone and finally steps do not run."),
    ] = False,
    wait: WaitUntilSo = False,
    timeout_s: WaitTimeout = None,
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Cancel jobs: what runs is told to stop, completed steps are undone, then the finally steps run."""
    from openagents_json.cli.control import Waiting, ask

    waiting = Waiting(wait, timeout_s)
    return ask("cancel", jobs, by, reason, store, output_of(context, as_json), force=force, waiting=waiting)


@app.command("priority", epilog=epilog())
def priority(
    context: typer.Context,
    job: JobId,
    level: Annotated[str, typer.Argument(metavar="LEVEL", help="LOW, MEDIUM, HIGH or CRITICAL.")],
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Change how urgent a job is."""
    from openagents_json.cli.control import ask

    return ask("set priority of", [job], by, reason, store, output_of(context, as_json), priority=level)


@app.command("priorities", epilog=epilog())
def priorities(
    context: typer.Context,
    level: Annotated[str, typer.Argument(metavar="LEVEL", help="LOW, MEDIUM, HIGH or CRITICAL.")],
    every: Annotated[bool, typer.Option("--all", help="All jobs that have not ended.")] = False,
    status: Statuses = None,
    workflow: OfWorkflows = None,
    tag: Tags = None,
    share: Share = None,
    since: Since = None,
    until: Until = None,
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Change how urgent many jobs are: those that fit the options and have not ended."""
    from openagents_json.cli.control import set_priorities
    from openagents_json.cli.listing import Filters

    filters = Filters(status, workflow, tag, since=since, until=until, share=share)
    return set_priorities(level, filters, every, by, reason, store, output_of(context, as_json))


@app.command("add-budget", epilog=epilog())
def add_budget(
    context: typer.Context,
    job: JobId,
    amounts: Annotated[
        list[str],
        typer.Argument(metavar="AMOUNT…", help="What it gets in addition: seconds=600, tokens=5000, cost=2.5."),
    ],
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Give a job more to spend than its budget says; one that was paused because of it is resumed by `jobs resume`."""
    from openagents_json.cli.budgets import add_budget as add

    return add(job, amounts, by, reason, store, output_of(context, as_json))


@app.command("signal", epilog=epilog())
def signal(
    context: typer.Context,
    job: JobId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The signal that a step waits for.")],
    payload: Annotated[
        str | None, typer.Option("--payload", help="What it brings: JSON, text, or @file. Default: null.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="The same key again changes nothing.")] = None,
    by: By = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Send a signal to a job; the step that waits for it takes it, now or later."""
    from openagents_json.cli.telling import send_signal

    return send_signal(job, name, payload, key, by, store, output_of(context, as_json))


@app.command("resolve", epilog=epilog())
def resolve(
    context: typer.Context,
    job: JobId,
    step: Annotated[str, typer.Argument(metavar="STEP", help="Path of the step in doubt, as `jobs show` has it.")],
    step_output: Annotated[
        str | None, typer.Option("--output", help="It happened, and this is its output: JSON, text, or @file.")
    ] = None,
    error: Annotated[str | None, typer.Option("--error", help="It failed, with this message.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="It did not happen: try again.")] = False,
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Say what became of a step whose effect may happen once and whose attempt ended in the dark."""
    from openagents_json.cli.telling import resolve_step

    return resolve_step(job, step, step_output, error, retry, by, reason, store, output_of(context, as_json))


@app.command("retry", epilog=epilog())
def retry(
    context: typer.Context,
    job: JobId,
    from_step: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="Run this step and what waits for it again, and nothing else."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="Another value for an input; repeatable, as in run."),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="STEP=VALUE",
            help="The result of a step, set by hand: JSON, text, or @file; repeatable.",
        ),
    ] = None,
    priority: Annotated[str | None, typer.Option("--priority", help="Default: that of the job.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key again gives the same job.")
    ] = None,
    budget: Budget = None,
    by: By = None,
    reason: Reason = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Make a new job from one that has ended: it takes over what is done and runs the rest again."""
    from openagents_json.cli.retrying import RetryOptions, retry_job

    options = RetryOptions(
        from_step, tuple(inputs or ()), tuple(outputs or ()), priority, idempotency_key, by, reason, tuple(budget or ())
    )
    return retry_job(job, options, store, output_of(context, as_json))


@app.command("delete", epilog=epilog())
def delete(context: typer.Context, jobs: JobIds, store: Store = None, as_json: Json = False) -> int:
    """Delete jobs that have ended or never started, with all that belongs to them."""
    from openagents_json.cli.control import ask

    return ask("delete", jobs, None, None, store, output_of(context, as_json))


@app.command("cleanup", epilog=epilog())
def cleanup(
    context: typer.Context,
    days: Annotated[
        float | None, typer.Option("--days", min=0, help="Default: OPENAGENTS_JOB_RETENTION_DAYS, else 7.")
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """Delete the jobs that ended more than so many days ago."""
    from openagents_json.cli.control import clean_up

    return clean_up(days, store, output_of(context, as_json))


@app.command("leaks", epilog=epilog())
def leaks(
    context: typer.Context,
    retry: Annotated[
        list[int] | None, typer.Option("--retry", metavar="KEY", help="Try to release this one again; repeatable.")
    ] = None,
    retry_all: Annotated[bool, typer.Option("--retry-all", help="Try to release all of them again.")] = False,
    drop: Annotated[
        list[int] | None,
        typer.Option("--drop", metavar="KEY", help="Forget this one: somebody has seen to it; repeatable."),
    ] = None,
    components: Components = None,
    store: Store = None,
    as_json: Json = False,
) -> int:
    """List the resources that jobs could not release, the oldest first; try again, or forget them.

    Trying needs the components that release them. Exits with 6 if one that was tried stays.
    """
    from openagents_json.cli.leaks import LeakOptions, show_leaks

    options = LeakOptions(tuple(retry or ()), retry_all, tuple(drop or ()), tuple(components or ()))
    return show_leaks(options, store, output_of(context, as_json))
