"""Fault tests that need no process of their own use the engine's bench: both stores, a clock that the test moves."""

from tests.engine.conftest import bench, clock, jobs, kind

__all__ = ["bench", "clock", "jobs", "kind"]
