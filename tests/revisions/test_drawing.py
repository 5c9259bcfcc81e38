"""Pictures of the graph: drawn with characters, and as files for other programs."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from textwrap import dedent
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.revisions.draw_export import COLOURS, FORMATS, as_dot, as_mermaid, as_svg
from anemoi_ckpt_migrate.revisions.draw_layout import laid_out
from anemoi_ckpt_migrate.revisions.draw_text import as_text
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
from anemoi_ckpt_migrate.revisions.history_entry import HistoryEntry
from anemoi_ckpt_migrate.util.text import plain
from tests.support.graphs import histories

# What would end a string, a line or a tag, begin a comment or a list, or is not allowed in a file.
HOSTILE = [
    'say "no"',
    "'single' `back`",
    "a -->|b| c]; end",
    'x"]\n    evil --> n0',
    "#quot; #35; &lt; &amp;",
    "<script>alert(1)</script> ]]> <!-- -->",
    "back\\slash \\n \\N\\",
    'ends in \\"',
    "%%{init: {}}%% %% comment",
    "style n0 fill:#f00;",
    "1. first",
    "- item",
    "_emphasis_ **strong**",
    "\x00\x07\x1b[31m\x7f\x85\r\n\t\u2028",
    "\ud800 \ufffe \uffff \u202e",
    "日本語 \u0301 🙂 ﬂ°°35¶ß",
    "   ",
    "",
]


def entries(text: str, **facts: str) -> list[HistoryEntry]:
    """Make entries, newest first: ``entries("d<b,c c<a b<a a", final="b")``."""
    found = []
    for word in text.split():
        rev, _, parents = word.partition("<")
        said = {name: rev in revisions.split() for name, revisions in facts.items()}
        found.append(HistoryEntry(rev, f"name of {rev}", tuple(filter(None, parents.split(","))), **said))  # type: ignore[arg-type]
    return found


def drawn(found: Sequence[HistoryEntry]) -> str:
    """Draw, with ids beside the nodes, and with an empty line before, as the pictures below have one."""
    return "\n" + "".join(f"{line}\n" for line in as_text(found, lambda entry: entry.revision))


def of(revisions: Sequence[Revision]) -> list[HistoryEntry]:
    """Make entries of all revisions, newest first."""
    graph = Graph(revisions)
    return [
        HistoryEntry(
            rev, rev, graph[rev].parents, graph[rev].depends_on, head=rev in graph.heads, final=graph[rev].final
        )
        for rev in reversed(graph.order(revision.id for revision in revisions))
    ]


def shown(found: Sequence[HistoryEntry], above: str = "parents") -> set[tuple[str, str]]:
    """All pairs of a revision and one that it follows, of those that are in the picture."""
    known = {entry.revision for entry in found}
    return {(entry.revision, rev) for entry in found for rev in getattr(entry, above) if rev in known}


# With characters


def test_nothing() -> None:
    assert list(as_text([], str)) == []


def test_a_line() -> None:
    picture = """
        * c
        * b
        * a
        """
    assert drawn(entries("c<b b<a a")) == dedent(picture)


def test_a_branch_with_two_heads() -> None:
    picture = """
        * d
        | * c
        * | b
        |/
        * a
        """
    assert drawn(entries("d<b c<a b<a a")) == dedent(picture)


def test_a_diamond() -> None:
    picture = r"""
        * d
        |\
        | * c
        * | b
        |/
        * a
        """
    assert drawn(entries("d<b,c c<a b<a a")) == dedent(picture)


def test_a_criss_cross() -> None:
    """Two branches that each merged the other: an edge crosses a lane as one line."""
    picture = r"""
        * f
        |\
        | * e
        | |\
        * | | d
        |\| |
        | |/
        |/|
        | * c
        * | b
        |/
        * a
        """
    assert drawn(entries("f<d,e e<c,b d<b,c c<a b<a a")) == dedent(picture)


def test_an_octopus() -> None:
    picture = r"""
        * g
        |\___
        | |\ \
        | | | * e
        | | * | d
        | | |/
        | * | c
        | |/
        * | b
        |/
        * a
        """
    assert drawn(entries("g<b,c,d,e e<a d<a c<a b<a a")) == dedent(picture)


def test_two_roots() -> None:
    picture = r"""
        * d
        |\
        | * c
        * b
        * a
        """
    assert drawn(entries("d<b,c c b<a a")) == dedent(picture)
    # What has nothing to do with what is above it does not look as if it followed from that.
    picture = """
        * d
        * c

        * b
        * a
        """
    assert drawn(entries("d<c c b<a a")) == dedent(picture)


def test_an_edge_over_several_lanes() -> None:
    picture = r"""
        * h
        | * g
        | | * f
        | | | * e
        | |_|/|
        |/| | |
        | | | * d
        | | * c
        | * b
        * a
        """
    assert drawn(entries("h<a g<b f<c e<d,a d c b a")) == dedent(picture)


def test_a_barrier_is_a_wall_which_other_branches_pass() -> None:
    picture = """
        * f
        * e
        | * d
        |=#== c
        |/
        #== b
        * a
        """
    assert drawn(entries("f<e e<b d<c c<b b<a a", final="c b")) == dedent(picture)


def test_a_checkpoint_in_the_middle() -> None:
    """Of the line that it is on it has c and all below; of the other branch it has d."""
    found = entries("f<e,d e<c d<b c<b b<a a", final="a", here="c d", applied="a b c d")
    picture = r"""
        o f
        |\
        o | e
        | @ d
        @ | c
        |/
        * b
        #== a
        """
    assert drawn(found) == dedent(picture)
    picture = """
        o b
        @== a
        """
    assert drawn(entries("b<a a", final="a", here="a", applied="a")) == dedent(picture)


def test_a_range_whose_parents_are_missing() -> None:
    picture = """
        * e
        * d
        | * c
        * b
        """
    assert drawn(entries("e<d,x d<b c<y b<z")) == dedent(picture)
    picture = """
        * d

        * c
        * b
        """
    assert drawn(entries("d<y c<b b<x")) == dedent(picture)


def test_what_is_said_may_be_nothing() -> None:
    assert list(as_text(entries("b<a a", final="b"), lambda entry: "")) == ["#==", "*"]


def test_an_edge_that_comes_from_the_right_does_not_seem_to_cross() -> None:
    """The lane of d comes over to c from the right when all that goes to the left has left."""
    picture = r"""
        * f
        |\___
        | |\ \
        | | * | c
        | |/| |
        | |/|/
        |/| |
        | | * d
        * | b
        |/
        * a
        """
    assert drawn(entries("f<b,a,c,d c<d,a,b d b<a a")) == dedent(picture)


@given(histories(), st.integers(0, 3), st.integers(0, 3))
def test_who_reads_a_drawing_finds_the_graph(revisions: list[Revision], newer: int, older: int) -> None:
    found = of(revisions)
    found = found[newer : len(found) - older]  # a range, whose oldest may follow others
    lines = list(as_text(found, lambda entry: f"<{entry.revision}>"))
    assert Reader(lines).edges() == shown(found)
    assert lines == [line.rstrip() for line in lines]


class Reader:
    """Reads a drawing downwards, by the rules that the module gives, and knows nothing of how it was made."""

    def __init__(self, lines: Sequence[str]) -> None:
        parts = [line.partition("<") for line in lines]
        self.art = [art.replace("=", " ") for art, _, _ in parts]
        self.names = [name.rstrip(">") for _, _, name in parts]

    def edges(self) -> set[tuple[str, str]]:
        found = []
        for line, name in enumerate(self.names):
            if name:
                (cell,) = (cell for cell, sign in enumerate(self.art[line]) if sign in "*o#@")
                found += [(name, parent) for parent in self.down(line, cell)]
        assert len(found) == len(set(found)), "an edge is drawn twice"
        return set(found)

    def at(self, line: int, cell: int) -> str:
        art = self.art[line] if line < len(self.art) else ""
        return art[cell] if 0 <= cell < len(art) else " "

    def down(self, line: int, cell: int) -> Iterator[str]:
        """Go on below a node, or a ``|``."""
        if self.at(line + 1, cell) in "|*o#@":
            yield from self.enter(line + 1, cell)
        for step, slope in ((-1, "/"), (1, "\\")):
            # What leaves sideways below a crossing is what came sideways.
            crossed = not self.names[line] and self.at(line, cell - step) in (slope, "_")
            if self.at(line + 1, cell + step) == slope and not crossed:
                yield from self.sideways(line + 1, cell + 2 * step, step)

    def sideways(self, line: int, cell: int, step: int) -> Iterator[str]:
        """Go on where a slope, or a ``_``, came to a cell at the foot of a line."""
        farther = self.at(line, cell + step) == "_"
        if farther:
            yield from self.sideways(line, cell + 2 * step, step)
        steeper = self.at(line + 1, cell + step) == ("/" if step < 0 else "\\")
        if steeper:
            yield from self.sideways(line + 1, cell + 2 * step, step)
        begins = self.at(line, cell) != "|" and self.at(line + 1, cell) in "|*o#@"
        if begins or not (farther or steeper):
            yield from self.enter(line + 1, cell)

    def enter(self, line: int, cell: int) -> Iterator[str]:
        """Go on at the top of a line."""
        sign = self.at(line, cell)
        assert sign in "|*o#@", f"an edge ends in nothing, in line {line}:\n" + "\n".join(self.art)
        if sign == "|":
            yield from self.down(line, cell)
        else:
            yield self.names[line]


# Lanes


@given(histories())
def test_edges_arrive_and_run_through_nothing_on_the_way(revisions: list[Revision]) -> None:
    found = of(revisions)
    layout = laid_out(found)
    assert {(found[edge.child].revision, found[edge.parent].revision) for edge in layout.edges} == shown(found)
    for edge in layout.edges:
        assert edge.route[0][0] == edge.child
        assert edge.route[-1][1] == layout.rows[edge.parent].lane
        for (row, lane), (end, _) in zip(edge.route, [*edge.route[1:], (edge.parent, 0)], strict=True):
            assert lane not in {layout.rows[between].lane for between in range(row + 1, end)}


@given(histories())
def test_there_are_no_more_lanes_than_edges_side_by_side(revisions: list[Revision]) -> None:
    found = of(revisions)
    most, waiting = 0, set[str]()
    for entry in found:
        most = max(most, len(waiting | {entry.revision}))
        waiting = (waiting - {entry.revision}).union(entry.parents)
        most = max(most, len(waiting))
    assert laid_out(found).width == most


# For other programs


def dressed() -> list[HistoryEntry]:
    """A graph with all that there is to show, and names that could break a file."""
    found: list[HistoryEntry] = []
    for number, text in enumerate(HOSTILE):
        earlier = [entry.revision for entry in found]
        found.append(
            HistoryEntry(
                f"{number}.{text}",
                text,
                tuple(earlier[-1 - number % 3 :]),
                depends_on=tuple(earlier[-5:-4]),
                labels=(text,) if text and number % 2 else (),
                head=text == HOSTILE[-1],
                final=number % 4 == 0,
                reversible=number % 5 > 0,
                known=number % 7 > 0,
                applied=number < 9,
                here=number in (7, 8),
            )
        )
    return found[::-1]


@given(histories())
def test_svg_shows_each_revision_and_each_edge(revisions: list[Revision]) -> None:
    found = of(revisions)
    root = ElementTree.fromstring(as_svg(found))
    places = [place(node) for node in root.iterfind(".//{*}g[@class='revision']")]
    assert len(set(places)) == len(places) == len(found)
    at = {entry.revision: spot for entry, spot in zip(found, places, strict=True)}
    for kind, above in (("edge", "parents"), ("needs", "depends_on")):
        paths = [ends(path.attrib["d"]) for path in root.iterfind(f".//{{*}}path[@class='{kind}']")]
        assert sorted(paths) == sorted((at[rev], at[parent]) for rev, parent in shown(found, above))


def place(revision: ElementTree.Element) -> tuple[int, int]:
    """Where the circle, or the wall, of a revision is."""
    circle = revision.find("{*}circle")
    if circle is not None:
        return int(circle.attrib["cx"]), int(circle.attrib["cy"])
    wall = {name: int(value) for name, value in revision[1].attrib.items() if value.isdigit()}
    return wall["x"] + wall["width"] // 2, wall["y"] + wall["height"] // 2


def ends(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a path begins and ends."""
    steps = [(kind, [int(number) for number in said.split()]) for kind, said in re.findall("([A-Z])([^A-Z]*)", path)]
    spots = [(0, 0)]
    for kind, numbers in steps:
        x, y = spots[-1]
        spots.append({"V": (x, numbers[-1]), "H": (numbers[-1], y)}.get(kind, tuple(numbers[-2:])))  # type: ignore[arg-type]
    return spots[1], spots[-1]


