"""Real refactorings: state dicts of models before and after, with the same weights. Used by tests and a benchmark."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

States = OrderedDict[str, torch.Tensor]
REFACTORINGS: dict[str, Callable[[], tuple[States, States]]] = {}


def refactoring(make: Callable[[], tuple[States, States]]) -> Callable[[], tuple[States, States]]:
    REFACTORINGS[make.__name__.replace("_", " ")] = make
    return make


class Block(nn.Module):
    """A block of a transformer, with attention in three layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("q", "k", "v", "proj")})
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc": nn.Linear(width, 4 * width), "proj": nn.Linear(4 * width, width)})


class Decoder(nn.Module):
    """A small transformer."""

    def __init__(self, layers: int = 12, width: int = 16) -> None:
        super().__init__()
        self.wte = nn.Embedding(50, width)
        self.wpe = nn.Embedding(20, width)
        self.h = nn.ModuleList(Block(width) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, 50, bias=False)


def decoder(layers: int = 12) -> States:
    torch.manual_seed(0)
    model = Decoder(layers)
    with torch.no_grad():
        for parameter in model.parameters():  # as after training: no two alike
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return OrderedDict(model.state_dict())


def named(states: States, *pairs: tuple[str, str]) -> States:
    """Replace parts of names."""
    found: States = OrderedDict()
    for name, value in states.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name] = value
    return found


def fused(states: States, width: int = 0, dim: int = 0) -> States:
    """Put q, k and v together, where q stood."""
    found: States = OrderedDict()
    for name, value in states.items():
        if ".attn.q." in name:
            found[name.replace(".q.", ".qkv.")] = torch.cat([states[name.replace(".q.", f".{n}.")] for n in "qkv"], dim)
        elif ".attn.k." not in name and ".attn.v." not in name:
            found[name] = value
    return found


@refactoring
def blocks_renumbered() -> tuple[States, States]:
    old = decoder(4)
    return old, OrderedDict(
        (name.replace("h.", "h.1") if name.startswith("h.") else name, v) for name, v in old.items()
    )


@refactoring
def block_inserted() -> tuple[States, States]:
    """A new block 2: what was 2 is 3, and so on."""
    old, new = decoder(5), OrderedDict()
    for name, value in old.items():
        parts = name.split(".")
        if parts[0] == "h" and int(parts[1]) >= 2:
            parts[1] = str(int(parts[1]) + 1)
        if name == "h.2.ln_1.weight":
            new |= {n.replace("h.0", "h.2"): torch.randn_like(v) for n, v in old.items() if n.startswith("h.0.")}
        new[".".join(parts)] = value
    return old, new


@refactoring
def wrapped_in_DDP() -> tuple[States, States]:  # noqa: N802
    old = decoder()
    return old, OrderedDict((f"module.{name}", value) for name, value in old.items())


@refactoring
def unwrapped_from_compile() -> tuple[States, States]:
    old = decoder()
    return OrderedDict((f"_orig_mod.{name}", value) for name, value in old.items()), old


@refactoring
def attention_fused() -> tuple[States, States]:
    old = decoder()
    return old, fused(old)


