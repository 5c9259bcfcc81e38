"""A squashed script does what the scripts that it replaces do: all together, and each on its own."""

from __future__ import annotations

import ast
import copy
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.errors import Refused, UsageError
from anemoi_ckpt_migrate.scripts.load_functions import load_source
from anemoi_ckpt_migrate.scripts.parse import read_script
from anemoi_ckpt_migrate.scripts.source import tail
from anemoi_ckpt_migrate.scripts.squash import render

HEAD = '''"""change {0}"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "{0}"
down_revision = None
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})

'''
# What nearly all of the scripts below do with what they call `value()`.
FUNCTIONS = """

def migrate(ckpt: CkptType) -> CkptType:
    ckpt["seen"].append(value())
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    ckpt["undone"].append((value(), ckpt["seen"].pop()))
    return ckpt
"""


def script(revision: str, body: str, functions: str = FUNCTIONS) -> str:
    return HEAD.format(revision) + body + functions


def facts(revision: str, source: str, reversible: bool = True) -> dict[str, Any]:
    name = (ast.get_docstring(ast.parse(source)) or revision).partition("\n")[0]
    return {
        "revision": revision,
        "down_revision": None,
        "depends_on": (),
        "branch_labels": (),
        "name": name,
        "reversible": reversible,
        "versions": {"migration": "1.0.0"},
        "signature": "",
    }


def squash(*sources: str, reversible: Sequence[bool] = (), **more: Any) -> str:
    can = reversible or [True] * len(sources)
    parts = [(facts(f"r{place}", source, can[place]), source) for place, source in enumerate(sources)]
    return render.squashed("all of it", "s", None, parts, {"migration": "1.0.0"}, "2026-01-01", **more)


def module(source: str) -> types.ModuleType:
    return load_source(source, "s", "script.py")


def walked(functions: Sequence[Any], start: Any) -> list[Any]:
    """What becomes of a checkpoint, function by function."""
    states = [start]
    for function in functions:
        states.append(function(copy.deepcopy(states[-1])))
    return states


def check_same(*sources: str) -> str:
    """Check that a squashed script does what some scripts do, which all can be undone."""
    text = squash(*sources)
    whole = module(text)
    old = [module(source) for source in sources]
    parts = [module(text + tail(place)) for place in range(len(sources))]
    start = {"seen": [], "undone": []}
    up = walked([one.migrate for one in old], start)
    assert walked([one.migrate for one in parts], start) == up
    assert whole.migrate(copy.deepcopy(start)) == up[-1]
    down = walked([one.rollback for one in reversed(old)], up[-1])
    assert walked([one.rollback for one in reversed(parts)], up[-1]) == down
    assert whole.rollback(copy.deepcopy(up[-1])) == down[-1]
    return text


TWO = (script("r0", 'OLD = "x"\n\ndef value():\n    return OLD\n'), script("r1", 'def value():\n    return "y"\n'))


