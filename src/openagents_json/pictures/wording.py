"""How values read in a picture: expressions and texts on one short line, durations, the words for a step's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from openagents_json.clock import SECOND_US
from openagents_json.job.model import StepStatus
from openagents_json.workflow import Step

EXPRESSION_CHARACTERS = 56
SIGNS = {
    StepStatus.PENDING: "○",
    StepStatus.RUNNING: "▶",
    StepStatus.WAITING: "◔",
    StepStatus.RETRYING: "↻",
    StepStatus.COMPLETED: "✓",
    StepStatus.FAILED: "✗",
    StepStatus.SKIPPED: "»",
    StepStatus.CANCELLED: "■",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def line_of(text: str, limit: int = EXPRESSION_CHARACTERS) -> str:
    """`text` on one line, cut at `limit` characters, with what does not print (control and direction marks) escaped."""
    line = " ".join(text[: 20 * limit].split())
    if not line.isprintable():
        line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def expression(value: Any, limit: int = EXPRESSION_CHARACTERS) -> str:
    """A JSON value with expressions in it, for people: `{{ x }}` alone reads `x`."""
    if not isinstance(value, str):
        return line_of(json.dumps(value, ensure_ascii=False), limit)
    text = value.strip()
    inner = text[2:-2]
    is_one = text.startswith("{{") and text.endswith("}}") and "{{" not in inner and "}}" not in inner
    return line_of(inner.strip() if is_one else value, limit)


def duration(us: float) -> str:
    """`0 s`, `85 ms`, `1.5 s`, `42 s`, `3 min 05 s`, `2 h 07 min`, `1 d 3 h`."""
    if us < SECOND_US - 500:
        ms = max(us, 0) / 1_000
        return "0 s" if ms < 0.05 else f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms"
    seconds = us / SECOND_US
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def exact(us: int) -> str:
    """A duration that somebody chose, without rounding what is whole: `30 s`, `2 d`, `90 s`, `1.5 s`."""
    seconds = us / SECOND_US
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{us / 1_000:g} ms" if 0 < seconds < 1 else f"{seconds:g} s"


def _seconds(seconds: float) -> str:
    return exact(round(seconds * SECOND_US))


def kind_words(step: Step) -> Iterator[str]:
    """What a step does, by its kind: the lines under its id, the most telling first."""
    match step.kind:
        case "component":
            yield f"one of {line_of(', '.join(step.allow))}" if step.allow else expression(step.component)
            if step.effect is not None:
                yield f"effect: {step.effect}"
        case "set":
            yield f"= {expression(step.set)}"
        case "foreach":
            yield f"each of {expression(step.foreach)}"
            if step.concurrency is not None:
                yield f"{step.concurrency:,} at a time"
            if step.on_item_error != "fail":
                yield "failed items become null" if step.on_item_error == "collect" else "failed items are left out"
            if step.spread:
                yield "each item is a child job"
        case "repeat":
            assert step.repeat is not None
            yield f"until {expression(step.repeat.until)}"
            often = f"at most {step.repeat.max_iterations:,} times"
            yield f"{often}, then on" if step.repeat.on_max == "continue" else often
            if step.repeat.delay_seconds:
                yield f"{_seconds(step.repeat.delay_seconds)} between"
        case "switch":
            pass  # its cases say it
        case "parallel":
            waits = {"all": "waits for all", "first": "waits for the first"}
            yield waits.get(str(step.wait_for), f"waits for {step.wait_for}")
        case "wait":
            assert step.wait is not None
            if isinstance(step.wait.seconds, int | float):
                yield f"for {_seconds(step.wait.seconds)}"
            elif step.wait.seconds is not None:
                yield f"for {expression(step.wait.seconds)} seconds"
            else:
                yield f"until {expression(step.wait.until)}"
        case "signal":
            yield f"waits for {expression(step.signal)!r}"
            if step.timeout is not None:
                yield f"at most {_seconds(step.timeout)}{', then on' if step.on_timeout == 'continue' else ''}"
        case "workflow":
            version = f" {step.version}" if step.version is not None else ""
            yield f"one of {line_of(', '.join(step.allow))}" if step.allow else expression(step.workflow) + version
            if step.detached:
                yield "not waited for"
        case "raise":
            assert step.raise_ is not None
            yield expression(step.raise_.type)


def field_words(step: Step) -> Iterator[str]:
    """The fields that change how a step runs, whatever its kind."""
    if step.timeout is not None and step.kind != "signal":
        yield f"timeout {_seconds(step.timeout)}"
    if step.retry is not None and step.retry.max_attempts > 1:
        yield f"up to {step.retry.max_attempts} attempts"
    if step.resources:
        yield "needs " + line_of(", ".join(f"{amount:g} {name}" for name, amount in step.resources.items()))
    if step.continue_on_error:
        yield "its failure is tolerated"
    if not step.fail_fast:
        yield "siblings may finish"
