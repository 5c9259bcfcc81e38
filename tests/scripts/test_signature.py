"""The signature says what a script does, not what it looks like, on every Python alike."""

from __future__ import annotations

import ast
import sys

import pytest

from anemoi_ckpt_migrate.scripts.signature import signature

SCRIPT = '''
"""rename x to y

Create Date: 2026-11-23
"""
from anemoi_ckpt_migrate import MigrationMetadata
revision = "a1"
down_revision: str = "a0"
metadata = MigrationMetadata(versions={"migration": "1.0.0"})

class Helper:
    """Helps."""
    size: int = 0x10

    @property
    def big(self, *, key=lambda v, /, *a: -v) -> "int":
        """Say so."""
        return self.size if self.size > 1_000 else 10 ** 40

async def later(): return [x async for x in y if x]

def migrate(ckpt, extra=(1, 2.5, 3j, b"\\x00", None, ...)):
    """Migrate."""
    name, width = "n", 3
    ckpt[f"{name!r:>{width}}é" "tail"] = f"{name=}" f"{{}}{width:.2f}" + 'q"uote'
    with open("a") as f, open("b"):
        match ckpt:
            case {"x": [1, *rest], **more} if rest: del ckpt["x"]
            case str() | None: pass
    try:
        for i in range(3): continue
        else: raise KeyError from None
    except (KeyError, ValueError) as error: print(*more, sep="", **{})
    finally: assert (n := 3), "no"
    return ckpt[1:2, ::3]
'''

LOOKS_DIFFERENT = '''
"""another name
"""
# a comment
from anemoi_ckpt_migrate import MigrationMetadata

revision = "b7"
down_revision = ("a0", "a9")
metadata = (
    MigrationMetadata(
        versions={'migration': "1.0.0",},  # trailing comma
    )
)


class Helper:
    size: int = 16

    @property
    def big(
        self, *, key=lambda v, /, *a: -v
    ) -> 'int':
        return (self.size if self.size > 1000 else 10 ** 40)


async def later():
    return [x async for x in y if x]


def migrate(ckpt, extra=(1, 2.5, 3j, b"\\0", None, ...,)):
    """Do it."""
    name, width = "n", 3
    ckpt[f'{name!r:>{width}}\\u00e9tail'] = f"{name=}{{}}{width:.2f}" + "q\\"uote"
    with open("a") as f, \\
            open("b"):
        match ckpt:
            case {"x": [1, *rest], **more} if rest:
                del ckpt["x"]
            case str() | None:
                pass
    try:
        for i in range(3):
            continue
        else:
            raise KeyError from None
    except (KeyError, ValueError) as error:
        print(*more, sep="", **{})
    finally:
        assert (n := 3), "no"
    return ckpt[1:2, ::3]
'''

# Computed once and kept: any Python, and any later version of this package, has to come to the same.
KNOWN = "23b7fe11439a73f89a874e4bb3dd4847fcf70e11aee112e3e41ce4a83b018302"


def test_looks_do_not_count() -> None:
    assert signature(ast.parse(SCRIPT)) == signature(ast.parse(LOOKS_DIFFERENT))


def test_it_is_the_same_on_every_python() -> None:
    assert signature(ast.parse(SCRIPT)) == KNOWN, sys.version


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 1_000", "> 1_001"),
        ('"x": [1', '"z": [1'),
        ("return ckpt[1", "return ckpt[2"),
        ("10 ** 40", "10 ** 41"),
        ("{width:.2f}", "{width:.3f}"),
        ("except (KeyError, ValueError)", "except (KeyError, TypeError)"),
        ('"1.0.0"', '"1.0.1"'),
        ("tail", "tale"),
        ("async for", "for"),
    ],
)
def test_what_it_does_counts(old: str, new: str) -> None:
    assert old in SCRIPT
    assert signature(ast.parse(SCRIPT)) != signature(ast.parse(SCRIPT.replace(old, new)))
