"""Runs the code audit on the embedded store: `python -m examples.code_audit [--input path=FOLDER] …`.

The same as `openagents run audit.json --components examples.code_audit.components:app --resume --store …`; what follows
on the command line is passed on, so any option of `openagents run` can be added or overruled. The job lives in
`code-audit.db` in the working directory: started again after Ctrl-C or a kill, it goes on where it was; once it has
finished, a fresh one starts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from openagents_json.cli import main as openagents

WORKFLOW = Path(__file__).with_name("audit.json")
COMPONENTS = "examples.code_audit.components:app"
STORE = "sqlite:///code-audit.db"


def main(arguments: Sequence[str]) -> int:
    """Run the audit with further CLI arguments; returns the exit code of `openagents run`."""
    return openagents(
        ["run", str(WORKFLOW), "--components", COMPONENTS, "--store", STORE, "--resume", *arguments],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