def test_svg_says_all_there_is_to_know() -> None:
    found = dressed()
    root = ElementTree.fromstring(as_svg(found))
    for entry, group in zip(found, root.iterfind(".//{*}g[@class='revision']"), strict=True):
        texts = [text.text for text in group.iterfind("{*}text")]
        notes = " ".join(["(irreversible)"] * irreversible(entry) + ["(no script here)"] * (not entry.known))
        tags = ["checkpoint"] * entry.here + ["barrier"] * entry.final + [plain(label) for label in entry.labels]
        assert texts == [text for text in (plain(entry.revision), *tags, plain(entry.name), notes) if text]
        filled = group[1].attrib.get("class") != "ground"
        assert filled == (entry.applied is not False)
    assert int(ElementTree.fromstring(as_svg([HistoryEntry("a", "long " * 999, ())])).attrib["width"]) < 1000


def irreversible(entry: HistoryEntry) -> bool:
    return not entry.reversible and not entry.final


def test_a_branch_is_named_where_its_label_is_given() -> None:
    found = [
        HistoryEntry("d", "", ("b",)),
        HistoryEntry("c", "", ("b",), labels=("x", "y")),
        HistoryEntry("b", "", ("a",), labels=("z",)),
        HistoryEntry("a", "", ()),
    ]
    texts = [text.text for text in ElementTree.fromstring(as_svg(found)).iterfind(".//{*}text")]
    assert texts == ["d", "c", "x", "y", "b", "z", "a"]
    assert as_dot(found).count("[x]") == as_mermaid(found).count("#91;x#93;") == 1


