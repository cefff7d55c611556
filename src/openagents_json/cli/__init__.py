"""The command line `openagents`. Every command is one call of the manager; the engine is imported only when it is needed."""

from __future__ import annotations

from openagents_json.cli.main import main

__all__ = ["main"]
