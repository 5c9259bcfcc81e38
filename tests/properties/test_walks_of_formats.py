"""Random walks in every format: operations and functions on real files, compared with plain torch after each command."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import anemoi_ckpt_migrate as cm
from tests.support.project import Folder

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")

WALKS, REVISIONS, MOVES = int(os.environ.get("WALKS", "4")), 8, 8
State = dict[str, Any]
NAMES = ("a.weight", "a.b.weight", "é 'x' \"y\"", "h.0.q", "h.1.q", "t\tab\\", "$tensor", "~0", "=a.weight", "0")
SHAPES = ((), (0, 3), (4, 6), (4, 6), (2, 6), (6,), (3, 4, 2), (40, 60))
DTYPES = ("float64", "bfloat16", "float16", "float8_e4m3fn", "int64", "int8", "bool", "complex64", *["float32"] * 6)
WIDER = {"bfloat16": "float32", "float16": "float32", "float32": "float64", "int8": "int64"}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

SCRIPT = """from anemoi_ckpt_migrate import MigrationMetadata, op
revision = {rev!r}
down_revision = {before!r}
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})


def flip(ckpt):
    params = ckpt["model"] if "model" in ckpt else ckpt
    for name in {changed!r}:
        params[name].copy_(params[name].clone().flip(0))
    for name in {made!r}:
        params[name] = params[name].flip(0)
    return ckpt


