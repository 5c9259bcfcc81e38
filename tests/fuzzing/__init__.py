"""Damaged and hostile checkpoints by the thousand, made of sound ones, and what reading and rewriting does with each.

    python -m tests.fuzzing 20000       # so many inputs, other ones each time
    python -m tests.fuzzing 20000 7     # the same inputs each time
    python -m tests.fuzzing 0           # until it is interrupted

An input is a `Recipe`: a sound checkpoint, and changes of its pickle, its archive and its bytes. Hypothesis draws
recipes, and makes those that bring something wrong to light as small as it can. Another process tries them out, so that
a crash is one more result. What counts as wrong: any exception but `MigrateError`; anything run or imported that the
file names; a crash; too much time or memory; a changed input, or something left beside it; a rewritten file that holds
something else than the first did.
"""

# ruff: noqa: F403  (a recipe spells itself in names of all of these)

from tests.fuzzing.changes import *
from tests.fuzzing.commands import *
from tests.fuzzing.hunt import *
from tests.fuzzing.journey import *
from tests.fuzzing.objects import *
from tests.fuzzing.places import *
from tests.fuzzing.prefixes import *
from tests.fuzzing.recipes import *
from tests.fuzzing.records import *
from tests.fuzzing.workbench import *
