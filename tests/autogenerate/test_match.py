"""What lies between two checkpoints is found out, and operations that lead from one to the other."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.autogenerate.explain import Explanation, explain
from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.autogenerate.simulate import leads_to
from anemoi_ckpt_migrate.operations.base import Operation

# Tensors small enough to be lists.


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    data: tuple[Any, ...]
    dtype: str = "float32"

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr((self.dtype, self.data)).encode()).hexdigest()

    @property
    def T(self) -> Tensor:  # noqa: N802
        return permute(self, (1, 0))

    def at(self, index: Sequence[int]) -> Any:
        place = 0
        for size, each in zip(self.shape, index, strict=True):
            place = place * size + each
        return self.data[place]


def made(shape: Sequence[int], value: Callable[[tuple[int, ...]], Any], dtype: str) -> Tensor:
    return Tensor(tuple(shape), tuple(map(value, itertools.product(*map(range, shape)))), dtype)


def permute(tensor: Tensor, order: Sequence[int]) -> Tensor:
    def value(index: tuple[int, ...]) -> Any:
        return tensor.at([index[list(order).index(dim)] for dim in range(len(order))])

    return made([tensor.shape[dim] for dim in order], value, tensor.dtype)


def narrow(tensor: Tensor, dim: int, start: int, size: int) -> Tensor:
    shape = (*tensor.shape[:dim], size, *tensor.shape[dim + 1 :])
    return made(shape, lambda at: tensor.at((*at[:dim], at[dim] + start, *at[dim + 1 :])), tensor.dtype)


def select(tensor: Tensor, dim: int, index: int) -> Tensor:
    shape = (*tensor.shape[:dim], *tensor.shape[dim + 1 :])
    return made(shape, lambda at: tensor.at((*at[:dim], index, *at[dim:])), tensor.dtype)


def reshape(tensor: Tensor, *shape: int) -> Tensor:
    return Tensor(shape, tensor.data, tensor.dtype)


def cast(tensor: Tensor, dtype: str) -> Tensor:
    return Tensor(tensor.shape, tuple(int(value) // 8 * 8 for value in tensor.data), dtype)


def cat(*tensors: Tensor, dim: int = 0) -> Tensor:
    rows = [(tensor, index) for tensor in tensors for index in range(tensor.shape[dim])]
    shape = (*tensors[0].shape[:dim], len(rows), *tensors[0].shape[dim + 1 :])

    def value(at: tuple[int, ...]) -> Any:
        tensor, index = rows[at[dim]]
        return tensor.at((*at[:dim], index, *at[dim + 1 :]))

    return made(shape, value, tensors[0].dtype)


def stack(*tensors: Tensor, dim: int = 0) -> Tensor:
    shape = (*tensors[0].shape[:dim], len(tensors), *tensors[0].shape[dim:])
    return made(shape, lambda at: tensors[at[dim]].at((*at[:dim], *at[dim + 1 :])), tensors[0].dtype)


Model = dict[str, Tensor]


class Lists:
    """Answers questions about content, and counts them."""

    def __init__(self, old: Model, new: Model) -> None:
        self.old, self.new, self.asked = old, new, 0

    def same(self, kind: str, args: tuple[Any, ...], old: Sequence[str], new: str, steps: Sequence[Any] = ()) -> bool:
        self.asked += 1
        made = {"permute": permute, "narrow": narrow, "select": select, "cast": cast}
        tensors = [self.old[name] for name in old]
        if kind == "cat":
            found = cat(*tensors, dim=args[0])
        elif kind == "stack":
            found = stack(*tensors, dim=args[0])
        elif kind == "reshape":
            found = reshape(tensors[0], *args[0])
        else:
            found = made[kind](tensors[0], *args)
        for step, arg in steps:
            found = reshape(found, *arg) if step == "reshape" else made[step](found, arg)
        return found == self.new[new]

    def holds(self, new: str, starts: Sequence[int], old: str) -> bool:
        found = self.new[new]
        for dim, (start, size) in enumerate(zip(starts, self.old[old].shape, strict=True)):
            found = narrow(found, dim, start, size)
        return found == self.old[old]

    def is_part(self, new: str, starts: Sequence[int], old: str) -> bool:
        found = self.old[old]
        for dim, (start, size) in enumerate(zip(starts, self.new[new].shape, strict=True)):
            found = narrow(found, dim, start, size)
        return found == self.new[new]


class Weights:
    """Makes tensors, no two of which are the same."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def __call__(self, *shape: int, dtype: str = "float32") -> Tensor:
        return Tensor(shape, tuple(self.random.randrange(1 << 20) for _ in range(math.prod(shape))), dtype)


