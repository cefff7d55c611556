"""The command line `openagents`: every command is one call of the manager.

Options are declared beside each other in `run`, `definitions`, `jobs` and `worker`; what a command does is imported
when it is called, so that `openagents --help` does not wait for the engine.
"""

from __future__ import annotations

from openagents_json.cli.entry import main

__all__ = ["main"]