def test_it_reads_like_a_script() -> None:
    first = '''"""rename x to y

Because x was taken.

Revision ID: r0
"""
# Written in haste.
from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "r0"  # never change this
down_revision = None
branch_labels = None
depends_on = None
metadata = MigrationMetadata(
    versions={"migration": "1.0.0"},  # of the format
)

OLD, NEW = "x", "y"  # the names


def migrate(ckpt: CkptType) -> CkptType:
    ckpt[NEW] = ckpt.pop(OLD)
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    ckpt[OLD] = ckpt.pop(NEW)
    return ckpt
'''
    second = 'revision = "r1"\ndown_revision = "r0"\n\ndef migrate(ckpt):\n    return ckpt\n'
    parts = [
        ({"revision": "r0", "down_revision": ("p", "q"), "name": "rename x to y", "reversible": True}, first),
        ({"revision": "r1", "down_revision": "r0", "name": 'drop "z"', "reversible": False}, second),
    ]
    text = render.squashed(
        "move on", "s", ("p", "q"), parts, {"pkg": "1.0"}, "2026-01-01", branch_labels="main", depends_on=("d",)
    )
    assert (
        text
        == '''"""move on

Replaces: r0 (rename x to y), r1 (drop "z")

Revision ID: s
Revises: p, q
Create Date: 2026-01-01
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "s"
down_revision = ("p", "q")
branch_labels = "main"
depends_on = ("d",)

# The revisions that this one replaces, in order. A checkpoint that has the first of them continues from there.
replaces = (
    {
        "revision": "r0",
        "down_revision": ("p", "q"),
        "name": "rename x to y",
        "reversible": True,
    },
    {
        "revision": "r1",
        "down_revision": "r0",
        "name": 'drop "z"',
        "reversible": False,
    },
)

metadata = MigrationMetadata(versions={"pkg": "1.0"})


def _part_1():
    """Revision r0: rename x to y.

    Because x was taken.

    Revision ID: r0
    """

    # Written in haste.

    OLD, NEW = "x", "y"  # the names

    def migrate(ckpt: CkptType) -> CkptType:
        ckpt[NEW] = ckpt.pop(OLD)
        return ckpt

    def rollback(ckpt: CkptType) -> CkptType:
        ckpt[OLD] = ckpt.pop(NEW)
        return ckpt

    return migrate, rollback


def _part_2():
    """Revision r1: drop "z"."""

    def migrate(ckpt):
        return ckpt

    return migrate, None


PARTS = (_part_1(), _part_2())


def migrate(ckpt: CkptType) -> CkptType:
    """Upgrade, one part after the other."""
    for up, _ in PARTS:
        ckpt = up(ckpt)
    return ckpt


rollback = None  # r1 cannot be undone
'''
    )


def test_it_is_read_as_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "s.py"
    path.write_text(squash(*TWO), encoding="utf-8")
    found, faults = read_script(str(path))
    assert faults == []
    assert found is not None
    assert (found.id, found.name, found.reversible, found.versions) == ("s", "all of it", True, {"migration": "1.0.0"})
    assert [(part.id, part.name) for part in found.replaces] == [("r0", "change r0"), ("r1", "change r1")]


def test_what_cannot_be_undone() -> None:
    text = squash(*TWO, *TWO, reversible=[True, False, True, False])
    assert "rollback = None  # r1 and r3 cannot be undone\n" in text
    assert [part.rollback is None for part in (module(text + tail(place)) for place in range(4))] == [
        False,
        True,
        False,
        True,
    ]
    assert module(text).rollback is None


def test_nothing_to_squash() -> None:
    with pytest.raises(UsageError, match="nothing to squash"):
        squash()


def test_many_parts_are_listed_below_each_other() -> None:
    text = check_same(*TWO * 10)
    assert "PARTS = (\n    _part_1(),\n    _part_2(),\n" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "PARTS = (_part_1(),)\n" in check_same(TWO[0])


