"""The components that the commands of the acceptance tests load: `--components …/parts.py`.

They work in the folder in which the command runs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

from openagents_json import FatalError, OpenAgentsApp, StepContext

app = OpenAgentsApp()


@app.tool("gate", tags=["waits"])
async def gate(name: str) -> str:
    """Says that it was entered, and waits for the file that lets it go on."""
    Path(f"in-{name}").touch()
    while not Path(f"go-{name}").exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(0.005)
    return name


@app.tool("note", tags=["writes"], version="1.2.0", isolation="inline")
def note(value: Any) -> Any:
    """Writes its value down and returns it."""
    with Path("notes").open("a") as notes:
        print(value, file=notes)
    return value


@app.tool("spend")
async def spend(context: StepContext, tokens: int = 0, cost: float = 0.0) -> int:
    """Says that it has spent something."""
    context.spend(tokens=tokens, cost=cost)
    return tokens


@app.tool("chatty")
async def chatty(value: Any) -> Any:
    """Prints to stdout, where the JSON goes."""
    print("a component that talks")
    return value


@app.tool("boom")
async def boom(message: str = "no luck today") -> None:
    """Raises."""
    raise ValueError(message)


@app.tool("give_up")
async def give_up() -> None:
    """Fails for good with a type of its own."""
    raise FatalError("demo.given_up", "no way")


@app.tool("no_json")
async def no_json() -> Any:
    """Returns what JSON cannot hold."""
    return {"made": object()}


@app.tool("huge")
async def huge() -> str:
    """Returns 2 MiB."""
    return "x" * (2 * 1024 * 1024)


@app.tool("endless")
async def endless() -> None:
    """Never returns, but can be cancelled."""
    await asyncio.Event().wait()


@app.tool("deaf")
def deaf() -> None:
    """Never returns, in a thread that nobody can stop."""
    threading.Event().wait()


@app.tool("exits")
async def exits() -> None:
    """Wants to end the whole program."""
    raise SystemExit(7)


@app.tool("describe")
async def describe(context: StepContext) -> dict[str, Any]:
    """Returns what it is told about its attempt."""
    return {"key": context.idempotency_key, "token": context.fencing_token, "attempt": context.attempt}


@app.tool("talk")
async def talk(context: StepContext, lines: list[str], gate: str | None = None) -> None:
    """Prints its lines, and says so on stderr and in the log."""
    for line in lines:
        print(line)
    if gate is not None:
        await _wait_at(gate)
    print("that was all", file=sys.stderr)
    context.logger.info("talked %d lines", len(lines))


@app.tool("tokens")
async def tokens(context: StepContext, gate: str, words: list[str]) -> None:
    """Emits its words once its gate is open."""
    await _wait_at(gate)
    for word in words:
        context.emit({"token": word})


async def _wait_at(gate: str) -> None:
    Path(f"in-{gate}").touch()
    while not Path(f"go-{gate}").exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(0.005)


@app.tool("acquire")
async def acquire(context: StepContext, name: str) -> None:
    """Acquires something that `give_back` gives back."""
    await context.track(name, "give_back", {"name": name})


@app.tool("give_back")
async def give_back(name: str) -> None:
    """Works once there is a file that unsticks it."""
    print("the door of", name)
    if not Path("unstuck").exists():
        raise FatalError("door.stuck", "the door is stuck")