def zeros(*shape: int) -> Tensor:
    return Tensor(shape, (0,) * math.prod(shape))


def items(model: Model, with_digests: bool) -> list[Item]:
    return [Item(name, one.shape, one.dtype, one.digest if with_digests else None) for name, one in model.items()]


def explained(old: Model, new: Model, with_digests: bool) -> Explanation:
    contents = Lists(old, new) if with_digests else None
    before, after = items(old, with_digests), items(new, with_digests)
    found = explain(before, after, contents)
    check(found, before, after)
    if contents is not None:
        assert contents.asked <= 8 * (len(old) + len(new))
    return found


def check(found: Explanation, old: list[Item], new: list[Item]) -> None:
    assert leads_to([guess.operation for guess in found.operations], old, new)
    assert sorted(name for change in found.changes for name in change.old) == sorted(item.name for item in old)
    assert sorted(name for change in found.changes for name in change.new) == sorted(item.name for item in new)
    assert 0 <= found.related <= 1


def listed(found: Explanation) -> list[Operation]:
    return [guess.operation for guess in found.operations]


def kinds(found: Explanation) -> dict[str, int]:
    return dict(Counter(change.kind for change in found.changes))


both = pytest.mark.parametrize("with_digests", [True, False], ids=["content", "names"])


# A transformer, as GPT-2 names it, with Conv1D: weights lie the other way around.


def gpt2(blocks: int = 3, width: int = 4) -> Model:
    new = Weights()
    model = {"transformer.wte.weight": new(11, width), "transformer.wpe.weight": new(7, width)}
    for i in range(blocks):
        at = f"transformer.h.{i}"
        model |= {
            f"{at}.ln_1.weight": new(width),
            f"{at}.ln_1.bias": zeros(width),
            f"{at}.attn.c_attn.weight": new(width, 3 * width),
            f"{at}.attn.c_attn.bias": new(3 * width),
            f"{at}.attn.c_proj.weight": new(width, width),
            f"{at}.attn.c_proj.bias": zeros(width),
            f"{at}.ln_2.weight": new(width),
            f"{at}.ln_2.bias": zeros(width),
            f"{at}.mlp.c_fc.weight": new(width, 4 * width),
            f"{at}.mlp.c_fc.bias": new(4 * width),
            f"{at}.mlp.c_proj.weight": new(4 * width, width),
            f"{at}.mlp.c_proj.bias": zeros(width),
        }
    return model | {"transformer.ln_f.weight": new(width), "transformer.ln_f.bias": zeros(width)}


def linears(blocks: int = 3, query: int = 4, key: int = 4, bias: bool = False) -> Model:
    new = Weights()
    model = {"embed.weight": new(9, 4)}
    for i in range(blocks):
        for name, size in (("q_proj", query), ("k_proj", key), ("v_proj", key), ("o_proj", query)):
            model[f"layers.{i}.attn.{name}.weight"] = new(4, query) if name == "o_proj" else new(size, 4)
            if bias:
                model[f"layers.{i}.attn.{name}.bias"] = new(4 if name == "o_proj" else size)
        model[f"layers.{i}.mlp.up.weight"] = new(12, 4)
        model[f"layers.{i}.mlp.down.weight"] = new(4, 12)
        model[f"layers.{i}.norm.weight"] = new(4)
    return model | {"head.weight": new(9, 4)}


def renamed(model: Model, how: Callable[[str], str]) -> Model:
    return {how(name): tensor for name, tensor in model.items()}


def with_blocks(model: Model, number: Callable[[int], int]) -> Model:
    return renamed(model, lambda name: re.sub(r"\.h\.(\d+)", lambda found: f".h.{number(int(found[1]))}", name))


def fused(model: Model, parts: Sequence[str], whole: str) -> Model:
    """Put parts of one module together, where the first of them stands."""
    new: Model = {}
    for name, tensor in model.items():
        if f".{parts[0]}." in name:
            new[name.replace(parts[0], whole)] = cat(*(model[name.replace(parts[0], part)] for part in parts))
        elif not any(f".{part}." in name for part in parts):
            new[name] = tensor
    return new


