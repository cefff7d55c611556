"""A sheet of SVG: escaped text, estimated widths, one style for light and dark. Knows nothing of workflows."""

from __future__ import annotations

import unicodedata
from html import escape

from openagents_json.job.model import StepStatus

TEXT_PX = 13.0
SMALL_PX = 11.0
# Widths as parts of the font size; a little more than usual fonts take, so that texts stay inside their boxes.
_NARROW = frozenset("iljtfrI.,:;'|!()[] `")
_WIDE = frozenset("mwMW@%—…✓✗")
_MONO = 0.62
_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:13px}
text{fill:#1f2430}
.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:11px}
.small{font-size:11px}.bold{font-weight:600}.big{font-size:17px;font-weight:600}.soft{fill:#5b6472}.end{text-anchor:end}
.mid{text-anchor:middle}.page{fill:#fff}.card{fill:#fff;stroke:#8a94a6;stroke-width:1.2}.frame{fill:#f1f3f8;stroke:#8a94a6;
stroke-width:1.2}.panel{fill:#fff;fill-opacity:.65;stroke:#b8c0cd;stroke-dasharray:none}.aside{stroke-dasharray:5 4}
.line{fill:none;stroke:#5b6472;stroke-width:1.4}.tip,.knot{fill:#5b6472}.if{fill:#8a5a00}.idle{opacity:.6}
.grid{stroke:#d5dae3;stroke-width:1}.band{fill:#f1f3f8}.pen{fill:none;stroke:#fff;stroke-width:1.8;stroke-linecap:round;
stroke-linejoin:round}.break{fill:#f1f3f8;stroke:#b8c0cd;stroke-dasharray:2 3}
.COMPLETED{fill:#1a7f4b}.FAILED{fill:#c62f3b}.RUNNING{fill:#1f6fd1}.WAITING{fill:#7a4fc4}.RETRYING{fill:#b45f06}
.PENDING,.NONE{fill:#7c8798}.SKIPPED{fill:#9aa3b2}.CANCELLED{fill:#59616f}.inside{fill:#9db7dd}.faint{fill:#c9ced8}
.hollow{fill-opacity:.18;stroke-width:1.3}.hollow.WAITING{stroke:#7a4fc4}.hollow.RUNNING{stroke:#1f6fd1}
.hollow.RETRYING{stroke:#b45f06;stroke-dasharray:3 2}.hollow.NONE{stroke:#7c8798}.hollow.PENDING{stroke:#7c8798;
stroke-dasharray:3 2}
@media (prefers-color-scheme:dark){text{fill:#e4e8f0}.soft{fill:#a3adbd}.page{fill:#12151b}.card{fill:#1d222b;
stroke:#69758a}.frame{fill:#191e27;stroke:#69758a}.panel{fill:#12151b;stroke:#444e5f}.line{stroke:#a3adbd}
.tip,.knot{fill:#a3adbd}.if{fill:#e0b050}.grid{stroke:#2b323e}.band{fill:#191e27}.break{fill:#191e27;stroke:#444e5f}
.COMPLETED{fill:#3fb37a}.FAILED{fill:#ef6470}.RUNNING{fill:#5a9dec}.WAITING{fill:#a787e6}.RETRYING{fill:#e09a45}
.PENDING,.NONE{fill:#8a94a6}.SKIPPED{fill:#7c8798}.CANCELLED{fill:#a3adbd}.inside{fill:#3f5b86}.faint{fill:#444e5f}
.pen{stroke:#12151b}.hollow.WAITING{stroke:#a787e6}.hollow.RUNNING{stroke:#5a9dec}.hollow.RETRYING{stroke:#e09a45}}
""".strip()
# Signs drawn into a disc of radius 7 around (0, 0), so that no font has to have them.
_PEN = {
    StepStatus.COMPLETED: "M-3.4 .2L-1 2.8L3.4-2.6",
    StepStatus.FAILED: "M-2.7-2.7L2.7 2.7M2.7-2.7L-2.7 2.7",
    StepStatus.RUNNING: "M-1.8-3.2L3.2 0L-1.8 3.2Z",
    StepStatus.WAITING: "M0-3.6V.4L2.6 1.9",
    StepStatus.RETRYING: "M3.2-1A3.4 3.4 0 1 0 3.2 1.4M3.4-3.8V-1H.8",
    StepStatus.PENDING: "M-2.8 0H-2.7M0 0H.1M2.8 0H2.9",
    StepStatus.SKIPPED: "M-3.2-2.8L-.2 0L-3.2 2.8M.6-2.8L3.6 0L.6 2.8",
    StepStatus.CANCELLED: "M-2.4-2.4H2.4V2.4H-2.4Z",
}


def text_width(text: str, px: float = TEXT_PX, *, mono: bool = False, bold: bool = False) -> float:
    """About how wide a text is, in pixels; rather too much than too little."""
    width = 0.0
    for sign in text:
        if ord(sign) > 0x2E7F and unicodedata.east_asian_width(sign) in "WF":
            width += 1.05
        elif mono:
            width += _MONO
        elif sign in _NARROW:
            width += 0.36
        elif sign in _WIDE:
            width += 0.92
        else:
            width += 0.7 if sign.isupper() or ord(sign) > 0x2E7F else 0.6
    return width * px * (1.12 if bold else 1.0)


def clipped(text: str, width: float, px: float = TEXT_PX, *, mono: bool = False) -> str:
    """The text, or as much of it as fits a width in pixels, and an ellipsis."""
    if text_width(text, px, mono=mono) <= width:
        return text
    keep = text
    while keep and text_width(keep + "…", px, mono=mono) > width:
        keep = keep[:-1]
    return keep.rstrip() + "…"


def number(value: float) -> str:
    """A coordinate: one decimal place at most."""
    return f"{value:.1f}".removesuffix(".0")


class Sheet:
    """Collects elements; `svg` is the whole document. Coordinates in pixels, (0, 0) is the upper left corner."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, classes: str = "") -> None:
        """A text whose baseline begins at (x, y)."""
        kind = f' class="{classes}"' if classes else ""
        self._parts.append(f'<text x="{number(x)}" y="{number(y)}"{kind}>{escape(text, quote=False)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, classes: str, *, radius: float = 0, title: str = ""
    ) -> None:
        """A rectangle; `title` is shown when the pointer rests on it."""
        size = f'width="{number(max(width, 0))}" height="{number(max(height, 0))}"'
        round_ = f' rx="{number(radius)}"' if radius else ""
        start = f'<rect x="{number(x)}" y="{number(y)}" {size}{round_} class="{classes}"'
        self._parts.append(f"{start}><title>{escape(title, quote=False)}</title></rect>" if title else f"{start}/>")

    def path(self, d: str, classes: str) -> None:
        """A path, as SVG writes it."""
        self._parts.append(f'<path d="{d}" class="{classes}"/>')

    def sign(self, x: float, y: float, status: StepStatus | None) -> None:
        """The sign of a status in a disc around (x, y); for None the disc alone, small."""
        if status is None:
            self._parts.append(f'<circle cx="{number(x)}" cy="{number(y)}" r="3.5" class="faint"/>')
            return
        at = f'transform="translate({number(x)} {number(y)})"'
        self._parts.append(f'<g {at}><circle r="7" class="{status}"/><path d="{_PEN[status]}" class="pen"/></g>')

    def open(self, classes: str) -> None:
        """Begin a group of elements; `close` ends it."""
        self._parts.append(f'<g class="{classes}">')

    def close(self) -> None:
        """End the group begun last."""
        self._parts.append("</g>")

    def svg(self, width: float, height: float, title: str) -> str:
        """The document."""
        size = f'width="{number(width)}" height="{number(height)}"'
        view = f'viewBox="0 0 {number(width)} {number(height)}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img">',
                f"<title>{escape(title, quote=False)}</title>",
                f"<style>{_STYLE}</style>",
                f'<rect {size} class="page"/>',
                *self._parts,
                "</svg>\n",
            ]
        )