ALIKE = {
    "comments": "# above\nX = 1  # beside\n# below\n\ndef value():\n    # within\n    return X\n# at the end\n",
    "strings of several lines": 'X = """a\n  b\n\n\n\tc  \n"""\nY = f"""{X}\n{X!r}\n"""\nZ = rb\'\'\'\n\\n\'\'\'\n'
    + 'def value():\n    """doc\n    more\n"""\n    return X, Y, Z, """\nz""", value.__doc__\n',
    "strings in strings": "X = '''a \"\"\"b\n\"\"\" # no comment\n'''\nvalue = lambda: X\n",
    "f-strings in f-strings": 'A = 1\nX = f"""{A:>{A +\n3}}{f\'{A}\'}\n    {A =\n}\n"""\nvalue = lambda: X\n',
    "a string goes on after a backslash": "X = 'a\\\n  b'\nY = f'{X}\\\n  c'\nvalue = lambda: (X, Y)\n",
    "strings side by side": 'X = (\n    "a"  # first\n    """b\n    c"""  # second\n)\ndef value():\n    return X\n',
    "a line goes on after a backslash": "X = 1 + \\\n2\ndef value():\n    return \\\n        X\n",
    "a backslash before an empty line": "def value():\n    return X\nX = 1 \\\n\n",
    "tabs": "def value():\n\tif True:\n\t\treturn '\t'\n\treturn 0\n",
    "tabs after spaces": "def value():\n    if True:\n    \treturn 1\n    return 0\n",
    "form feeds": "X = 1\n\f\ndef value():\n    \f    \n  \f    return X\n\f\n",
    "no line feed at the end": "value = lambda: 1",
    "other letters": 'größe = "Ω 🙂"\ndef value():\n    return größe, "\\N{SNOWMAN}"\n',
    "several statements in a line": "X = 1; Y = 2; revision = 3\ndef value(): X; return X, Y, revision\n",
    "what it says about itself is used": "def value():\n    return revision, down_revision, metadata.versions\n",
    "another metadata": "from importlib import metadata\ndef value():\n    return metadata.version('cloudpickle')\n",
    "several targets": "revision = ME = 'r'\n(depends_on, X) = branch_labels = (None, 2)\nvalue = lambda: (ME, X)\n",
    "annotated": "branch_labels: None = None\nX: int = 3\nY: 'no such type'\nvalue = lambda: X\n",
    "imports": "import os.path\nimport math as m\nfrom math import floor\nvalue = lambda: (os.sep, m.pi, floor(1.5))\n",
    "another import of ours": "from anemoi_ckpt_migrate import CkptType as C, MigrationMetadata\n"
    "import anemoi_ckpt_migrate\nvalue = lambda: (C, MigrationMetadata(), anemoi_ckpt_migrate.__name__)\n",
    "another CkptType": "try:\n    CkptType\nexcept NameError:\n    pass\nCkptType = 'text'\n"
    "def value(x: CkptType = 1):\n    return value.__annotations__\n",
    "an import that may fail": "try:\n    import no_such_module\nexcept ImportError:\n    no_such_module = None\n"
    "value = lambda: no_such_module\n",
    "only for type checkers": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from x import Y\n"
    "def value(y: 'Y' = 1):\n    return y\n",
    "helpers call each other": "def value():\n    return even(6)\ndef even(n):\n    return n == 0 or odd(n - 1)\n"
    "def odd(n):\n    return n != 0 and even(n - 1)\n",
    "default arguments": "X = [1]\ndef value(x=X, *, y=X[0]):\n    return x, y\nX = 2\n",
    "decorators": "import functools\ndef twice(f):\n    return lambda: f() * 2\n"
    "@functools.cache\ndef three():\n    return 3\n@twice\ndef value():\n    return three()\n",
    "generators and comprehensions": "N = 3\nX = [i * N for i in range(N)]\nY = {k: v for k, v in zip(X, X) if k < N}\n"
    "value = lambda: (X, Y, list(i for i in range(N) if (last := i)), N)\n",
    "walrus": "if (n := 3) > 2:\n    X = [m := i for i in range(n)]\nvalue = lambda: (n, m)\n",
    "match": "match {'a': [1, 2]}:\n    case {'a': [first, *others], **more}:\n        pass\n"
    "value = lambda: (first, others, more)\n",
    "loops": "X = []\nfor i in range(3):\n    X.append(lambda: i)\nelse:\n    j = i\ndel i\ni = 7\n"
    "value = lambda: [f() for f in X] + [j]\n",
    "with and try": "import contextlib\nwith contextlib.nullcontext(3) as n:\n    pass\ntry:\n    1 / 0\n"
    "except ZeroDivisionError as e:\n    why = str(e)\nfinally:\n    end = True\nvalue = lambda: (n, why, end)\n",
    "a name that is not there": "try:\n    there\nexcept NameError:\n    there = False\nvalue = lambda: there\n",
    "state of its own": "CALLS = []\ndef value():\n    CALLS.append(1)\n    return len(CALLS)\n",
    "nonlocal": "def counter():\n    n = 0\n    def count():\n        nonlocal n\n        n += 1\n        return n\n"
    "    return count\ncount = counter()\nvalue = lambda: count()\n",
    "async": "import asyncio\nasync def soon():\n    return [i async for i in numbers()]\n"
    "async def numbers():\n    yield 1\ndef value():\n    return asyncio.run(soon())\n",
    "not when it is imported": "if __name__ == '__main__':\n    raise SystemExit\nvalue = lambda: 1\n",
    "a class": "BASE = 1\nclass A:\n    x = BASE\n    def get(self):\n        return type(self).x, BASE, __class__\n"
    "class B(A):\n    __y = 2\n    def get(self):\n        return super().get()[:2], self.__y\nvalue = lambda: B().get()\n",
    "an enumeration": "import enum\nclass E(enum.Enum):\n    A = 1\n    B = A + 1\nvalue = lambda: [e.value for e in E]\n",
    "a named tuple": "from typing import NamedTuple\nfrom collections import namedtuple\nclass P(NamedTuple):\n    x: int\n"
    "    y: 'P | None' = None\nQ = namedtuple('Q', 'z')\nvalue = lambda: (tuple(P(1)), tuple(Q(2)))\n",
    "a dataclass": "from dataclasses import dataclass, field, replace\nfrom typing import ClassVar\n@dataclass(frozen=True)\n"
    "class Move:\n    old: str\n    new: 'str' = field(default='y')\n    N: ClassVar[int] = 3\n"
    "    def back(self) -> 'Move':\n        return replace(self, old=self.new)\nvalue = lambda: repr(Move('x').back())[-20:]\n",
    "a dataclass in a function": "from dataclasses import dataclass\ndef value():\n    @dataclass\n    class M:\n"
    "        x: int\n    return M(1).x\n",
    "hints": "from typing import get_type_hints\nclass A: pass\ndef f(a: A) -> int: pass\n"
    "value = lambda: [hint.__name__ for hint in get_type_hints(f).values()]\n",
    "built in, then not": "def value():\n    return sum([1]), max(1, 2)\nwas = sum([1, 2])\nfrom math import fsum as sum\n"
    "if was != 3:\n    max = min\n",
    "what is built in is wrapped": "sum = lambda x, sum=sum: -sum(x)\nvalue = lambda: sum([1])\n",
    "evaluated in names of its own": "def value():\n    names = {}\n    exec('a = 1', names)\n    return eval('a', names)\n",
    "other names of the same kind": "def value(vars=1, dir=2):\n    return vars, dir, sorted(__builtins__)[:0], (lambda: 0).__doc__\n",
    "empty lines": "\n\n\nX = 1\n\n\n\n\nY = 2\n\n\nvalue = lambda: X + Y\n\n\n\n",
    "long conditions": "def value():\n    x = 7\n    if x == 0:\n        return 0\n"
    + "".join(f"    elif x == {i}:\n        return {i}\n" for i in range(1, 80)),
}