QKV = ["q_proj", "k_proj", "v_proj"]


# Nothing, or next to nothing.


@both
def test_nothing_changed(with_digests: bool) -> None:
    found = explained(gpt2(), gpt2(), with_digests)
    assert listed(found) == []
    assert set(kinds(found)) == {"same"}
    assert found.related == 1


@both
def test_nothing_at_all(with_digests: bool) -> None:
    assert explained({}, {}, with_digests).related == 1
    assert explained({}, gpt2(1), with_digests).related == 0
    assert listed(explained(gpt2(1), {}, with_digests)) == [op.Drop("*")]


def test_other_values() -> None:
    old, new = linears(), linears() | {"head.weight": Weights()(9, 4)}
    found = explained(old, new, True)
    assert listed(found) == []
    assert [change.new for change in found.changes if change.kind == "changed"] == [("head.weight",)]


# Other names.


@both
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.encoder."])
def test_wrapped(with_digests: bool, prefix: str) -> None:
    plain, wrapped = gpt2(), renamed(gpt2(), lambda name: prefix + name)
    found = explained(wrapped, plain, with_digests)
    assert listed(found) == [op.StripPrefix(prefix)]
    assert found.operations[0].confidence == 1
    assert listed(explained(plain, wrapped, with_digests)) == [op.AddPrefix(prefix)]


@both
def test_blocks_numbered_from_zero(with_digests: bool) -> None:
    found = explained(with_blocks(gpt2(), lambda i: i + 1), gpt2(), with_digests)
    assert listed(found) == [op.RenamePrefix(f"transformer.h.{i + 1}.", f"transformer.h.{i}.") for i in range(3)]
    assert (found.operations[0].confidence == 1) is with_digests


def test_block_inserted_in_the_middle() -> None:
    """What comes after it is renamed from the last one down, so that no two ever have the same name."""
    old = gpt2()
    new: Model = {}
    for name, tensor in with_blocks(old, lambda i: i + (i > 0)).items():
        if ".h.2." in name and not any(".h.1." in each for each in new):
            inner = {each: value for each, value in old.items() if ".h.0." in each}
            weights = Weights()
            weights.random.seed(1)
            new |= {
                each.replace(".h.0.", ".h.1."): weights(*value.shape) if any(value.data) else value
                for each, value in inner.items()
            }
        new[name] = tensor
    found = explained(old, new, True)
    assert listed(found)[:2] == [
        op.RenamePrefix("transformer.h.2.", "transformer.h.3."),
        op.RenamePrefix("transformer.h.1.", "transformer.h.2."),
    ]
    assert kinds(found) == {"same": 16, "renamed": 24, "added": 12}
    assert len(found.operations) == 2 + 12

    back = explained(new, old, True)
    assert listed(back) == [
        op.Drop("transformer.h.1.*"),
        op.RenamePrefix("transformer.h.2.", "transformer.h.1."),
        op.RenamePrefix("transformer.h.3.", "transformer.h.2."),
    ]

    lost = explained(new, old, False)
    assert listed(lost) == [op.Drop("transformer.h.3.*")]
    assert lost.operations[0].confidence < 1

    # Without content, it may as well be the last one, and that is said.
    blind = explained(old, new, False)
    assert kinds(blind) == {"same": 40, "added": 12}
    assert all(
        guess.confidence < 1 and "only the values could show that" in guess.alternatives[0]
        for guess in blind.operations
    )


@both
def test_two_renames_at_once(with_digests: bool) -> None:
    new = renamed(linears(), lambda name: name.replace(".attn.", ".attention.").replace("_proj.", "_projection."))
    found = explained(linears(), new, with_digests)
    assert listed(found) == [
        op.RenamePrefix("layers.{i}.attn.", "layers.{i}.attention."),
        op.RenameRegex(r"_proj\b", "_projection"),
    ]


@both
def test_names_of_a_leaf(with_digests: bool) -> None:
    weights = Weights()
    old = {f"norm_{i}.{leaf}": weights(i + 2) for i in range(3) for leaf in ("gamma", "beta")}
    new = renamed(old, lambda name: name.replace("gamma", "weight").replace("beta", "bias"))
    assert len(explained(old, new, with_digests).operations) == 2


