"""Races use the engine's bench: both stores, a clock that the test moves, histories checked at the end."""

from tests.engine.conftest import bench, clock, jobs, kind

__all__ = ["bench", "clock", "jobs", "kind"]
