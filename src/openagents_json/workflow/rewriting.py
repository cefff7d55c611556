"""What a definition was before it was rewritten: which place of the result stands for which place of the original."""

from __future__ import annotations

import dataclasses
import re

from openagents_json.errors import Problem
from openagents_json.workflow.problems import Problems

_CUT = re.compile(r"\.|\[")


class Rewriting:
    """The way back from the canonical form of one definition to what its author wrote.

    A rewriting has stages; each makes a document from that of the stage before. While a stage runs, `move` tells where
    its result comes from, and `add` takes paths of what the stage was given.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.is_complete = True  # False: the result lacks what a problem left out, so its references mean nothing
        self._stages: list[dict[str, str]] = [{}]  # path of the result → path of what the stage was given
        self._said: set[tuple[str, str]] = set()  # path and message of the problems that have the original's paths

    def next_stage(self) -> None:
        self._stages.append({})

    def move(self, path: str, origin: str) -> None:
        """Note that `path` of this stage's result, and everything below it, comes from `origin`."""
        if path != origin:
            self._stages[-1][path] = origin

    def add(self, path: str, message: str, suggestion: str | None = None) -> None:
        """Note a problem at a path of what this stage was given."""
        origin = self._back(path, self._stages[:-1])
        self.problems.add(origin, message, suggestion)
        self._remember(origin)

    def add_unknown(self, path: str, message: str, name: str, known: list[str]) -> None:
        """Note a problem with the nearest of the known names as its suggestion."""
        origin = self._back(path, self._stages[:-1])
        self.problems.add_unknown(origin, message, name, known)
        self._remember(origin)

    def original(self, problem: Problem) -> Problem:
        """The problem, found in the result, at the place of the original that it is about."""
        if (problem.path, problem.message) in self._said:
            return problem
        return dataclasses.replace(problem, path=self._back(problem.path, self._stages))

    def _remember(self, origin: str) -> None:
        last = self.problems.found[-1]
        if last.path == origin:  # otherwise it is the one that says that there are more
            self._said.add((origin, last.message))

    def _back(self, path: str, stages: list[dict[str, str]]) -> str:
        for stage in reversed(stages):
            path = _origin(path, stage)
        return path


def _origin(path: str, moved: dict[str, str]) -> str:
    """The path before a stage: that of the nearest thing around it that was moved, and the rest as it is."""
    if not moved:
        return path
    cuts = [len(path), *(match.start() for match in reversed(list(_CUT.finditer(path))))]
    for cut in cuts:
        origin = moved.get(path[:cut])
        if origin is not None:
            return origin + path[cut:]
    return path