def test_names_that_change_places() -> None:
    weights = Weights()
    old = {f"{module}.{leaf}": weights(2, 3) for module in "ab" for leaf in ("w", "x", "y")}
    new = {f"{other}.{leaf}": old[f"{module}.{leaf}"] for module, other in ("ab", "ba") for leaf in ("w", "x", "y")}
    found = listed(explained(old, new, True))
    assert found == [op.RenamePrefix("a.", "b__."), op.RenamePrefix("b.", "a."), op.RenamePrefix("b__.", "b.")]


@both
def test_names_that_read_as_patterns(with_digests: bool) -> None:
    weights = Weights()
    old = {"a*b": weights(2), "{x}.w": weights(3), "": weights(1), "c": weights(4)}
    explained(old, {"": weights(1), "a*b": old["a*b"], "d{z}": old["{x}.w"], "*": old["c"]}, with_digests)


# Order.


@both
def test_two_modules_swapped(with_digests: bool) -> None:
    weights = Weights()
    old = {f"{module}.{leaf}": weights(size) for size, module in enumerate("xaby", 2) for leaf in ("weight", "bias")}
    new = {f"{module}.{leaf}": old[f"{module}.{leaf}"] for module in "xbay" for leaf in ("weight", "bias")}
    found = explained(old, new, with_digests)
    assert listed(found) == [op.Reorder(["b.*", "a.*"])]
    assert kinds(found) == {"same": 6, "moved": 2}


@both
def test_two_modules_swapped_in_each_block(with_digests: bool) -> None:
    weights = Weights()
    old = {f"h.{i}.{module}.{leaf}": weights(3) for i in range(3) for module in "ab" for leaf in "wx"}
    new = {name: old[name] for i in range(3) for name in [f"h.{i}.{end}" for end in ("b.w", "b.x", "a.w", "a.x")]}
    assert listed(explained(old, new, with_digests)) == [op.Reorder(["h.{i}.b.*", "h.{i}.a.*"])]


# One of several, several of one.


@both
@pytest.mark.parametrize("bias", [False, True])
def test_fused_attention(with_digests: bool, bias: bool) -> None:
    apart = linears(bias=bias)
    leaves = ["weight", "bias"][: 1 + bias]
    parts = {leaf: [f"layers.{{i}}.attn.{part}.{leaf}" for part in QKV] for leaf in leaves}
    one = fused(apart, QKV, "qkv")
    found = explained(apart, one, with_digests)
    assert listed(found) == [op.Fuse(parts[leaf], f"layers.{{i}}.attn.qkv.{leaf}") for leaf in leaves]
    assert all((guess.confidence == 1) is with_digests for guess in found.operations)

    back = explained(one, apart, with_digests)
    assert listed(back)[: 1 + bias] == [op.Split(f"layers.{{i}}.attn.qkv.{leaf}", parts[leaf]) for leaf in leaves]
    assert len(back.operations) == 1 + 2 * bias  # all weights stand before all biases, until they are reordered


@both
def test_grouped_queries(with_digests: bool) -> None:
    apart = linears(query=8, key=2)
    parts = [f"layers.{{i}}.attn.{part}.weight" for part in QKV]
    one = fused(apart, QKV, "qkv")
    assert listed(explained(apart, one, with_digests)) == [
        op.Fuse(parts, "layers.{i}.attn.qkv.weight", sizes=[8, 2, 2])
    ]
    back = [op.Split("layers.{i}.attn.qkv.weight", parts, sizes=[8, 2, 2])]
    assert listed(explained(one, apart, with_digests)) == back


def test_content_says_in_which_order() -> None:
    apart = linears()
    one = fused(apart, ["v_proj", "q_proj", "k_proj"], "qkv")
    one = {name: one[name] for name in fused(apart, QKV, "qkv")}
    found = explained(apart, one, True)
    order = [f"layers.{{i}}.attn.{part}_proj.weight" for part in "vqk"]
    assert op.Fuse(order, "layers.{i}.attn.qkv.weight") in listed(found)


@both
def test_fused_in_renamed_blocks(with_digests: bool) -> None:
    one = renamed(fused(linears(), QKV, "qkv"), lambda name: name.replace("layers", "blocks").replace("o_proj", "out"))
    assert listed(explained(linears(), one, with_digests)) == [
        op.RenamePrefix("layers.", "blocks."),
        op.RenamePrefix("blocks.{i}.attn.o_proj.", "blocks.{i}.attn.out."),
        op.Fuse([f"blocks.{{i}}.attn.{part}.weight" for part in QKV], "blocks.{i}.attn.qkv.weight"),
    ]


