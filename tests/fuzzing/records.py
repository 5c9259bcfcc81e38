"""Records that somebody wrote who means harm, in checkpoints that were upgraded."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st

from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.operations.kinds import all_kinds, kind_of
from anemoi_ckpt_migrate.record.embed import ATTACHMENT, KEY
from anemoi_ckpt_migrate.runtime.carried_code import PYTHON
from anemoi_ckpt_migrate.state.stash import packed
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, opaque_name
from tests.fuzzing.changes import Change, Entry, Zip, change, drawn, picked
from tests.fuzzing.commands import KNOWN, OUTPUT, STRANGE, Command, reading, run, write_projects, writing
from tests.fuzzing.objects import CANARY
from tests.fuzzing.recipes import DATA, _apart

assert op  # which makes all kinds of operations known
CLASS = "my.models.Config"  # of an object in the checkpoints, whose name is harmless

# What a record may say, each by a name: recipes spell only that.
_SOURCE = f"import {CANARY}\n{CANARY}.call()\ndef plant(ckpt):\n    return ckpt\nrollback = halve = migrate = plant\n"
_PICKLE = f"c{CANARY}\ncall\n(S'true'\ntR.".encode()


def _laughs(levels: int) -> list[Any]:
    """Return a list of a few entries that would take two to the power of `levels` to be written out."""
    found: list[Any] = ["ha"]
    for _ in range(levels):
        found = [found, found]
    return found


def _nested(levels: int, inner: Any, around: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        inner = around(inner)
    return inner


def _apart_from(inner: Any) -> Any:
    return {"op": "PerCopy", "operations": [inner], "others": {}}


def _system() -> Any:
    return opaque_name("posix", "system", Calls())


_CALLS = [{"op": "Run", "migrate": "plant", "rollback": "plant"}]
_TEXTS = {
    "names": "x.weight y.weight y.bias y.new norm.weight tied.weight state_dict epoch note hyper_parameters",
    "patterns": "y. * y.* {i} {i}.{j} {i}{j}{k}{l}{m}{n} **** y.*.*.*.*.*.*.*.* {*} { state_dict.*",
    "expressions": r"(a+)+$ (x|x)*y ((.*)*)*z (?P<a>.)(?P=a) [ \1 .*.*.*.*.*.*",
    "functions": "plant system double halve migrate rollback os.system __import__ eval plant.__globals__",
    "classes": f"{CLASS} my my.models posix.system os builtins.eval __builtin__.getattr {CANARY}.call {CANARY} torch",
    "dtypes": "float32 bfloat16 complex128 int64 object torch.float32 float8_e4m3fn",
    "initialisers": "ones_ normal_ xavier_uniform_ orthogonal_ trunc_normal_ __class__ os.system",
    "records": f"{KEY} data.pkl {ATTACHMENT} ckpt_migrate/previous.json ../x version about.json",
    "revisions": "a1 a2 a3 a4 b1 base head",
}
_SIZES = [0, 1, 2, 9, -1, 1 << 20, 1 << 31, 1 << 40, 1 << 62, 1 << 64, 10**5000]
_SHAPES = [[], [2], [0], [-1], [2, 3], [1] * 70, [1 << 20, 1 << 20], [1 << 62] * 3, [3000, 3000], [10**400], [1 << 40]]
GROUPS: dict[str, dict[str, Any]] = {
    **{group: {word: word for word in words.split()} for group, words in _TEXTS.items()},
    "sizes": {f"{str(size)[:20]} long {len(str(size))}": size for size in _SIZES[:-1]},
    "shapes": {f"shape {number}": shape for number, shape in enumerate(_SHAPES)},
    "paths": {
        "at the top": [],
        "note": ["note"],
        "object": ["object"],
        "epoch": ["epoch"],
        "weights": ["state_dict"],
        "record": [KEY],
        "within the record": [KEY, "lineage", 0],
        "lr": ["optimizer_states", 0, "param_groups", 0, "lr"],
        "stars": ["*", "*"],
        "long": ["a"] * 1000,
        "minus": ["optimizer_states", -1],
    },
    "operations": {
        "calls": _CALLS,
        "nothing": [{"op": "NoOperation"}],
        "moves": [{"op": "MoveClass", "old": CLASS, "new": "posix.system"}],
        "sets": [{"op": "SetItem", "path": ["planted"], "value": 1}],
        "deep": [_nested(400, {"op": "NoOperation"}, _apart_from)],
        "many": [{"op": "NoOperation"}] * 3000,
        "at, within": [{"op": "At", "paths": ["object"], "operations": _CALLS}],
        "a record": [
            {"op": "RestoreEntry", "record": "about.json", "path": [], "number": 0, "digest": "", "operations": _CALLS}
        ],
    },
    "lists": {
        "both": ["y.weight", "y.bias"],
        "twice": ["y.weight", "y.weight"],
        "pairs": [["y.weight", "z.weight"], ["y.bias", "y.weight"]],
        "class pairs": [[CLASS, "posix.system"], ["my", "os"]],
        "dangerous": ["posix.system", f"{CANARY}.call"],
        "places": [["y.weight", None]],
        "items": {"y.weight": 0, "y.bias": 1},
        "mapped": {"1": "posix.system", "None": None},
        "restored": [["z.weight", 0, None], ["q", 1 << 40, "y.weight"]],
        "names to numbers": [["y.weight", 0], ["y.bias", 7]],
    },
    "odd": {
        "None": None,
        "True": True,
        "False": False,
        "half": 0.5,
        "not a number": float("nan"),
        "infinite": float("inf"),
        "endless": 10**5000,
        "complex": 1j,
        "empty": "",
        "text": "text",
        "control": "a\0b\x1b[31m\r\n\u202e",
        "surrogate": "\ud800",
        "long text": "x" * 100_000,
        "bytes": b"\xff\0",
        "empty list": [],
        "empty dict": {},
        "numbers": {1: 2, None: 3},
        "set": {1, 2},
        "tuple": ((1,), ("a",)),
        "laughs": _laughs(60),
        "deep list": _nested(400, 0, lambda inner: [inner]),
        "deep dict": _nested(400, 0, lambda inner: {"a": inner}),
        "call": _system()("touch planted"),
        "class": _system(),
        "source": _SOURCE,
        "pickle": base64.b64encode(_PICKLE).decode(),
        "python": PYTHON,
    },
}
VALUES = {f"{group}: {name}": value for group, values in GROUPS.items() for name, value in values.items()}
_FITTING = {  # groups of values that a field of an operation is likely to take
    "names patterns lists": "keys source sources target targets old new prefix pattern replacement key after names group",
    "paths names": "path under new paths",
    "sizes": "size dim dim0 dim1 at number heads parts block index",
    "shapes": "shape sizes dims",
    "dtypes": "dtype to",
    "functions": "migrate rollback",
    "operations": "operations",
    "classes": "old new name",
    "lists": "items gone classes modules names values others renamed added dropped removed restored places groups",
    "initialisers": "init",
    "records": "record",
    "expressions": "pattern replacement",
}

# Changes of a record.


@change
def undo_with(record: Any, number: int, operations: tuple[Any, ...], more: tuple[tuple[str, str], ...]) -> None:
    """Have something else undo a revision: operations, each a kind and its fields, and what else it says."""
    record["format"] = 1
    undo = {"source": "", "python": None, "pickle": None, "parameters": None}
    undo["operations"] = [
        {"op": kind, **{name: VALUES[value] for name, value in fields}} for kind, fields in operations
    ]
    lineage = record["lineage"] if type(record["lineage"]) is list else []
    entries = [entry for entry in lineage if type(entry) is dict]  # an earlier change may have put in something else
    if not entries:
        return
    entry = entries[number % len(entries)]
    entry["undo"] = undo | {name: VALUES[value] for name, value in more}


@change
def put_in(record: Any, number: int, value: str) -> None:
    """Replace some part of the record."""
    holder, key = _part(record, number)
    holder[key] = VALUES[value]


@change
def take_out(record: Any, number: int) -> None:
    """Remove some part of the record."""
    holder, key = _part(record, number)
    del holder[key]


@change
def say_twice(record: Any, number: int) -> None:
    """Have a list hold some part of the record twice, or a dict under another key too."""
    holder, key = _part(record, number)
    if isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder["another key"] = holder[key]


@change
def exchange_parts(record: Any, one: int, other: int) -> None:
    """Exchange two parts of the record, which may be within each other."""
    (holder, key), (another, place) = _part(record, one), _part(record, other)
    holder[key], another[place] = another[place], holder[key]


@change
def put_aside(record: Any, revision: str, value: str) -> None:
    """Have the record keep something that no operation put aside."""
    record["format"] = 1
    hidden = packed([VALUES[value]], []) if value.startswith("odd: c") else [VALUES[value]]
    record["stash"] = {VALUES[revision]: hidden}


def _part(record: Any, number: int) -> tuple[Any, Any]:
    parts = list(_parts(record))
    return parts[number % len(parts)] if parts else (record, "format")


def _parts(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Give each part of a record as what holds it and where; not the deepest, and not endlessly many."""
    pairs = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
    for key, part in list(pairs)[:50]:
        yield value, key
        if depth < 8:
            yield from _parts(part, depth + 1)


