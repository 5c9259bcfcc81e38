"""Export the graph of revisions for other programs: Mermaid, Graphviz, SVG. Pure: no files, no torch.

Names come from checkpoints, which can come from anywhere. Unprintable characters are spelled out, and characters with a
meaning in the format are escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from anemoi_ckpt_migrate.revisions.draw_layout import Edge, Row, laid_out
from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex
from anemoi_ckpt_migrate.util.text import plain

# Colours of the lanes, in turn. Each stands out on white and on nearly black.
COLOURS = ("#2f81c7", "#c96a18", "#2e955a", "#a864c9", "#94780f", "#1b8f9c", "#d15d95", "#7482d6")
_WALL = "#d2453b"

# Sizes in the picture, in pixels.
_ROW, _LANE, _EDGE = 28, 20, 22
_CHARACTER = 8  # character width of the widest font in the style, all of them monospaced
_SMALL = 7  # character width in tags
_LONGEST = 90  # longest name shown, in characters; the tooltip shows all of it

_STYLE = """
.revisions text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.revisions .small { font-size: 11px }
.revisions .head { font-weight: bold }
.revisions .ground { fill: #ffffff }
.revisions .ink { fill: #1f2933 }
.revisions .pale { fill: #6b7683 }
.revisions .needs { stroke: #6b7683 }
.revisions .ring { stroke: #1f2933 }
.revisions .light { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .revisions .ground { fill: #14181d }
  .revisions .ink { fill: #dfe5ea }
  .revisions .pale { fill: #8d98a5 }
  .revisions .needs { stroke: #8d98a5 }
  .revisions .ring { stroke: #dfe5ea }
}
"""

_MERMAID_CLASSES = {
    "head": "stroke-width:3px",
    "barrier": f"stroke:{_WALL},stroke-width:4px",
    "applied": "fill:#cfe6d6,color:#14231a",
    "here": "fill:#7cc495,color:#14231a",
}
_DOT_CLASSES = {
    "head": {"penwidth": "2"},
    "barrier": {"style": "filled", "color": f'"{_WALL}"', "penwidth": "4"},
    "applied": {"fillcolor": '"#cfe6d6"'},
    "here": {"fillcolor": '"#7cc495"', "peripheries": "2"},
}


def as_mermaid(entries: Sequence[HistoryEntry]) -> str:
    """Draw a graph as a Mermaid flowchart.

    Arrows point up; dotted arrows start at dependencies. A barrier is a hexagon.

    Parameters
    ----------
    entries : sequence of HistoryEntry
        Revisions, each before its parents.
    """
    lines = ["flowchart BT"]
    for number, said in enumerate(_said(entries)):
        opening, closing = ("{{", "}}") if entries[number].final else ("[", "]")
        text = "<br/>".join(map(_mermaid_escaped, said))
        lines.append(f'    n{number}{opening}"{text}"{closing}')
    lines += [f"    n{parent} --> n{child}" for child, parent in _pairs(entries, _parents)]
    lines += [f"    n{needed} -.-> n{child}" for child, needed in _pairs(entries, _needed)]
    for name, style in _MERMAID_CLASSES.items():
        members = [f"n{number}" for number, entry in enumerate(entries) if name in _classes(entry)]
        lines += [f"    classDef {name} {style}", f"    class {','.join(members)} {name}"] if members else []
    return "\n".join(lines) + "\n"


def as_dot(entries: Sequence[HistoryEntry]) -> str:
    """Draw a graph in the DOT language of Graphviz.

    Arrows point up; dashed arrows start at dependencies. A barrier has a thick red line and corners, a head a thick
    line. Applied revisions are filled, and the heads of the checkpoint have a second line.

    Parameters
    ----------
    entries : sequence of HistoryEntry
        Revisions, each before its parents.
    """
    lines = [
        "digraph revisions {",
        "    rankdir=BT",
        '    node [shape=box, style="rounded,filled", fillcolor=white, fontname=monospace, fontsize=11]',
    ]
    for number, said in enumerate(_said(entries)):
        facts = {"label": '"' + r"\n".join(map(_dot_escaped, said)) + '"'}
        for name in _classes(entries[number]):
            facts |= _DOT_CLASSES[name]
        lines.append(f"    n{number} [{', '.join(f'{name}={value}' for name, value in facts.items())}]")
    lines += [f"    n{parent} -> n{child}" for child, parent in _pairs(entries, _parents)]
    lines += [f"    n{needed} -> n{child} [style=dashed]" for child, needed in _pairs(entries, _needed)]
    return "\n".join([*lines, "}"]) + "\n"


def as_svg(entries: Sequence[HistoryEntry]) -> str:
    """Draw a graph as a self-contained picture: a row for each revision, lanes for the edges.

    A barrier is a wall across its lane. Revisions that the checkpoint lacks are hollow, and a tag marks its heads.
    Dependencies are dashed. The background is light or dark, as the reader prefers.

    Parameters
    ----------
    entries : sequence of HistoryEntry
        Revisions, each before its parents.
    """
    layout = laid_out(entries)
    left = _x(layout.width) + 4
    ids = max((_cells(plain(entry.revision)) for entry in entries), default=0)
    beside = [_beside(row, _Line(left, _y(number)), ids) for number, row in enumerate(layout.rows)]
    width = max((line.x for line in beside), default=left) + _EDGE // 2
    height = _y(max(len(entries) - 1, 0)) + _EDGE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="revisions" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="graph of revisions">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}" rx="6"/>',
        *(_wall(number, left, width) for number, entry in enumerate(entries) if entry.final),
        '<g fill="none" stroke-width="2">',
        *(_edge(edge, layout.rows) for edge in layout.edges),
        *(_dependency(child, needed, layout.rows) for child, needed in _pairs(entries, _needed)),
        "</g>",
    ]
    for row, line in zip(layout.rows, beside, strict=True):
        lines += ['<g class="revision">', _title(row.entry), _node(row, line.y), *line.drawn, "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[HistoryEntry]], str]] = {"mermaid": as_mermaid, "dot": as_dot, "svg": as_svg}


def _x(lane: int) -> int:
    return _EDGE + _LANE * lane


def _y(row: int) -> int:
    return _EDGE + _ROW * row


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _edge(edge: Edge, rows: Sequence[Row]) -> str:
    """Draw an edge along its lanes. It changes lanes between two rows."""
    lane = rows[edge.child].lane
    path = f"M{_x(lane)} {_y(edge.child)}"
    for row, to in edge.route:
        if to != lane:
            middle = _y(row) + _ROW // 2
            start = f"V{_y(row)}" if row > edge.child else ""
            path += f"{start}C{_x(lane)} {middle} {_x(to)} {middle} {_x(to)} {_y(row + 1)}"
            lane = to
    return f'<path class="edge" d="{path}V{_y(edge.parent)}" stroke="{_colour(edge.colour)}"/>'


def _dependency(child: int, needed: int, rows: Sequence[Row]) -> str:
    """Draw a dependency beside the lane of a revision, down to the row of the other one, and across."""
    start, end = _x(rows[child].lane), _x(rows[needed].lane)
    side = -1 if end < start else 1
    gutter = start + side * (_LANE // 2 + 3 * (child % 3 - 1))  # keeps the lines of neighbours apart
    back = 6 if end > gutter else -6
    path = f"M{start} {_y(child)}Q{gutter} {_y(child)} {gutter} {_y(child) + 8}V{_y(needed) - 8}"
    path += f"Q{gutter} {_y(needed)} {gutter + back} {_y(needed)}H{end}"
    return f'<path class="needs" d="{path}" stroke-width="1.5" stroke-dasharray="2 3"/>'


def _wall(row: int, left: int, width: int) -> str:
    """Draw the faint wall across the whole picture, below everything else."""
    y = _y(row)
    return (
        f'<rect fill="{_WALL}" fill-opacity="0.1" y="{y - _ROW // 2}" width="{width}" height="{_ROW}"/>'
        f'<path d="M0 {y}H{left - 10}" stroke="{_WALL}" stroke-opacity="0.4" stroke-width="4"/>'
    )


def _node(row: Row, y: int) -> str:
    entry, x = row.entry, _x(row.lane)
    colour = _WALL if entry.final else _colour(row.colour)
    fill = 'class="ground"' if entry.applied is False else f'fill="{colour}"'
    stroke = f'stroke="{colour}" stroke-width="2"'
    if entry.here:
        fill, stroke = f'fill="{colour}"', 'class="ring" stroke-width="2.5"'
    if entry.final:
        return f'<rect {fill} x="{x - 9}" y="{y - 5}" width="18" height="10" rx="2" {stroke}/>'
    return f'<circle {fill} cx="{x}" cy="{y}" r="{6.5 if entry.here else 5}" {stroke}/>'


def _title(entry: HistoryEntry) -> str:
    """Return the tooltip of a revision."""
    said = [entry.revision, entry.name, *_notes(entry)]
    said += [f"(needs {', '.join(entry.depends_on)})"] if entry.depends_on else []
    return f"<title>{escape(plain('  '.join(filter(None, said))))}</title>"


class _Line:
    """A line of texts and tags, from left to right."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y
        self.drawn: list[str] = []

    def text(self, text: str, look: str, cells: int = 0) -> None:
        """Add a text, which may reserve more room than it takes."""
        if text:
            self.drawn.append(f'<text class="{look}" x="{self.x}" y="{self.y + 5}">{escape(text)}</text>')
            self.x += (max(_cells(text), cells) + 1) * _CHARACTER

    def tag(self, text: str, box: str, look: str = "ink") -> None:
        """Add a tag."""
        width = _cells(text) * _SMALL + 12
        self.drawn.append(f'<rect {box} x="{self.x}" y="{self.y - 8}" width="{width}" height="16" rx="8"/>')
        self.drawn.append(f'<text class="{look} small" x="{self.x + 6}" y="{self.y + 4}">{escape(text)}</text>')
        self.x += width + 7


def _beside(row: Row, line: _Line, ids: int) -> _Line:
    """Write the text beside a node: the id, the tags, the name."""
    entry = row.entry
    look, head = "pale" if entry.applied is False else "ink", " head" * entry.head
    name = plain(entry.name)
    line.text(plain(entry.revision), "pale" + head, ids + 1)
    if entry.here:
        line.tag("checkpoint", 'class="ink"', "ground")
    if entry.final:
        line.tag("barrier", f'fill="{_WALL}"', "light")
    for label in entry.labels:
        line.tag(plain(label), f'fill="none" stroke="{_colour(row.colour)}"')
    line.text(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...", look + head)
    line.text(" ".join(_notes(entry)), "pale")
    return line


def _cells(text: str) -> int:
    """Return the width of a text in characters; wide East Asian characters count as two."""
    return len(text) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in text if not letter.isascii())


def _said(entries: Sequence[HistoryEntry]) -> Iterator[list[str]]:
    """Yield the lines of text for each node."""
    for entry in entries:
        notes = [*(f"[{plain(label)}]" for label in entry.labels), *_notes(entry)]
        yield [text for text in (plain(entry.revision), plain(entry.name), " ".join(notes)) if text.strip()]


def _classes(entry: HistoryEntry) -> list[str]:
    """Return the style classes of a revision; later ones override earlier ones."""
    facts = {"head": entry.head, "barrier": entry.final, "applied": entry.applied, "here": entry.here}
    return [name for name, holds in facts.items() if holds]


def _notes(entry: HistoryEntry) -> list[str]:
    irreversible = not (entry.reversible or entry.final)
    return ["(irreversible)"] * irreversible + ["(no script here)"] * (not entry.known)


def _parents(entry: HistoryEntry) -> tuple[str, ...]:
    return entry.parents


def _needed(entry: HistoryEntry) -> tuple[str, ...]:
    return entry.depends_on


def _pairs(
    entries: Sequence[HistoryEntry], above: Callable[[HistoryEntry], tuple[str, ...]]
) -> Iterator[tuple[int, int]]:
    """Yield each revision with each revision it follows, as row numbers; revisions that are not drawn are left out."""
    places = {entry.revision: number for number, entry in enumerate(entries)}
    for number, entry in enumerate(entries):
        for needed in dict.fromkeys(above(entry)):
            if places.get(needed, -1) > number:
                yield number, places[needed]


# All characters except those that Mermaid and the Markdown in its nodes always take as text.
_SPECIAL = lazy_regex(r"(?![^\W_]|[ ,]|(?<=[^\W_])[.-](?=[^\W_])).", re.DOTALL)


def _mermaid_escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", " ".join(text.split()))


def _dot_escaped(text: str) -> str:
    # Graphviz reads HTML entities too.
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
