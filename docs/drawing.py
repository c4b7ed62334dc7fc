"""Pictures as SVG files that read on a light and on a dark page, on the site and on GitHub."""

from __future__ import annotations

import html
import os
from pathlib import Path

LIGHT = {"card": "#ffffff", "ink": "#22262b", "faint": "#d9dce1", "out": "#eceef1"}
DARK = {"card": "#1e2129", "ink": "#e6e8ee", "faint": "#454b57", "out": "#343944"}
PULL, PUSH, OTHER = "#35906a", "#c8553d", "#8a8f98"


def _rules(colors: dict[str, str]) -> str:
    fills = "".join(f".{name}{{fill:{color}}}" for name, color in colors.items())
    return f"{fills}.faint{{stroke:{colors['faint']}}}"


STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
    f"{_rules(LIGHT)}.pull{{fill:{PULL};stroke:{PULL}}}.push{{fill:{PUSH};stroke:{PUSH}}}"
    f".other{{fill:{OTHER};stroke:{OTHER}}}.white{{fill:#fff}}.title{{font-weight:700}}"
    ".middle{text-anchor:middle}.end{text-anchor:end}"
    f"@media (prefers-color-scheme:dark){{{_rules(DARK)}}}"
)


class Drawing:
    """A picture of boxes, lines, dots and words, in pixels from its upper left corner."""

    def __init__(self, width: float, height: float, description: str) -> None:
        """Begin with an empty card of that size."""
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" role="img">',
            f"<title>{html.escape(description)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="card" width="{width:g}" height="{height:g}" rx="6"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "ink", turn: float = 0) -> None:
        """Write words; ``kind`` is their colour, "title", and "middle" or "end" of the line."""
        turned = f' transform="rotate({turn:g} {x:g} {y:g})"' if turn else ""
        self.parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}"{turned}>{html.escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a filled box with round corners."""
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" '
            f'width="{width:g}" height="{height:g}" rx="3"/>'
        )

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """Draw a line."""
        self.parts.append(
            f'<line class="{kind}" x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" '
            f'y2="{end[1]:g}" stroke-width="2"/>'
        )

    def dot(self, x: float, y: float, kind: str) -> None:
        """Draw a dot."""
        self.parts.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="4.5"/>')

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>\n"])


def write(path: Path, text: str) -> None:
    """Write a text file by a temporary one in the same folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