def experts() -> tuple[Model, Model]:
    weights = Weights()
    apart, one = {"embed.weight": weights(9, 4)}, {}
    one["embed.weight"] = apart["embed.weight"]
    for i in range(2):
        at = f"layers.{i}.experts"
        sizes = {"up": (6, 4), "down": (4, 6)}
        apart |= {f"{at}.{e}.{name}.weight": weights(*shape) for e in range(3) for name, shape in sizes.items()}
        apart[f"layers.{i}.gate.weight"] = weights(3, 4)
        one |= {f"{at}.{name}": stack(*(apart[f"{at}.{e}.{name}.weight"] for e in range(3))) for name in sizes}
        one[f"layers.{i}.gate.weight"] = apart[f"layers.{i}.gate.weight"]
    return apart, one


@both
def test_experts_stacked(with_digests: bool) -> None:
    apart, one = experts()
    sides = [(f"layers.{{i}}.experts.{{j}}.{name}.weight", f"layers.{{i}}.experts.{name}") for name in ("up", "down")]
    assert listed(explained(apart, one, with_digests)) == [op.Stack([part], whole) for part, whole in sides]
    back = listed(explained(one, apart, with_digests))
    assert back[:2] == [op.Unstack(whole, [part]) for part, whole in sides]
    assert [type(each) for each in back[2:]] == [op.Reorder]  # all of one expert, then all of the next


# Other shapes, other dtypes.


@both
def test_convolution_to_linear(with_digests: bool) -> None:
    weights = Weights()
    old = {f"blocks.{i}.proj.weight": weights(6, 4, 1, 1) for i in range(3)} | {"head.weight": weights(5, 4)}
    new = {name: reshape(tensor, *tensor.shape[:2]) for name, tensor in old.items()}
    found = explained(old, new, with_digests)
    assert listed(found) == [op.Reshape("blocks.*", [6, 4])]
    assert found.changes[0].detail == "[6, 4, 1, 1] -> [6, 4]"


NAMES = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
    "transformer.h": "blocks",
    "transformer.wte": "tokens",
    "transformer.wpe": "positions",
    "transformer.ln_f": "norm",
}


def linear_name(name: str) -> str:
    for old, new in NAMES.items():
        name = re.sub(rf"(?<![^.]){re.escape(old)}(?=\.)", new, name)
    return name


def turned(model: Model) -> Model:
    return {name: tensor.T if ".c_" in name and len(tensor.shape) == 2 else tensor for name, tensor in model.items()}


TURNED = ["attention.qkv.weight", "attention.out.weight", "mlp.up.weight", "mlp.down.weight"]


@both
def test_conv1d_transposed_and_renamed(with_digests: bool) -> None:
    found = explained(gpt2(), renamed(turned(gpt2()), linear_name), with_digests)
    assert len(found.operations) == 9
    assert listed(found)[-1] == op.Transpose([f"blocks.{{i}}.{name}" for name in TURNED])
    assert kinds(found) == {"renamed": 28, "transposed": 12}
    square = next(guess for guess in found.operations if isinstance(guess.operation, op.Transpose))
    if not with_digests:  # that of attention.out does not show in its shape
        assert any("square" in words for words in square.alternatives)
        assert square.confidence < 1


@both
def test_conv1d_split_and_renamed(with_digests: bool) -> None:
    new: Model = {}
    for name, tensor in renamed(turned(gpt2()), linear_name).items():
        if ".qkv." in name:
            size = tensor.shape[0] // 3
            new |= {name.replace("qkv", part): narrow(tensor, 0, at * size, size) for at, part in enumerate(QKV)}
        else:
            new[name] = tensor
    found = explained(gpt2(), new, with_digests)
    leaves = {leaf: [f"blocks.{{i}}.attention.{part}.{leaf}" for part in QKV] for leaf in ("weight", "bias")}
    assert op.Split("transformer.h.{i}.attn.c_attn.weight", leaves["weight"], dim=1) in listed(found)
    assert op.Split("transformer.h.{i}.attn.c_attn.bias", leaves["bias"]) in listed(found)
    assert listed(found)[-1] == op.Transpose([*leaves["weight"], *(f"blocks.{{i}}.{name}" for name in TURNED[1:])])
    assert len(found.operations) == 10


