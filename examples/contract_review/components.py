"""The components of the contract review. They stand for a document service, a model and a mail server.

Reports are written to the folder `reports` of the current directory.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from typing_extensions import TypedDict

from openagents_json import FatalError, OpenAgentsApp

app = OpenAgentsApp(resources={"llm": 4})  # calls of the model at a time

REPORTS = Path("reports")
RISKY_WORDS = {"indemnify": 0.9, "unlimited": 0.8, "penalty": 0.7, "exclusive": 0.6}
logger = logging.getLogger(__name__)


class Clause(TypedDict):
    """A paragraph of a contract."""

    text: str


class Contract(TypedDict):
    """What was read from a document."""

    title: str
    clauses: list[Clause]


class Scored(TypedDict):
    """A clause and how risky it is, from 0 to 1."""

    text: str
    score: float


class Report(TypedDict):
    """A report that was written; `id` names it."""

    id: str
    clauses: int


@app.tool("document.extract", tags=["contract"])
def extract(path: str) -> Contract:
    """Read a contract from a text file; its paragraphs are the clauses. Fails for good with `contract.unreadable`."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError("contract.unreadable", f"the contract {path!r} cannot be read: {error}") from error
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    return {"title": paragraphs[0] if paragraphs else "", "clauses": [{"text": part} for part in paragraphs[1:]]}


@app.tool("llm.score", tags=["contract"])
async def score(text: str, api_key: str) -> Scored:
    """Score one clause, as a model would. Fails for good with `llm.denied` without a key."""
    if not api_key:
        raise FatalError("llm.denied", "the model wants a key")
    found = [risk for word, risk in RISKY_WORDS.items() if word in text.lower()]
    return {"text": text, "score": max(found, default=0.1)}


@app.tool("document.report", tags=["contract"])
def report(clauses: list[Scored]) -> Report:
    """Write the report. The same clauses give the same report, so a repeated attempt is harmless."""
    lines = [f"- {clause['score']:.1f} {clause['text']}" for clause in clauses] or ["No clause is risky."]
    text = "\n".join(["# Contract review", "", *lines, ""])
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{name}.md").write_text(text, encoding="utf-8")
    return {"id": name, "clauses": len(clauses)}


@app.tool("document.delete_report", tags=["contract"])
def delete_report(report: str) -> None:
    """Take a report back; one that is gone already is fine."""
    (REPORTS / f"{Path(report).name}.md").unlink(missing_ok=True)


@app.tool("mail.send", tags=["contract"], isolation="inline")
def send(to: str, text: str) -> None:
    """Tell somebody. Nobody to tell is fine: the log has it."""
    logger.info("to %s: %s", to or "nobody", text)