@refactoring
def attention_split() -> tuple[States, States]:
    old = decoder()
    new: States = OrderedDict()
    for name, value in (before := fused(old)).items():
        if ".qkv." in name:
            new |= {name.replace("qkv", n): part.clone() for n, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            new[name] = value
    return before, new


@refactoring
def convolutions_to_linear() -> tuple[States, States]:
    torch.manual_seed(0)
    old = nn.Sequential(*(nn.Conv2d(6, 6, 1) for _ in range(4)), nn.Conv2d(6, 3, 3)).state_dict()
    new = OrderedDict((k, v.flatten(1).clone() if v.shape[2:] == (1, 1) else v) for k, v in old.items())
    return OrderedDict(old), new


@refactoring
def modules_swapped() -> tuple[States, States]:
    """The norm before the attention now comes behind it."""
    old, new = decoder(), OrderedDict()
    for name in old:
        if ".ln_1." in name:
            continue
        new[name] = old[name]
        if name.endswith("attn.proj.bias"):
            lead = name.removesuffix("attn.proj.bias")
            new |= {f"{lead}ln_1.{leaf}": old[f"{lead}ln_1.{leaf}"] for leaf in ("weight", "bias")}
    return old, new


@refactoring
def GPT_2_to_another_scheme() -> tuple[States, States]:  # noqa: N802
    """GPT-2's Conv1D holds weights transposed, and q, k, v in one: to linear layers of other names."""
    states = fused(decoder())
    turned = [n for n in states if n.startswith("h.") and states[n].ndim == 2]
    hf = OrderedDict((n, states[n].t().contiguous() if n in turned else states[n]) for n in states)
    old = named(
        hf,
        ("attn.qkv", "attn.c_attn"),
        ("attn.proj", "attn.c_proj"),
        ("mlp.fc", "mlp.c_fc"),
        ("mlp.proj", "mlp.c_proj"),
    )
    old = OrderedDict((f"transformer.{n}" if n != "head.weight" else "lm_head.weight", v) for n, v in old.items())
    new = named(
        states, ("h.", "blocks."), ("ln_1", "norm1"), ("ln_2", "norm2"), ("mlp.fc", "mlp.up"), ("mlp.proj", "mlp.down")
    )
    return old, new


@refactoring
def LoRA_merged_away() -> tuple[States, States]:  # noqa: N802
    new, old = decoder(), OrderedDict()
    for name, value in new.items():
        if ".attn.q." in name or ".attn.v." in name:
            lead, _, leaf = name.rpartition(".")
            old[f"{lead}.base_layer.{leaf}"] = value
            if leaf == "bias":
                old[f"{lead}.lora_A.default.weight"] = torch.randn(4, 16)
                old[f"{lead}.lora_B.default.weight"] = torch.randn(16, 4)
        else:
            old[name] = value
    return old, new


@refactoring
def tied_head_removed() -> tuple[States, States]:
    old = decoder()
    old["head.weight"] = old["wte.weight"]
    return old, OrderedDict((name, value) for name, value in old.items() if name != "head.weight")


@refactoring
def experts_stacked() -> tuple[States, States]:
    torch.manual_seed(0)
    old: States = OrderedDict()
    new: States = OrderedDict()
    for layer in range(3):
        old[f"layers.{layer}.gate.weight"] = new[f"layers.{layer}.gate.weight"] = torch.randn(12, 8)
        for n, shape in (("w1", (16, 8)), ("w2", (8, 16))):
            for expert in range(12):
                old[f"layers.{layer}.experts.{expert}.{n}.weight"] = torch.randn(shape)
        new |= {
            f"layers.{layer}.experts.{n}": torch.stack(
                [old[f"layers.{layer}.experts.{e}.{n}.weight"] for e in range(12)]
            )
            for n in ("w1", "w2")
        }
    return old, new


@refactoring
def buffers_gone() -> tuple[States, States]:
    new, old = decoder(), OrderedDict()
    for name, value in new.items():
        old[name] = value
        if name.endswith("attn.proj.bias"):
            old[name.replace("proj.bias", "mask")] = torch.ones(20, 20).tril().bool()
    return old, new


@refactoring
def two_renames_at_once() -> tuple[States, States]:
    old = decoder()
    return old, named(old, ("h.", "layers."), ("ln_", "norm_"))


@refactoring
def cast_to_half() -> tuple[States, States]:
    old = decoder()
    return old, OrderedDict((name, value.bfloat16()) for name, value in old.items())


@refactoring
def grouped_queries_fused() -> tuple[States, States]:
    """q of 16 rows, k and v of 4: parts of unequal sizes."""
    torch.manual_seed(0)
    old: States = OrderedDict()
    new: States = OrderedDict()
    for layer in range(4):
        lead = f"model.layers.{layer}.self_attn."
        own = {f"{lead}{n}_proj.weight": torch.randn(rows, 16) for n, rows in (("q", 16), ("k", 4), ("v", 4))}
        old |= own
        new[f"{lead}qkv_proj.weight"] = torch.cat(list(own.values()))
        old[f"{lead}o_proj.weight"] = new[f"{lead}o_proj.weight"] = torch.randn(16, 16)
    return old, new