def spoken(entry: HistoryEntry) -> list[str]:
    """What is to be read in the node of a revision."""
    notes = [f"[{plain(label)}]" for label in entry.labels]
    notes += ["(irreversible)"] * irreversible(entry) + ["(no script here)"] * (not entry.known)
    return [plain(text) for text in (entry.revision, entry.name, " ".join(notes)) if text.strip()]


def test_mermaid_takes_names_for_nothing_but_names() -> None:
    found = dressed()
    head, *lines = as_mermaid(found).splitlines()
    assert head == "flowchart BT"
    nodes = [re.fullmatch(r'    n(\d+)(?:\["(.*)"\]|\{\{"(.*)"\}\})', line) for line in lines]
    number = -1
    for number, (node, entry) in enumerate(zip(nodes, found, strict=False)):
        assert node is not None
        said = node[3] if entry.final else node[2]
        # Letters, digits and the entities of Mermaid, nothing else.
        assert re.fullmatch(r"(?:[^\W_]|[ ,]|[^\W_][.-](?=[^\W_])|#\d+;|<br/>)*", said)
        read = [re.sub(r"#(\d+);", lambda code: chr(int(code[1])), text) for text in said.split("<br/>")]
        assert (int(node[1]), read) == (number, [" ".join(text.split()) for text in spoken(entry)])
    rest = lines[number + 1 :]
    assert all(
        re.fullmatch(r"    (n\d+ -(\.-?|-)> n\d+|classDef \w+ [-\w:#,]+|class (n\d+,?)+ \w+)", line) for line in rest
    )
    assert arrows(rest, r"-->", found) == shown(found)
    assert arrows(rest, r"-\.->", found) == shown(found, "depends_on")
    here = ",".join(f"n{number}" for number, entry in enumerate(found) if entry.here)
    assert f"    class {here} here" in rest