operations = [{operations}]
"""


class Chain:
    """Scripts with random operations, and the state dict before and after each of them."""

    def __init__(self, project: Folder, draw: random.Random) -> None:
        self._draw, self._count = draw, 0
        names = draw.sample(NAMES, draw.randint(5, len(NAMES)))
        self.states: list[State] = [{name: self._tensor() for name in names}]
        for number in range(REVISIONS):
            state = dict(self.states[-1])
            drawn = [draw.choice(self._operations)(self, state, draw.choice(list(state))) for _ in range(3)]
            flipped: tuple[list[str], list[str]] = [], []
            if draw.random() < 0.4:
                can = [
                    name for name, each in state.items() if each.numel() and each.dim() and _name(each)[:6] != "float8"
                ]
                for name in draw.sample(can, min(2, len(can))):
                    draw.choice(flipped).append(name)
                    state[name] = state[name].flip(0)
                drawn.append("op.Run(flip, flip)")
            text = SCRIPT.format(
                rev=f"r{number}",
                before=f"r{number - 1}" if number else None,
                changed=flipped[0],
                made=flipped[1],
                operations=", ".join(filter(None, drawn)),
            )
            (project.path / "versions" / f"r{number}.py").write_text(text)
            self.states.append(state)

    def _tensor(self) -> Any:
        shape, dtype = self._draw.choice(SHAPES), self._draw.choice(DTYPES)
        numbers = [self._draw.randrange(2 if dtype == "bool" else 100) for _ in range(torch.Size(shape).numel())]
        return torch.tensor(numbers).reshape(shape).to(getattr(torch, dtype))

    def _new(self) -> str:
        self._count += 1
        return f"new.{self._count}{self._draw.choice(['', ' x', 'é', '.weight'])}"

    # Each changes the state, and returns the operation that does so; or it does neither, if it does not fit the tensor.

    def _rename(self, state: State, name: str) -> str:
        new = self._new()
        state[new] = state.pop(name)
        return f"op.Rename({name!r}, {new!r})"

    def _swap(self, state: State, name: str) -> str:
        other = self._draw.choice(list(state))
        if other == name:
            return ""
        state[name], state[other] = state[other], state[name]
        return f"op.RenameEach({{{name!r}: {other!r}, {other!r}: {name!r}}})"

    def _join(self, state: State, name: str) -> str:
        value, kind = state[name], self._draw.choice(["Fuse", "Stack"])
        like = [key for key, each in state.items() if (each.dtype, each.shape) == (value.dtype, value.shape)]
        if len(like) < 2 or (kind == "Fuse" and not value.dim()):
            return ""
        sources, new = self._draw.sample(like, self._draw.randint(2, len(like))), self._new()
        dim = self._draw.randrange(value.dim() + (kind == "Stack"))
        join = torch.cat if kind == "Fuse" else torch.stack
        state[new] = moved(lambda *parts: join(parts, dim), *[state.pop(each) for each in sources])
        return f"op.{kind}({sources!r}, {new!r}, dim={dim})"

    def _split(self, state: State, name: str) -> str:
        even = [dim for dim, size in enumerate(state[name].shape) if size and size % 2 == 0]
        if not even:
            return ""
        dim, value, new = self._draw.choice(even), state.pop(name), [self._new(), self._new()]
        state |= {each: moved(lambda whole, at=at: whole.chunk(2, dim)[at], value) for at, each in enumerate(new)}
        return f"op.Split({name!r}, {new!r}, dim={dim})"

    def _drop(self, state: State, name: str) -> str:
        if len(state) < 4:
            return ""
        del state[name]
        return f"op.Drop({name!r}, keep=True)"

    def _add(self, state: State, name: str) -> str:
        new = self._new()
        state[new] = torch.full((2, 3), 1.5, dtype=torch.bfloat16)
        return f"op.Add({new!r}, [2, 3], 'bfloat16', fill=1.5)"

    def _cast(self, state: State, name: str) -> str:
        wider = WIDER.get(_name(state[name]))
        if wider is None:
            return ""
        state[name] = state[name].to(getattr(torch, wider))
        return f"op.Cast({name!r}, {wider!r})"

    def _narrow(self, state: State, name: str) -> str:
        if _name(state[name]) not in ("float32", "float64"):
            return ""
        state[name] = state[name].to(torch.bfloat16)
        return f"op.Cast({name!r}, 'bfloat16', keep=True)"

    def _transpose(self, state: State, name: str) -> str:
        if state[name].dim() < 2:
            return ""
        state[name] = moved(lambda value: value.transpose(0, 1), state[name])
        return f"op.Transpose({name!r}, 0, 1)"

    def _reshape(self, state: State, name: str) -> str:
        state[name] = state[name].reshape(-1)
        return f"op.Reshape({name!r}, [{state[name].numel()}])"

    def _pad(self, state: State, name: str) -> str:
        value = state[name]
        if not value.dim() or _name(value) not in ("float32", "bfloat16"):
            return ""
        state[name] = torch.cat([value, torch.zeros(2, *value.shape[1:], dtype=value.dtype)])
        return f"op.Pad({name!r}, 2)"

    _operations = (
        _rename, _swap, _join, _join, _split, _drop, _drop, _add, _cast, _narrow, _transpose, _reshape, _pad,
    )  # fmt: skip


def _name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def moved(function: Callable[..., Any], *values: Any) -> Any:
    """Apply a function that only moves elements; torch lacks some of these for float8."""
    numbers = [each.contiguous().view(INTEGERS[each.element_size()]) for each in values]
    return function(*numbers).contiguous().view(values[0].dtype)


class Format(NamedTuple):
    """A format: functions of its library that save a state dict and load it strictly, and options to write it."""

    save: Callable[[State, Path, random.Random], Path]
    load: Callable[[Path], State]
    options: tuple[str, ...]


def save_file(state: State, path: Path, draw: random.Random) -> Path:
    library.save_file({name: value.clone() for name, value in state.items()}, path / "m.safetensors")
    return path / "m.safetensors"


def save_torch(state: State, path: Path, draw: random.Random) -> Path:
    torch.save({"model": dict(state)}, path / "m.pt")
    return path / "m.pt"


def save_distributed(state: State, path: Path, draw: random.Random) -> Path:
    from tests.support.distributed import save

    content = {name: value.clone() for name, value in state.items()}
    return save(draw.choice([content, {"model": content, "epoch": 3}]), path / "dcp")


def load_distributed(folder: Path) -> State:
    from tests.support.distributed import as_one_file

    found = as_one_file(folder)
    return dict(found.get("model", found))


def save_huggingface(state: State, path: Path, draw: random.Random) -> Path:
    def save(part: State, file: Path) -> None:
        library.save_file({name: value.clone() for name, value in part.items()}, file)

    return _save_shards(state, path, draw, "model", "safetensors", save)


def save_bin(state: State, path: Path, draw: random.Random) -> Path:
    def save(part: State, file: Path) -> None:
        torch.save({name: draw.choice([_whole, _strided, _view])(value) for name, value in part.items()}, file)

    return _save_shards(state, path, draw, "pytorch_model", "bin", save)


def _whole(value: Any) -> Any:
    return value


def _strided(value: Any) -> Any:
    return value.transpose(0, -1).contiguous().transpose(0, -1) if value.dim() > 1 else value


def _view(value: Any) -> Any:
    return value[None].expand(2, *value.shape).contiguous()[1]


def _save_shards(
    state: State, path: Path, draw: random.Random, stem: str, ending: str, save: Callable[[State, Path], None]
) -> Path:
    folder, count, names = path / draw.choice(["hf", "h f", "it's", "new\nline"]), draw.randint(1, 3), list(state)
    folder.mkdir()
    draw.shuffle(names)
    files: dict[str, str] = {}
    for number in range(count):
        file, part = f"{stem}-{number + 1:05}-of-{count:05}.{ending}", names[number::count]
        save({name: state[name] for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in state.values())
    (folder / f"{stem}.{ending}.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": files})
    )
    return folder


def load_shards(folder: Path) -> State:
    (index,) = folder.glob("*.index.json")
    data = json.loads(index.read_bytes())
    found: State = {}
    for file in sorted(set(data["weight_map"].values())):
        is_torch = file.endswith(".bin")
        part = torch.load(folder / file, weights_only=True) if is_torch else library.load_file(folder / file)
        assert sorted(part) == sorted(name for name, home in data["weight_map"].items() if home == file)
        found |= part
    assert data["metadata"]["total_size"] == sum(value.nbytes for value in found.values())
    assert {each.name for each in folder.glob("*model*-of-*")} == set(data["weight_map"].values())
    return found


FOLDER = ("--no-backup", "--hard-link", "--max-shard-size=1KB", "--verify")
FORMATS = {
    "torch": Format(save_torch, lambda path: torch.load(path, weights_only=True)["model"], ("--in-place", "--verify")),
    "safetensors": Format(save_file, library.load_file, ("--in-place", "--in-place", "--verify")),
    "huggingface": Format(save_huggingface, load_shards, FOLDER),
    "bin": Format(save_bin, load_shards, FOLDER),
    "distributed": Format(save_distributed, load_distributed, ("--no-backup", "--verify")),
}


def same(found: State, wanted: State) -> None:
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        pair = [each.contiguous().reshape(-1).view(torch.uint8) for each in (found[name], value)]
        assert torch.equal(*pair), name


@pytest.mark.parametrize("seed", range(WALKS))
@pytest.mark.parametrize("name", FORMATS)
def test_walk(project: Folder, name: str, seed: int) -> None:
    draw, form = random.Random(f"{name} {seed}"), FORMATS[name]
    chain = Chain(project, draw)
    path, at = form.save(chain.states[0], project.path, draw), 0
    for _ in range(MOVES):
        to = draw.randint(0, REVISIONS)
        words = [
            *draw.choices(form.options, k=draw.randint(0, 1)),
            *["--check-rollback"] * (draw.random() < 0.2 and to > at),
        ]
        ran = project.run("upgrade" if to >= at else "downgrade", f"r{to - 1}" if to else "base", path, *words)
        print(at, to, words, ran.code, ran.err)  # shown if the walk fails
        # Only a change in place may be refused: a file of safetensors does not have room for all of them.
        assert ran.code == 0 or (name == "safetensors" and "leave out --in-place" in ran.err)
        at = to if ran.code == 0 else at
        same(form.load(path), chain.states[at])
        ahead = cm.load(path)
        same(ahead.get("model", ahead), chain.states[-1])