@pytest.mark.parametrize("what", ALIKE)
def test_it_does_the_same(what: str) -> None:
    body = ALIKE[what]
    text = check_same(TWO[0], script("r1", body), script("r2", body), TWO[1])
    for line in body.splitlines():
        if line.strip().startswith("#"):
            assert line.strip() in text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\f# -*- coding: latin-1 -*-\n#!/usr/bin/env python\n"])
def test_line_ends_and_beginnings(start: str, end: str) -> None:
    source = (start + script("r0", 'X = """a\nb"""\nvalue = lambda: X\n')).replace("\n", end)
    assert "\r" not in check_same(source, TWO[1])


@pytest.mark.parametrize(
    "functions",
    [
        "def go(ckpt):\n    return ckpt\nmigrate = rollback = go\n",
        "from copy import copy as migrate, deepcopy as rollback\n",
        "class Go:\n    def __call__(self, ckpt):\n        return ckpt\nmigrate = rollback = Go()\n",
        "def migrate(ckpt):\n    return ckpt\nrollback = None\nif True:\n    def rollback(ckpt):\n        return ckpt\n",
        "migrate = rollback = lambda ckpt: ckpt | {'new': 1}\n",
    ],
)
def test_functions_however_they_come_about(functions: str) -> None:
    check_same(script("r0", "", functions), TWO[0])


