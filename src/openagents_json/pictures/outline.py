"""The outline of a workflow: boxes inside boxes and the arrows between them, ready for any format to write down.

A `Shape` is a step, a `Panel` an array of steps inside it. Arrows are the real order (`Block.followers`) without those
that follow from others; where several steps wait for the same several steps, the arrows meet in a knot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from openagents_json.pictures.marks import Mark, Marks
from openagents_json.pictures.wording import expression, field_words, kind_words, line_of
from openagents_json.workflow.model import Compensate
from openagents_json.workflow.plan import Block, Node, Plan

Role = Literal["steps", "finally", "body", "case", "branch", "catch", "undo"]


@dataclass(frozen=True, slots=True)
class Shape:
    """One step."""

    title: str  # its id; of an undo, what it calls
    kind: str  # a kind of step, or "undo"
    condition: str | None
    lines: tuple[str, ...]  # what it does
    fields: tuple[str, ...]  # timeout, retry …
    reads: tuple[str, ...]  # what its expressions refer to: `steps.extract`, `inputs.path`, `item`
    mark: Mark | None = None
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """An array of steps. Arrows go between places: 0 … len(steps)-1 are the steps, what follows are `knots` knots."""

    role: Role
    label: str
    steps: tuple[Shape, ...]
    arrows: tuple[tuple[int, int], ...]
    knots: int = 0
    is_idle: bool = False  # with a job: it was not taken


@dataclass(frozen=True, slots=True)
class Outline:
    """A whole definition, and what a job has made of it."""

    title: str
    lines: tuple[str, ...]
    panels: tuple[Panel, ...] = field(default=())  # the steps, and the finally steps


def outline_of(plan: Plan, title: str, lines: tuple[str, ...] = (), marks: Marks | None = None) -> Outline:
    """The outline of a plan."""
    drawer = _Drawer(marks)
    panels = [drawer.panel(plan.root, "steps", "")]
    if plan.finally_block is not None:
        panels.append(drawer.panel(plan.finally_block, "finally", "finally"))
    return Outline(title, lines, tuple(panels))


class _Drawer:
    def __init__(self, marks: Marks | None) -> None:
        self._marks = marks

    def panel(self, block: Block, role: Role, label: str, *, is_idle: bool = False) -> Panel:
        arrows, knots = tie(reduced(block))
        return Panel(role, label, tuple(map(self.shape, block.nodes)), arrows, knots, is_idle)

    def shape(self, node: Node) -> Shape:
        step = node.step
        return Shape(
            title=node.id,
            kind=step.kind,
            condition=None if step.condition is None else expression(step.condition),
            lines=tuple(kind_words(step)),
            fields=tuple(field_words(step)),
            reads=tuple(_reads(node)),
            mark=self._mark(node),
            panels=tuple(self._panels(node)),
        )

    def _mark(self, node: Node) -> Mark | None:
        if self._marks is None:
            return None
        mark = self._marks.of(node)
        if node.nested is None or node.body is None or mark.status is None:
            return mark
        children = self._marks.of(node.body.nodes[0])  # the step that stands for an item
        return replace(mark, details=(*mark.details, f"children: {children.text}"))

    def _panels(self, node: Node) -> Iterator[Panel]:
        """The boxes inside a step: its own steps first, then its handlers and what undoes it."""
        step = node.step
        body = node.nested or node.body  # the steps of a spreading foreach run in the children
        if body is not None:
            drawer = self if node.nested is None else _Drawer(None)
            yield drawer.panel(body, "body", "for each item" if step.kind == "foreach" else "each time")
        for label, block in node.blocks.items():
            if label in (step.parallel or {}):
                yield self._part(node, label, block, "branch", label)
            elif label == "default":
                yield self._part(node, label, block, "case", "else")
            elif label.isdecimal():
                when = (step.switch or [])[int(label)].when
                yield self._part(node, label, block, "case", f"if {expression(when)}")
            elif label.startswith("catch"):
                caught = step.catch[int(label.removeprefix("catch"))].types
                what = line_of(", ".join(caught)) if caught else "any error"
                yield self._part(node, label, block, "catch", f"on {what}")
        if node.undo is not None and step.compensate is not None:
            yield Panel("undo", "undone by", (self._undo(node.undo, step.compensate),), ())

    def _part(self, node: Node, label: str, block: Block, role: Role, text: str) -> Panel:
        is_idle = self._marks is not None and not self._marks.has_begun(node, label)
        return self.panel(block, role, text, is_idle=is_idle)

    def _undo(self, node: Node, undo: Compensate) -> Shape:
        mark = None if self._marks is None else self._marks.of(node)
        if mark is not None and mark.status is None:
            mark = None  # it is not meant to run
        fields = tuple(field_words(node.step))
        return Shape(expression(undo.component), "undo", None, (), fields, tuple(_reads(node)), mark)


def _reads(node: Node) -> Iterator[str]:
    """What the expressions of a step refer to, sorted; what stands inside it says so itself."""
    templates = [template for _, template in node.templates()]
    yield from sorted({f"steps.{name}" for template in templates for name in template.steps})
    yield from sorted({f"inputs.{name}" for template in templates for name in template.inputs})
    yield from sorted({f"secrets.{name}" for template in templates for name in template.secrets})
    yield from sorted({root for template in templates for root in template.roots - {"inputs"}})


# ── arrows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def reduced(block: Block) -> list[set[int]]:
    """For each node of a block the nodes right before it: those it waits for, less those that others wait for."""
    before: list[set[int]] = [set() for _ in block.nodes]
    for node in block.nodes:
        for index in node.followers:
            before[index].add(node.index)
    reach: list[int] = []  # for each node, a bit for every node before it
    for index, direct in enumerate(before):
        behind = 0
        kept = set()
        for one in sorted(direct, reverse=True):  # a node can only be behind a later one
            if not behind >> one & 1:
                kept.add(one)
                behind |= reach[one] | 1 << one
        before[index] = kept
        reach.append(behind)
    return before


def tie(before: list[set[int]]) -> tuple[tuple[tuple[int, int], ...], int]:
    """Arrows as (from, to), sorted, and how many knots they meet in."""
    groups: dict[frozenset[int], list[int]] = {}
    for index, direct in enumerate(before):
        groups.setdefault(frozenset(direct), []).append(index)
    arrows: list[tuple[int, int]] = []
    knots = 0
    for together, followers in groups.items():
        if len(together) > 1 and len(followers) > 1:
            knot = len(before) + knots
            knots += 1
            arrows += [(one, knot) for one in together] + [(knot, one) for one in followers]
        else:
            arrows += [(one, follower) for one in together for follower in followers]
    return tuple(sorted(arrows)), knots
