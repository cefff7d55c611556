"""The components of the pattern examples. They stand for tools and models, and answer at once with made-up text."""

from __future__ import annotations

from typing_extensions import TypedDict

from openagents_json import OpenAgentsApp

app = OpenAgentsApp()

SITE = {"home": ["news", "team"], "news": ["archive"]}  # page → the pages that it links to


class Verdict(TypedDict):
    """What a reviewer says: `next` is publish, or what has to be done first (research, polish)."""

    approved: bool
    next: str


@app.tool("web.fetch", timeout_s=60)
async def fetch(page: str) -> str:
    """Read a page."""
    return f"{page} text"


@app.tool("web.links", timeout_s=60)
async def links(page: str) -> list[str]:
    """The pages that a page links to."""
    return SITE.get(page, [])


@app.tool("mail.read", timeout_s=60)
async def read(box: str) -> str:
    """Read a mailbox."""
    return f"{box} mail"


@app.tool("mail.send", timeout_s=60)
async def send(to: str, text: str = "") -> None:
    """Tell somebody."""


@app.tool("text.summarize", timeout_s=60)
async def summarize(text: str) -> str:
    """Make a text short."""
    return f"summary of {text}"


@app.tool("text.translate", timeout_s=60)
async def translate(text: str) -> str:
    """Translate a text."""
    return f"translation of {text}"


@app.tool("text.write", timeout_s=60)
async def write(text: str, add: str) -> str:
    """Go on with a text."""
    return f"{text}, {add}"


@app.tool("text.split", timeout_s=60)
async def split(text: str) -> list[str]:
    """The sections of a text."""
    return text.split("; ")


@app.tool("text.review", timeout_s=60)
async def review(text: str) -> Verdict:
    """Judge a text: it needs facts first, then polish."""
    wanted = "publish" if "polish" in text else "polish" if "facts" in text else "research"
    return {"approved": wanted == "publish", "next": wanted}


@app.tool("report.publish", timeout_s=60)
async def publish(text: str) -> str:
    """Publish a text; the result names it."""
    return f"published: {text}"


@app.tool("report.withdraw", timeout_s=60)
async def withdraw(report: str) -> None:
    """Take a published text back."""


@app.tool("plan.next", timeout_s=60)
async def next_task(left: list[str], after: dict[str, str], prefer: str) -> str:
    """The task to do next, of those that are `left`: the preferred one, or the first one that may begin.

    `after` names for a task the one that has to be done before it.
    """
    ready = [task for task in left if after.get(task) not in left]
    return prefer if prefer in ready else ready[0]