def test_dot_takes_names_for_nothing_but_names() -> None:
    found = dressed()
    lines = as_dot(found).splitlines()
    assert (lines[0], lines[-1]) == ("digraph revisions {", "}")
    labels = [
        re.fullmatch(r'    n(\d+) \[label="((?:[^"\\]|\\.)*)"(?:, \w+=("#?\w+"|\w+))*\]', line) for line in lines[3:-1]
    ]
    number = -1
    for number, (label, entry) in enumerate(zip(labels, found, strict=False)):
        assert label is not None
        assert (int(label[1]), unquoted(label[2])) == (number, spoken(entry))
    rest = lines[number + 4 : -1]
    assert arrows([line for line in rest if "dashed" not in line], "->", found) == shown(found)
    assert arrows([line for line in rest if "dashed" in line], "->", found) == shown(found, "depends_on")


def unquoted(label: str) -> list[str]:
    """Read a string of Graphviz: ``\\n`` ends a line, any other character may have a backslash before it."""
    read = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], label)
    return html.unescape(read).split("\n")


def arrows(lines: Sequence[str], arrow: str, found: Sequence[HistoryEntry]) -> set[tuple[str, str]]:
    """All pairs of a revision and one that it follows, by the arrows that lead up."""
    ends = [re.match(rf"    n(\d+) {arrow} n(\d+)", line) for line in lines]
    return {(found[int(end[2])].revision, found[int(end[1])].revision) for end in ends if end}


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it() -> None:
    found = dressed()
    ran = subprocess.run(["dot", "-Tsvg"], input=as_dot(found).encode(), capture_output=True, check=True)
    assert ran.stderr == b""
    root = ElementTree.fromstring(ran.stdout)
    nodes = {
        node.findtext("{*}title"): ["".join((text.text or "").split()) for text in node.iterfind("{*}text")]
        for node in root.iterfind(".//{*}g[@class='node']")
    }
    wanted = {f"n{number}": ["".join(text.split()) for text in spoken(entry)] for number, entry in enumerate(found)}
    assert nodes == wanted
    edges = root.findall(".//{*}g[@class='edge']")
    assert len(edges) == len(shown(found)) + len(shown(found, "depends_on"))


def test_an_empty_history_is_a_file_too() -> None:
    files = {name: draw([]) for name, draw in FORMATS.items()}
    assert files["mermaid"] == "flowchart BT\n"
    assert files["dot"].startswith("digraph revisions {") and files["dot"].endswith("}\n")
    assert ElementTree.fromstring(files["svg"]).findall(".//{*}circle") == []


def test_colours_can_be_told_from_a_light_and_from_a_dark_ground() -> None:
    grounds = re.findall(r"\.ground \{ fill: (#\w+)", as_svg([]))
    assert len(grounds) == 2
    assert min(contrast(colour, ground) for colour in COLOURS for ground in grounds) > 3


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as the guidelines for accessible pages define it: from 1 to 21."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(lights) / min(lights)