@pytest.mark.parametrize("functions", ["rollback = None  # gone\n", "", "if 0:\n    def rollback(ckpt): pass\n"])
def test_a_way_up_alone(functions: str) -> None:
    text = squash(script("r0", "", f"def migrate(ckpt):\n    return ckpt\n{functions}"), reversible=[False])
    assert module(text).rollback is module(text + tail(0)).rollback is None


def test_futures_come_first() -> None:
    later = (
        "from __future__ import annotations, generator_stop  # for later\n\ndef value(x: Later = 1):\n    return x\n"
    )
    text = check_same(script("r0", "").replace('"""\n', f'"""\n{later}', 1), TWO[1])
    assert '\n"""\n\nfrom __future__ import annotations, generator_stop\n\nfrom anemoi_ckpt_migrate import' in text


def test_dataclasses_whose_annotations_are_text() -> None:
    body = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Move:\n"
        "    old: str\n    then: Move | None = None\n    ok: bool = True\n    def run(self) -> Later:\n"
        "        return self.old\nvalue = lambda: Move('x', Move('y')).then.run()\n"
    )
    check_same(body + script("r0", "").partition('"""\n')[2], TWO[0])


def test_a_docstring_keeps_its_text() -> None:
    doc = 'say \\"hi\\" \\\\ \\x00 Ω\n\n    three \\"\\"\\" quotes\n\ttab\x0c\nend\\"'
    source = script("r0", "value = lambda: 1\n").replace("change r0", doc)
    text = check_same(source, TWO[0])
    old = ast.get_docstring(ast.parse(source)) or ""
    first = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    found = ast.get_docstring(first) or ""
    assert found.splitlines()[0] == f"Revision r0: {old.splitlines()[0]}."
    assert found.partition("\n")[2].strip() == old.partition("\n")[2].strip()
    assert (ast.get_docstring(ast.parse(text)) or "").splitlines()[2].startswith(f"Replaces: r0 ({old.splitlines()[0]}")


def test_a_name_that_is_not_in_the_docstring() -> None:
    source = TWO[0].replace("change r0", "")
    parts = [({"revision": "r0", "name": "r0_file", "reversible": True}, source)]
    assert '"""Revision r0: r0_file."""' in render.squashed("n", "s", "p", parts, {}, "now")
    parts[0][0]["name"] = "is it?"
    assert '"""Revision r0: is it?"""' in render.squashed("n", "s", "p", parts, {}, "now")


@pytest.mark.parametrize("text", ['"', "'", "\"'", "\\", "\n", "Ω🙂", "\ud800", "{}", "", 'a"b"'])
def test_facts_are_written_out(text: str) -> None:
    given = {"revision": "r0", "name": "n", "reversible": True, "versions": {text: text}, "depends_on": (text,)}
    found = module(render.squashed("n", "s", None, [(given, TWO[0])], {text: text}, "now"))
    assert found.replaces == (given,)
    assert found.metadata.versions == {text: text}


