"""A workflow as a Mermaid flowchart, which GitHub, GitLab and most documentation tools draw."""

from __future__ import annotations

import re
from itertools import pairwise

from openagents_json.pictures.outline import Outline, Panel, Shape
from openagents_json.pictures.wording import SIGNS

# Characters that mean something to Mermaid, or to the HTML it makes, inside a quoted label.
_MEANT = re.compile(r'[&<>"#;`\\|]')
_CLASSES = {
    "COMPLETED": "stroke:#1a7f4b,stroke-width:2px",
    "FAILED": "stroke:#c62f3b,stroke-width:3px",
    "RUNNING": "stroke:#1f6fd1,stroke-width:3px",
    "WAITING": "stroke:#7a4fc4,stroke-width:2px",
    "RETRYING": "stroke:#b45f06,stroke-width:3px",
    "PENDING": "stroke:#7c8798,stroke-dasharray:4 3",
    "SKIPPED": "stroke:#9aa3b2,stroke-dasharray:4 3",
    "CANCELLED": "stroke:#59616f,stroke-width:2px",
    "NONE": "stroke:#c9ced8,stroke-dasharray:2 3",
}


def mermaid_of(outline: Outline) -> str:
    """The picture as a Mermaid flowchart."""
    writer = _Writer()
    writer.line(f"%% {outline.title}")
    writer.line("flowchart TB")
    writer.depth = 1
    names = [writer.panel(panel) for panel in outline.panels]
    writer.line(*(f"{above} --> {below}" for above, below in pairwise(names)))
    writer.classes()
    return "\n".join(writer.lines) + "\n"


def quoted(*lines: str) -> str:
    """A label of several lines."""
    text = "<br/>".join(_MEANT.sub(lambda found: f"#{ord(found.group())};", line) for line in lines)
    return f'"{text}"'


class _Writer:
    """Names are n1, n2 … in the order of the definition: ids may hold what Mermaid reserves."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0
        self._count = 0
        self._marked: dict[str, list[str]] = {}  # class → names

    def line(self, *lines: str) -> None:
        self.lines += ["  " * self.depth + line for line in lines]

    def name(self) -> str:
        self._count += 1
        return f"n{self._count}"

    def panel(self, panel: Panel) -> str:
        """Write an array of steps as a subgraph; its name."""
        name = self.name()
        self.open(name, panel.label or panel.role)
        self.inside(panel)
        self.close()
        return name

    def open(self, name: str, *title: str) -> None:
        self.line(f"subgraph {name}[{quoted(*title)}]")
        self.depth += 1
        self.line("direction TB")

    def close(self) -> None:
        self.depth -= 1
        self.line("end")

    def inside(self, panel: Panel) -> None:
        """The steps of an array and the arrows between them."""
        names = [self.shape(shape) for shape in panel.steps]
        for _ in range(panel.knots):
            names.append(self.name())
            self.line(f"{names[-1]}(( ))")
        self.line(*(f"{names[start]} --> {names[end]}" for start, end in panel.arrows))

    def shape(self, shape: Shape) -> str:
        name = self.name()
        if not shape.panels:
            self.line(f"{name}[{quoted(*words(shape))}]")
        else:
            self.frame(name, shape)
        if shape.mark is not None:
            self._marked.setdefault(str(shape.mark.status or "NONE"), []).append(name)
        return name

    def frame(self, name: str, shape: Shape) -> None:
        """A step with boxes inside. Its handlers hang on dotted arrows, the cases of a switch on arrows with words."""
        self.open(name, " · ".join(words(shape)))
        bodies = [panel for panel in shape.panels if panel.role == "body"]
        for panel in bodies:
            self.inside(panel)
        others = [panel for panel in shape.panels if panel.role != "body"]
        if any(panel.role != "branch" for panel in others):
            hub = self.name()
            self.line(f"{hub}{{{quoted('?')}}}" if shape.kind == "switch" else f"{hub}([{quoted(shape.kind)}])")
            for panel in others:
                below = self.name()
                self.open(below, panel.label if panel.role == "branch" else panel.role)
                self.inside(panel)
                self.close()
                if panel.role != "branch":
                    arrow = "-->" if panel.role == "case" else "-.->"
                    self.line(f"{hub} {arrow}|{quoted(panel.label)}| {below}")
        else:
            for panel in others:
                self.panel(panel)
        self.close()

    def classes(self) -> None:
        for name, members in self._marked.items():
            self.line(f"classDef {name} {_CLASSES[name]}", f"class {','.join(members)} {name}")


def words(shape: Shape) -> list[str]:
    """What stands in a step's box, line by line; the first is the id and kind, a job's mark comes last."""
    lines = [f"{shape.title} ({shape.kind})"]
    if shape.condition is not None:
        lines.append(f"if {shape.condition}")
    lines += [*shape.lines, *shape.fields]
    if shape.mark is not None:
        mark = shape.mark
        sign = SIGNS[mark.status] if mark.status is not None else "·"
        lines += [mark.text if mark.is_tally else f"{sign} {mark.text}", *mark.details]
    return lines
