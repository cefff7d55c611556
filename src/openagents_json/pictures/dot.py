"""A workflow in the language of Graphviz: `openagents graph FILE --format dot | dot -Tpng`."""

from __future__ import annotations

from itertools import pairwise

from openagents_json.pictures.mermaid import words
from openagents_json.pictures.outline import Outline, Panel, Shape

_COLOURS = {
    "COMPLETED": "#1a7f4b",
    "FAILED": "#c62f3b",
    "RUNNING": "#1f6fd1",
    "WAITING": "#7a4fc4",
    "RETRYING": "#b45f06",
    "PENDING": "#7c8798",
    "SKIPPED": "#9aa3b2",
    "CANCELLED": "#59616f",
}
_IDLE = "#c9ced8"


def dot_of(outline: Outline) -> str:
    """The picture as a Graphviz digraph."""
    writer = _Writer()
    writer.line(f"digraph {quoted(outline.title)} {{")
    writer.depth = 1
    writer.line('compound=true; newrank=true; rankdir=TB; fontname="sans-serif"; fontsize=12;')
    writer.line(f"label={quoted(outline.title, *outline.lines)}; labelloc=t;")
    writer.line('node [shape=box, style="rounded", fontname="sans-serif", fontsize=11];')
    writer.line('edge [fontname="sans-serif", fontsize=10];')
    ends = [writer.panel(panel) for panel in outline.panels]
    for above, below in pairwise(ends):
        writer.arrow(above, below)
    writer.depth = 0
    writer.line("}")
    return "\n".join(writer.lines) + "\n"


def quoted(*lines: str) -> str:
    """A label of several lines."""
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'


class _End:
    """Where arrows begin and end: a node, or a cluster and a node in it, which Graphviz needs instead."""

    def __init__(self, first: str, last: str, cluster: str = "") -> None:
        self.first = first
        self.last = last
        self.cluster = cluster


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0
        self._count = 0

    def line(self, *lines: str) -> None:
        self.lines += ["  " * self.depth + line for line in lines]

    def name(self, prefix: str = "n") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def arrow(self, start: _End, end: _End, extra: str = "") -> None:
        attributes = [extra] if extra else []
        if start.cluster:
            attributes.append(f"ltail={start.cluster}")
        if end.cluster:
            attributes.append(f"lhead={end.cluster}")
        tail = f" [{', '.join(attributes)}]" if attributes else ""
        self.line(f"{start.last} -> {end.first}{tail};")

    def open(self, label: str, style: str, colour: str = "#8a94a6") -> str:
        cluster = self.name("cluster_")
        self.line(f"subgraph {cluster} {{")
        self.depth += 1
        self.line(f'label={label}; style="{style}"; color="{colour}"; fontsize=11; labeljust=l;')
        return cluster

    def close(self) -> None:
        self.depth -= 1
        self.line("}")

    def panel(self, panel: Panel) -> _End:
        """Write an array of steps as a cluster."""
        style = "rounded,dashed" if panel.role in ("catch", "undo", "finally") else "rounded"
        cluster = self.open(quoted(panel.label or panel.role), style)
        inside = self.inside(panel)
        self.close()
        return _End(inside.first, inside.last, cluster)

    def inside(self, panel: Panel) -> _End:
        """The steps of an array and the arrows between them."""
        ends = [self.shape(shape) for shape in panel.steps]
        for _ in range(panel.knots):
            name = self.name()
            self.line(f"{name} [shape=point, width=0.06];")
            ends.append(_End(name, name))
        for start, end in panel.arrows:
            self.arrow(ends[start], ends[end])
        return _End(ends[0].first, ends[len(panel.steps) - 1].last)

    def shape(self, shape: Shape) -> _End:
        status = None if shape.mark is None else shape.mark.status
        is_idle = shape.mark is not None and status is None
        colour = _COLOURS[status] if status is not None else _IDLE if is_idle else "#8a94a6"
        if not shape.panels:
            name = self.name()
            weight = f', color="{colour}", penwidth=2' if status is not None else f', color="{colour}"'
            tip = f", tooltip={quoted('reads ' + ', '.join(shape.reads))}" if shape.reads else ""
            self.line(f"{name} [label={quoted(*words(shape))}{weight}{tip}];")
            return _End(name, name)
        return self.frame(shape, colour)

    def frame(self, shape: Shape, colour: str) -> _End:
        """A step with boxes inside. A small node of its own takes the arrows in, and gives those to cases and
        handlers."""
        cluster = self.open(quoted(*words(shape)), "rounded,bold", colour)
        hub = self.name()
        is_switch = shape.kind == "switch"
        self.line(
            f'{hub} [label="{"?" if is_switch else shape.kind}", shape={"diamond" if is_switch else "plaintext"}];'
        )
        start, last = _End(hub, hub), hub
        for panel in shape.panels:
            end = self.panel(panel)
            if panel.role in ("body", "branch", "case"):
                last = end.last
            self.arrow(start, end, "style=dashed" if panel.role in ("catch", "undo") else "")
        self.close()
        return _End(hub, last, cluster)