REFUSED = {
    "from math import *\n": "line 9 imports * from math; import each name",
    "X = 1\ndef f():\n    global X\n    X = 2\n": "line 11 has `global X`; keep the changing value in a dict",
    "class A:\n    global X, Y\n": "line 10 has `global X, Y`",
    "X = __file__\n": "line 9 uses __file__, which differs in a function; write the value itself",
    "def f():\n    print(__doc__)\n": "line 10 uses __doc__",
    "globals()['X'] = 1\n": "line 9 uses globals",
    "def f():\n    return '{x}'.format(**locals())\n": "line 10 uses locals",
    "X = vars()\n": "line 9 uses vars",
    "X = f'{dir()}'\n": "line 9 uses dir",
    "exec('X = 1')\n": "line 9 uses exec",
    "X = list(map(eval, ['1']))\n": "line 9 uses eval",
    "def f(): pass\nX = f.__globals__\n": "line 10 uses __globals__, which would be that of the whole script",
    "import sys\nX = sys.modules[__name__]\n": "line 10 looks up its own module",
    "sum = 1\ndel sum\n": "line 10 redefines sum; choose another name",
    "try:\n    pass\nexcept OSError as id:\n    pass\n": "line 11 redefines id",
    "X = 1\nclass A:\n    X = X\n": "line 10 begins the class A, which defines X and also uses X of the script",
    "X = 1\ndef f():\n    class A:\n        Y = [X for X in X]\n        import X\n": "line 11 begins the class A",
    "import sys; from __future__ import annotations\n": "it is not Python",
    "return\n": "it is not Python ('return' outside function",
    "await x\n": "it is not Python",
    "nonlocal x\n": "it is not Python",
    "def f(:\n": "it is not Python",
    "X = '\0'\n": "it is not Python",
    "from typing import get_type_hints\ndef f(x: 'A'): pass\n": "line 9 uses get_type_hints, and annotations are text",
    "import typing\nclass A:\n    x: 'typing.ClassVar[int]'\n": "line 11 uses ClassVar, and annotations are text",
}
if sys.version_info >= (3, 11):
    REFUSED["try:\n    ExceptionGroup\nexcept NameError:\n    from x import ExceptionGroup\n"] = (
        "line 10 redefines ExceptionGroup"
    )


@pytest.mark.parametrize("body", REFUSED)
def test_what_would_be_something_else_in_a_function(body: str) -> None:
    source = script("r1", body, "\ndef migrate(ckpt):\n    return ckpt\n")
    parts = [(facts("r0", TWO[0]), TWO[0]), ({"revision": "r1", "name": "n", "reversible": False}, source)]
    with pytest.raises(Refused) as refused:
        render.squashed("n", "s", None, parts, {}, "now")
    assert str(refused.value).startswith(f"revision r1 cannot be squashed: {REFUSED[body]}")
    assert str(refused.value).endswith(", or squash only the revisions before it or after it")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("from dataclasses import dataclass, InitVar\n", "line 9 uses InitVar, and annotations are text"),
        ("from functools import singledispatch as s\n", "line 9 uses singledispatch, and annotations are text"),
        ("def f():\n    @dataclass\n    class A:\n        x: int\n", "line 11 decorates a class in a function"),
    ],
)
def test_what_another_part_makes_of_annotations(body: str, why: str) -> None:
    source = script("r0", f"{body}def value():\n    return 1\n")
    squash(source, TWO[0])
    with pytest.raises(Refused, match=why):
        squash(source, f"from __future__ import annotations\n{TWO[0]}")


def test_what_is_squashed_already() -> None:
    with pytest.raises(Refused, match="revision r1 is already squashed; squash the revisions after it"):
        squash(TWO[0], squash(*TWO))


def test_a_barrier() -> None:
    with pytest.raises(Refused, match="revision r0 cannot be squashed: it has no migrate"):
        squash(script("r0", "", ""))


def test_a_future_beside_something_else() -> None:
    with pytest.raises(
        Refused, match="line 1 imports from __future__ beside another statement; put each on its own line"
    ):
        squash("from __future__ import annotations; import sys\n" + TWO[0])