@both
def test_cast(with_digests: bool) -> None:
    steps = {"steps": Tensor((), (3,), "int64")}
    new = {name: cast(tensor, "bfloat16") for name, tensor in linears().items()} | steps
    found = explained(linears() | steps, new, with_digests)
    assert listed(found) == [op.Cast("*", "bfloat16")]
    assert found.changes[0].detail == "float32 -> bfloat16"


@both
def test_some_cast(with_digests: bool) -> None:
    new = {name: cast(one, "float16") if "attn" in name else one for name, one in linears().items()}
    assert listed(explained(linears(), new, with_digests)) == [op.Cast("layers.{i}.attn.*", "float16")]


# Gone, and new.


@both
def test_adapters_merged(with_digests: bool) -> None:
    weights, old, new = Weights(), {}, {}
    weights.random.seed(2)
    for name, tensor in linears().items():
        inner = f"base_model.model.{name}"
        adapted = "q_proj" in name or "v_proj" in name
        old[inner.replace(".weight", ".base_layer.weight") if adapted else inner] = tensor
        if adapted:
            old[inner.replace(".weight", ".lora_A.default.weight")] = weights(2, tensor.shape[1])
            old[inner.replace(".weight", ".lora_B.default.weight")] = weights(tensor.shape[0], 2)
        new[name] = weights(*tensor.shape) if adapted else tensor
    found = explained(old, new, with_digests)
    assert listed(found) == [
        op.Drop(["*.lora_A.*", "*.lora_B.*"]),
        op.StripPrefix("base_model.model."),
        op.StripPrefix("base_layer.", anywhere=True),
    ]
    assert found.operations[2].confidence < 1
    assert "product" in found.operations[2].alternatives[0]


@both
def test_tied_head_removed(with_digests: bool) -> None:
    old = linears() | {"head.weight": linears()["embed.weight"]}
    new = {name: tensor for name, tensor in old.items() if name != "head.weight"}
    assert listed(explained(old, new, with_digests)) == [op.Drop("head.weight")]
    found = explained(new, old, with_digests)
    assert listed(found) == [op.Add("head.weight", [9, 4])]
    assert found.operations[0].alternatives == (
        ("head.weight: it has the values of embed.weight",) if with_digests else ()
    )


def test_tied_weights_renamed() -> None:
    """Both have the same content, and are told apart by their names."""
    old = linears() | {"head.weight": linears()["embed.weight"]}
    new = renamed(old, lambda name: name.replace("embed", "token_embedding").replace("head", "lm_head"))
    found = explained(old, new, True)
    assert {change.old + change.new for change in found.changes if change.kind == "renamed"} == {
        ("embed.weight", "token_embedding.weight"),
        ("head.weight", "lm_head.weight"),
    }


@both
def test_buffers_gone(with_digests: bool) -> None:
    weights, old = Weights(), {}
    for name, tensor in gpt2().items():
        old[name] = tensor
        if name.endswith("attn.c_proj.bias"):
            old[name.replace("c_proj.bias", "mask")] = weights(1, 1, 7, 7)
            old[name.replace("c_proj.bias", "masked_bias")] = weights(1)
    found = explained(old, gpt2(), with_digests)
    masks = ["transformer.h.{i}.attn.mask", "transformer.h.{i}.attn.masked_bias"]
    assert listed(found) == [op.Drop(masks, keep=True)]
    assert found.losses == ()
    assert listed(explained(gpt2(), old, with_digests)) == [
        op.Add("transformer.h.{i}.attn.mask", [1, 1, 7, 7], after="transformer.h.{i}.attn.c_proj.bias"),
        op.Add("transformer.h.{i}.attn.masked_bias", [1], after="transformer.h.{i}.attn.mask"),
    ]


@both
def test_head_of_another_size(with_digests: bool) -> None:
    found = explained(linears(), linears() | {"head.weight": Weights()(7, 4)}, with_digests)
    assert listed(found) == [op.Crop("head.weight", 2)]
    assert found.operations[0].confidence == (0.6 if with_digests else 0.9)
    assert "it shrank from [9, 4] to [7, 4]" in found.operations[0].alternatives[0]
    assert found.losses == ()