# Recipes.

SOUND = {  # checkpoints, and how far they are upgraded
    "with functions": ("training.ckpt", "a3"),
    "with operations": ("training.ckpt", "a2"),
    "plain": ("plain.pt", "a1"),  # whose record lies beside the pickle
    "state dict": ("state_dict.pt", "a1"),
}
TEXTS = [
    b"",
    b"{",
    b"null",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"format": 1e999}',
    b'{"format": NaN}',
    b'{"format": ' + b"9" * 10_000 + b"}",
    b'{"format": 1, "format": 1}',
    b"\xff\xfe",
    b'"\\ud800"',
    b"[" + b"0," * 100_000 + b"0]",
]


@functools.cache
def _upgraded() -> tuple[Any, dict[str, Path]]:
    """Upgrade checkpoints; returns the folder too, which lives as long as this does."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-records-")
    root = Path(folder.name)
    write_projects(root)
    found = {}
    for name, (sound, target) in SOUND.items():
        found[name] = Path(shutil.copy(DATA / sound, root / f"{name}.ckpt"))
        with open_checkpoint(found[name]) as file:
            tree = file.load()
            if "state_dict" in tree:
                tree["object"] = opaque_name(*CLASS.rsplit(".", 1), Calls())("touch planted")
            file.write(file.pickled(tree), {}, backup=False)
        code, _, err = run("-c", str(root / KNOWN), "upgrade", target, str(found[name]), "--no-backup")
        assert code == 0, err
    return folder, found


@dataclass(frozen=True)
class Attack:
    """A recipe: an upgraded checkpoint, changes of its record, and a command. Its `repr` is the code that makes it.

    Attributes
    ----------
    sound : str
        A key of `SOUND`.
    changes : tuple of Change
        Changes of the record.
    text : int or None
        Which of `TEXTS` stands where a record beside the pickle does, if one is to.
    words : tuple of str
        A command.
    project : str
        As in `Command`.
    """

    sound: str
    changes: tuple[Change, ...]
    text: int | None
    words: tuple[str, ...]
    project: str = KNOWN

    kind: ClassVar[str] = "record"
    tensors: ClassVar[bool] = False
    beside: ClassVar[tuple[tuple[str, str], ...]] = ()

    @property
    def walk(self) -> Command:
        """What is done with the input."""
        return Command(self.words, self.project)

    def build(self) -> bytes:
        """Make the file."""
        path = _upgraded()[1][self.sound]
        archive: Zip = _apart(path.read_bytes())
        beside = next((entry for entry in archive.entries if entry.name.endswith(ATTACHMENT.encode())), None)
        if self.text is not None:
            beside = beside or _added(archive)
            beside.content = TEXTS[self.text]
        elif beside is not None:
            record = json.loads(beside.content)
            self._change(record)
            beside.content = _json(record)
        else:
            with open_checkpoint(path) as file:
                tree = file.load()
                holder = tree if KEY in tree else tree._metadata
                self._change(holder[KEY])
                archive.pickle().content = file.pickled(tree).data
        return archive.build()

    def _change(self, record: Any) -> None:
        for apply in self.changes:
            if type(record.get("lineage")) is list and record["lineage"]:
                apply(record)


def _json(value: Any) -> bytes:
    """Spell a value as JSON, as far as that is possible, and no more than a megabyte or so."""
    pieces = []
    with contextlib.suppress(ValueError):  # in circles; an integer of too many digits
        for piece in itertools.islice(json.JSONEncoder(default=repr, skipkeys=True).iterencode(value), 100_000):
            pieces.append(piece)
    return "".join(pieces).encode()


def _added(archive: Zip) -> Entry:
    archive.entries.append(Entry(archive.root + b"/" + ATTACHMENT.encode(), b""))
    return archive.entries[-1]


def attacks() -> st.SearchStrategy[Attack]:
    """Draw such recipes."""
    number = st.integers(0, 300).map(lambda drawn_: (drawn_ * 97 + 41) % 301)  # 0, drawn often, is nothing special
    value = picked(sorted(VALUES))
    operations = st.lists(_operations(), min_size=1, max_size=3).map(tuple)
    code = (("source", "odd: source"), ("pickle", "odd: pickle"), ("python", "odd: python"))
    more = picked(
        [(), (), (), (), code, code[1:], code[:1], (("parameters", "names: state_dict"),), (("lost", "odd: text"),)]
    )
    undo = drawn(undo_with, st.integers(0, 2), operations, more)
    changes = st.one_of(
        *[undo] * 5,
        drawn(put_in, number, value),
        drawn(put_in, number, value),
        drawn(take_out, number),
        drawn(say_twice, number),
        drawn(exchange_parts, number, number),
        drawn(put_aside, picked(["revisions: a1", "revisions: a2", "revisions: a3", "odd: None"]), value),
    )
    down = [
        ("downgrade", "base"),
        ("downgrade", "-1"),
        ("downgrade", "base", "--in-place"),
        ("downgrade", "base", "-o", OUTPUT),
    ]
    words = [*down * 6, *(each for each in writing() if each[0] != "compact"), *reading()]
    words = [(*each, "--no-backup") if _backs_up(each) else each for each in words]
    text = st.one_of(*[st.none()] * 8, st.integers(0, len(TEXTS) - 1))
    some = st.lists(changes, min_size=1, max_size=3).map(tuple)
    return drawn(Attack, picked(sorted(SOUND)), some, text, picked(words), picked([KNOWN, KNOWN, STRANGE]))


def _backs_up(words: tuple[str, ...]) -> bool:
    return words[0] in ("upgrade", "downgrade", "sync", "stamp") and not {
        "-o",
        "--dry-run",
        "--in-place",
        "--no-backup",
    } & {*words}


_TYPICAL = """
MoveClass old=object new=classes|MoveModule old=module new=classes|MoveNames classes=pairs|TakePlaceholders names=dangerous
Run migrate=functions|Rewrite migrate=functions rollback=functions path=paths|Derive migrate=functions rollback=functions
Add key=names shape=shapes dtype=dtypes|Add key=names shape=shapes init=initialisers|Pad keys=weight size=sizes
Pad keys=weight size=sizes dim=sizes init=initialisers|Cut keys=weight size=sizes at=sizes|Interleave keys=weight parts=sizes
Rename old=patterns new=patterns|Rename old=names new=names|RenameRegex pattern=expressions replacement=expressions
At paths=paths operations=operations|Apart operations=operations others=items|SetItem path=paths value=odd
UnsetItem path=paths value=odd had=true number=zero|PutItem path=paths number=zero before=none placed=no|Reshape keys=weight shape=shapes
RecordBack record=records path=top operations=operations number=zero digest=text|CopyItem path=paths new=paths
ParameterGroups groups=pairs own_order=items|ConvertItem path=paths to=classes|Drop keys=patterns|Cast keys=patterns dtype=dtypes
Regroup groups=pairs own_order=items|Regroup groups=pairs kept=zero|Untrain names=patterns|Train names=patterns group=zero
ChangeOptimizer to=text defaults=items|RestoreTrained items=back|RestoreStates source=text names=pairs kept=zero
"""
_WORDS = {
    "object": f"classes: {CLASS}",
    "module": "classes: my",
    "pairs": "lists: class pairs",
    "dangerous": "lists: dangerous",
    "items": "lists: items",
    "weight": "names: y.weight",
    "true": "odd: True",
    "no": "odd: False",
    "none": "odd: None",
    "back": "lists: restored",
    "zero": "sizes: 0 long 1",
    "top": "paths: at the top",
    "text": "odd: text",
}


def _operations() -> st.SearchStrategy[Any]:
    """Draw operations of all kinds: such as do harm, and others; the fields of these fit mostly, or are not there."""
    kinds = picked([*all_kinds(), "Explode"]).flatmap(lambda kind: st.tuples(st.just(kind), _fields(kind)))
    return st.one_of(kinds, picked(_TYPICAL.strip().replace("\n", "|").split("|")).flatmap(_typical))


@functools.cache
def _typical(text: str) -> st.SearchStrategy[Any]:
    kind, *fields = text.split()
    pairs = (field.split("=") for field in fields)
    return st.tuples(st.just(kind), st.tuples(*(st.tuples(st.just(name), _meant(word)) for name, word in pairs)))


def _meant(word: str) -> st.SearchStrategy[str]:
    return picked([_WORDS[word]] if word in _WORDS else [value for value in VALUES if value.startswith(f"{word}: ")])


@functools.cache
def _fields(kind: str) -> st.SearchStrategy[Any]:
    found = kind_of(kind)
    names = [] if found is None else [each.name for each in dataclasses.fields(found)]  # type: ignore[arg-type]
    pairs = [st.one_of(*[st.tuples(st.just(name), _fitting(name))] * 9, st.none()) for name in names]
    extra = st.one_of(*[st.none()] * 9, st.just(("another", "odd: text")))
    return st.tuples(*pairs, extra).map(lambda drawn_: tuple(pair for pair in drawn_ if pair is not None))


def _fitting(name: str) -> st.SearchStrategy[str]:
    groups = {group for groups, names in _FITTING.items() if name in names.split() for group in groups.split()}
    fitting = [value for value in VALUES if value.partition(":")[0] in groups]
    odd = picked(sorted(VALUES))
    return (
        st.one_of(*[picked(fitting)] * 6, odd)
        if fitting
        else st.one_of(picked(["odd: False", "odd: True", "odd: None"]), odd)
    )