def test_what_is_written_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a Python cut strings in a way that is not known here, nothing wrong is written."""
    source = script("r0", 'X = """a\nb"""\nvalue = lambda: X\n')
    squash(source)
    monkeypatch.setattr(render, "_within_strings", lambda text: set())
    with pytest.raises(Refused, match="its text cannot be moved into a function as it is; format the script"):
        squash(source)


def test_the_way_back_outlives_its_module() -> None:
    source = script("r0", "import math\nclass A:\n    x = math.pi\ndef value():\n    return A.x, helper()\n")
    up_only = "import threading\nLOCK = threading.Lock()\ndef migrate(ckpt):\n    with LOCK:\n        return ckpt\n"
    text = squash(
        source + "def helper():\n    return 1\n", script("r1", up_only, "def rollback(ckpt):\n    return ckpt\n")
    )
    for index, code in enumerate([text, text + tail(0), text + tail(1)]):
        pickled = cloudpickle.dumps(module(code).rollback)
        rollback = cloudpickle.loads(pickled)
        start = {"seen": [1], "undone": []}
        assert rollback(copy.deepcopy(start)) == module(code).rollback(copy.deepcopy(start))
        assert (rollback(copy.deepcopy(start)) == start) == (index == 2)


# Scripts as nobody would write them: strings of any text, spelled in any way, at any depth.

TEXTS = st.text(
    st.one_of(
        st.sampled_from("\n\n\n\t\f  \"'\\{}#x"),
        st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"),
    ),
    max_size=40,
)


@st.composite
def literals(draw: st.DrawFn) -> str:
    """Draw a spelling of some string."""
    text, quote = draw(TEXTS), draw(st.sampled_from(['"""', "'''"]))
    prefix = draw(st.sampled_from(["", "r", "u", "f", "b", "rb", "rf"]))
    if "b" in prefix:
        text = text.encode("ascii", "ignore").decode()
    if "r" in prefix:
        text = text.replace("\\", "/").replace(quote[0], "-")
    text = text.replace("\\", "\\\\").replace(quote[0], f"\\{quote[0]}")
    if "f" in prefix:
        fields = ["{0!r}", "{ 1 }", "{(2,\n 3)}", "{(4\n  ) = }", "{5:>{6}}"]
        text = text.replace("{", "{{").replace("}", "}}") + draw(st.sampled_from(fields)) + "\n  "
    spelled = f"{prefix}{quote}{text}{quote}"
    if draw(st.booleans()):
        spelled = f"({spelled}\n{' ' * draw(st.integers(0, 9))}# beside\n)"
    return spelled


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw the rest of a script, and its comments."""
    lines, notes = [], []
    names = draw(st.lists(st.sampled_from(["A", "B", "sum", "größe", "value_"]), min_size=1, max_size=4, unique=True))
    for name in names:
        indent = draw(st.sampled_from(["", "\t", "  ", "    ", "        "]))
        notes.append(f"# note {draw(st.integers(0, 99))} Ω")
        lines += draw(st.lists(st.sampled_from(["", "\f", "  ", f"{indent}{notes[-1]}"]), max_size=3))
        lines.append(notes[-1])
        place = draw(st.sampled_from(["top", "if", "def", "class"])) if indent else "top"
        value = draw(literals())
        if place == "top":
            lines.append(f"{name} = {value}  {notes[-1]}")
        elif place == "if":
            lines += ["if True:", f"{indent}{name} = \\", value]
        elif place == "def":
            lines += [f"def {name}(x={value}):", f"{indent}return x, {value}"]
        else:
            lines += [f"class {name}_:", f"{indent}x = {value}", f"{name} = {name}_.x"]
    values = ", ".join(f"{name}() if callable({name}) else {name}" for name in names)
    lines.append(f"value = lambda: ({values})")
    return "\n".join(lines), notes


@given(st.lists(scripts(), min_size=1, max_size=3), st.sampled_from(["\n", "\r\n", "\r"]))
def test_it_does_the_same_whatever_it_is_made_of(bodies: list[tuple[str, list[str]]], end: str) -> None:
    sources = [script(f"r{place}", body).replace("\n", end) for place, (body, _) in enumerate(bodies)]
    text = check_same(*sources)
    for _, notes in bodies:
        for note in notes:
            assert note in text


@given(st.lists(st.sampled_from(sorted(ALIKE)), min_size=2, max_size=4))
def test_scripts_do_not_meet(chosen: list[str]) -> None:
    check_same(*(script(f"r{place}", ALIKE[what]) for place, what in enumerate(chosen)))