@both
def test_head_of_another_kind(with_digests: bool) -> None:
    found = explained(linears(), linears() | {"head.weight": Weights()(7, 4, 3)}, with_digests)
    assert listed(found) == [op.Drop("head.weight"), op.Add("head.weight", [7, 4, 3])]
    assert "its shape was [9, 4]" in found.operations[1].alternatives[0]
    assert found.losses == ("head.weight is dropped",)


@both
def test_head_that_grew_and_shrank(with_digests: bool) -> None:
    found = explained(linears(), linears() | {"head.weight": Weights()(11, 3)}, with_digests)
    assert listed(found) == [op.Crop("head.weight", 1, dim=1), op.Pad("head.weight", 2)]
    assert all(guess.confidence < 1 for guess in found.operations)
    assert "it grew and shrank from [9, 4] to [11, 3]" in found.operations[0].alternatives[0]


@both
def test_head_that_grew(with_digests: bool) -> None:
    """Other values beside the same weights are less certain to be the old ones, trained."""
    found = explained(linears(), linears() | {"head.weight": Weights()(13, 4)}, with_digests)
    assert listed(found) == [op.Pad("head.weight", 4)]
    assert found.operations[0].confidence == (0.6 if with_digests else 0.9)
    assert "it grew from [9, 4] to [13, 4]" in found.operations[0].alternatives[0]
    assert found.losses == ()


@both
def test_unrelated(with_digests: bool) -> None:
    weights = Weights()
    found = explained(linears(), {f"conv{i}.kernel": weights(3, i + 2, 5) for i in range(6)}, with_digests)
    assert [type(each) for each in listed(found)] == [op.Drop] + [op.Add] * 6
    assert found.related == 0


# Doubts.


def test_as_likely_as_another() -> None:
    """Nothing but the order speaks for one or the other."""
    weights = Weights()
    old, new = {"foo.w": weights(2, 3), "bar.w": weights(2, 3)}, {"one.w": weights(2, 3), "two.w": weights(2, 3)}
    found = explained(old, new, False)
    assert kinds(found) == {"renamed": 2}
    assert all(change.confidence <= 0.5 and change.alternatives for change in found.changes)
    assert all(guess.confidence <= 0.5 and "as likely" in guess.alternatives[0] for guess in found.operations)


def test_dropped_or_renamed() -> None:
    """A name that has nothing in common with what is gone is a guess, too."""
    weights = Weights()
    old = linears() | {"alpha": weights(7)}
    new = linears() | {"zeta.x.y.z": weights(7)}
    found = explained(old, new, False)
    assert min(guess.confidence for guess in found.operations) < 1
    assert kinds(explained(old, new, True)) == {"same": 23, "dropped": 1, "added": 1}


# Anything.

PARTS = ["a", "b", "enc", "attn", "q_proj", "k_proj", "v_proj", "qkv", "0", "1", "2", "10", "weight", "layer_0", "w1"]
SHAPES = [(), (1,), (2,), (4,), (2, 3), (3, 2), (2, 2), (4, 2), (6, 2), (2, 4, 1, 1), (0,)]
paths = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map(".".join)


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(paths, unique=True, max_size=12),
    others=st.lists(paths, unique=True, max_size=14),
    seed=st.integers(0, 1 << 16),
    dtypes=st.booleans(),
)
def test_whatever_happened(names: list[str], others: list[str], seed: int, dtypes: bool) -> None:
    """What was renamed at random, put in another order, turned, dropped and added is explained in some way."""
    chance, weights = random.Random(seed), Weights()
    old: Model = {}
    for name in names:
        dtype = chance.choice(["float32", "bfloat16", "int64"]) if dtypes else "float32"
        old[name] = weights(*chance.choice(SHAPES), dtype=dtype) if chance.random() < 0.7 else zeros(2)
    kept = [name for name in names if chance.random() < 0.8]
    chance.shuffle(kept)
    new: Model = {}
    for name, other in itertools.zip_longest(kept, others):
        tensor = old[name] if name is not None else weights(*chance.choice(SHAPES))
        if len(tensor.shape) == 2 and chance.random() < 0.1:
            tensor = tensor.T
        target = name if other is None or (name is not None and chance.random() < 0.3) else other
        new.setdefault(target, tensor)
    for with_digests in (True, False):
        explained(old, new, with_digests)
