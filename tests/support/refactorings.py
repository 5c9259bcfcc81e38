"""Real refactorings: state dicts of models before and after, with the same weights. Used by tests and a benchmark."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

States = OrderedDict[str, torch.Tensor]
Make = Callable[..., tuple[States, States]]
"""Makes the parameters before and after, with the values of a seed."""
REFACTORINGS: dict[str, Make] = {}


def refactoring(make: Make) -> Make:
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


def decoder(layers: int = 12, seed: int = 0) -> States:
    torch.manual_seed(seed)
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
def blocks_renumbered(seed: int = 0) -> tuple[States, States]:
    old = decoder(4, seed)
    return old, OrderedDict(
        (name.replace("h.", "h.1") if name.startswith("h.") else name, v) for name, v in old.items()
    )


@refactoring
def block_inserted(seed: int = 0) -> tuple[States, States]:
    """A new block 2: what was 2 is 3, and so on."""
    old, new = decoder(5, seed), OrderedDict()
    for name, value in old.items():
        parts = name.split(".")
        if parts[0] == "h" and int(parts[1]) >= 2:
            parts[1] = str(int(parts[1]) + 1)
        if name == "h.2.ln_1.weight":
            new |= {n.replace("h.0", "h.2"): torch.randn_like(v) for n, v in old.items() if n.startswith("h.0.")}
        new[".".join(parts)] = value
    return old, new


@refactoring
def wrapped_in_DDP(seed: int = 0) -> tuple[States, States]:  # noqa: N802
    old = decoder(seed=seed)
    return old, OrderedDict((f"module.{name}", value) for name, value in old.items())


@refactoring
def unwrapped_from_compile(seed: int = 0) -> tuple[States, States]:
    old = decoder(seed=seed)
    return OrderedDict((f"_orig_mod.{name}", value) for name, value in old.items()), old


@refactoring
def attention_fused(seed: int = 0) -> tuple[States, States]:
    old = decoder(seed=seed)
    return old, fused(old)


@refactoring
def attention_split(seed: int = 0) -> tuple[States, States]:
    old = decoder(seed=seed)
    new: States = OrderedDict()
    for name, value in (before := fused(old)).items():
        if ".qkv." in name:
            new |= {name.replace("qkv", n): part.clone() for n, part in zip("qkv", value.chunk(3), strict=True)}
        else:
            new[name] = value
    return before, new


@refactoring
def convolutions_to_linear(seed: int = 0) -> tuple[States, States]:
    torch.manual_seed(seed)
    old = nn.Sequential(*(nn.Conv2d(6, 6, 1) for _ in range(4)), nn.Conv2d(6, 3, 3)).state_dict()
    new = OrderedDict((k, v.flatten(1).clone() if v.shape[2:] == (1, 1) else v) for k, v in old.items())
    return OrderedDict(old), new


@refactoring
def modules_swapped(seed: int = 0) -> tuple[States, States]:
    """The norm before the attention now comes behind it."""
    old, new = decoder(seed=seed), OrderedDict()
    for name in old:
        if ".ln_1." in name:
            continue
        new[name] = old[name]
        if name.endswith("attn.proj.bias"):
            lead = name.removesuffix("attn.proj.bias")
            new |= {f"{lead}ln_1.{leaf}": old[f"{lead}ln_1.{leaf}"] for leaf in ("weight", "bias")}
    return old, new


@refactoring
def GPT_2_to_another_scheme(seed: int = 0) -> tuple[States, States]:  # noqa: N802
    """GPT-2's Conv1D holds weights transposed, and q, k, v in one: to linear layers of other names."""
    states = fused(decoder(seed=seed))
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
def LoRA_merged_away(seed: int = 0) -> tuple[States, States]:  # noqa: N802
    new, old = decoder(seed=seed), OrderedDict()
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
def tied_head_removed(seed: int = 0) -> tuple[States, States]:
    old = decoder(seed=seed)
    old["head.weight"] = old["wte.weight"]
    return old, OrderedDict((name, value) for name, value in old.items() if name != "head.weight")


@refactoring
def experts_stacked(seed: int = 0) -> tuple[States, States]:
    torch.manual_seed(seed)
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
def buffers_gone(seed: int = 0) -> tuple[States, States]:
    new, old = decoder(seed=seed), OrderedDict()
    for name, value in new.items():
        old[name] = value
        if name.endswith("attn.proj.bias"):
            old[name.replace("proj.bias", "mask")] = torch.ones(20, 20).tril().bool()
    return old, new


@refactoring
def two_renames_at_once(seed: int = 0) -> tuple[States, States]:
    old = decoder(seed=seed)
    return old, named(old, ("h.", "layers."), ("ln_", "norm_"))


@refactoring
def cast_to_half(seed: int = 0) -> tuple[States, States]:
    old = decoder(seed=seed)
    return old, OrderedDict((name, value.bfloat16()) for name, value in old.items())


@refactoring
def grouped_queries_fused(seed: int = 0) -> tuple[States, States]:
    """q of 16 rows, k and v of 4: parts of unequal sizes."""
    torch.manual_seed(seed)
    old: States = OrderedDict()
    new: States = OrderedDict()
    for layer in range(4):
        lead = f"model.layers.{layer}.self_attn."
        own = {f"{lead}{n}_proj.weight": torch.randn(rows, 16) for n, rows in (("q", 16), ("k", 4), ("v", 4))}
        old |= own
        new[f"{lead}qkv_proj.weight"] = torch.cat(list(own.values()))
        old[f"{lead}o_proj.weight"] = new[f"{lead}o_proj.weight"] = torch.randn(16, 16)
    return old, new


# ------------------------------------------------------------------------- situations of public projects, rebuilt


def drawn(seed: int, **shapes: tuple[int, ...]) -> States:
    """Draw tensors; `__` in a name stands for a dot."""
    torch.manual_seed(seed)
    return OrderedDict((name.replace("__", "."), torch.randn(shape)) for name, shape in shapes.items())


def layers(seed: int, count: int, before: States, after: States, **shapes: tuple[int, ...]) -> States:
    """Draw the tensors of several layers (`N` in a name stands for the number), between others."""
    found: States = OrderedDict(before)
    for number in range(count):
        own = drawn(seed * 1000 + number, **shapes)
        found |= {name.replace("N", str(number)): value for name, value in own.items()}
    return OrderedDict([*found.items(), *after.items()])


def llama(seed: int, count: int = 4) -> States:
    """Llama's parameters, as its authors spell them; keys and values have fewer heads."""
    return layers(
        seed,
        count,
        drawn(seed, tok_embeddings__weight=(32, 16)),
        drawn(seed + 1, norm__weight=(16,), output__weight=(32, 16)),
        layers__N__attention__wq__weight=(16, 16),
        layers__N__attention__wk__weight=(8, 16),
        layers__N__attention__wv__weight=(8, 16),
        layers__N__attention__wo__weight=(16, 16),
        layers__N__feed_forward__w1__weight=(40, 16),
        layers__N__feed_forward__w2__weight=(16, 40),
        layers__N__feed_forward__w3__weight=(40, 16),
        layers__N__attention_norm__weight=(16,),
        layers__N__ffn_norm__weight=(16,),
    )


def vision(seed: int) -> States:
    """A vision transformer."""
    return layers(
        seed,
        4,
        drawn(
            seed,
            cls_token=(1, 1, 16),
            pos_embed=(1, 17, 16),
            patch_embed__proj__weight=(16, 3, 4, 4),
            patch_embed__proj__bias=(16,),
        ),
        drawn(seed + 1, norm__weight=(16,), norm__bias=(16,), head__weight=(10, 16), head__bias=(10,)),
        blocks__N__norm1__weight=(16,),
        blocks__N__norm1__bias=(16,),
        blocks__N__attn__qkv__weight=(48, 16),
        blocks__N__attn__qkv__bias=(48,),
        blocks__N__attn__proj__weight=(16, 16),
        blocks__N__attn__proj__bias=(16,),
        blocks__N__mlp__fc1__weight=(64, 16),
        blocks__N__mlp__fc1__bias=(64,),
        blocks__N__mlp__fc2__weight=(16, 64),
        blocks__N__mlp__fc2__bias=(16,),
    )


@refactoring
def Llama_as_transformers_spells_it(seed: int = 0) -> tuple[States, States]:  # noqa: N802
    old = llama(seed)
    pairs = {
        "tok_embeddings": "model.embed_tokens",
        "layers.": "model.layers.",
        ".attention.w": ".self_attn.",
        "self_attn.q.": "self_attn.q_proj.",
        "self_attn.k.": "self_attn.k_proj.",
        "self_attn.v.": "self_attn.v_proj.",
        "self_attn.o.": "self_attn.o_proj.",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "output.": "lm_head.",
    }
    new = named(old, *pairs.items())
    return old, OrderedDict(("model.norm.weight" if name == "norm.weight" else name, v) for name, v in new.items())


@refactoring
def gate_and_up_fused(seed: int = 0) -> tuple[States, States]:
    old, new = llama(seed), OrderedDict()
    for name, value in old.items():
        if ".w1." in name:
            new[name.replace("w1", "gate_up")] = torch.cat([value, old[name.replace("w1", "w3")]])
        elif ".w3." not in name:
            new[name] = value
    return old, new


@refactoring
def gate_and_up_split(seed: int = 0) -> tuple[States, States]:
    new, old = gate_and_up_fused(seed)
    return old, OrderedDict(sorted(new.items(), key=lambda pair: _place(pair[0], list(old))))


def _place(name: str, names: list[str]) -> tuple[int, str]:
    """Put split parts where the whole stood."""
    whole = name.replace("w1", "gate_up").replace("w3", "gate_up")
    return names.index(whole), name


@refactoring
def keys_and_values_fused(seed: int = 0) -> tuple[States, States]:
    old, new = llama(seed), OrderedDict()
    for name, value in old.items():
        if ".wk." in name:
            new[name.replace("wk", "wkv")] = torch.cat([value, old[name.replace("wk", "wv")]])
        elif ".wv." not in name:
            new[name] = value
    return old, new


@refactoring
def a_vision_transformer_as_torchvision_spells_it(seed: int = 0) -> tuple[States, States]:
    old = vision(seed)
    new = named(
        old,
        ("blocks.", "encoder.layers.encoder_layer_"),
        ("norm1", "ln_1"),
        ("attn.qkv.", "self_attention.in_proj_"),
        ("attn.proj", "self_attention.out_proj"),
        ("mlp.fc1", "mlp.0"),
        ("mlp.fc2", "mlp.3"),
        ("patch_embed.proj", "conv_proj"),
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("head.", "heads.head."),
    )
    return old, OrderedDict((f"encoder.ln.{n[5:]}" if n.startswith("norm.") else n, v) for n, v in new.items())


@refactoring
def one_more_channel_in_the_first_convolution(seed: int = 0) -> tuple[States, States]:
    old = vision(seed)
    first = old["patch_embed.proj.weight"]
    return old, OrderedDict(old, **{"patch_embed.proj.weight": torch.cat([first, torch.zeros(16, 1, 4, 4)], 1)})


@refactoring
def a_head_with_more_classes(seed: int = 0) -> tuple[States, States]:
    old = vision(seed)
    more = {name: torch.cat([old[name], torch.zeros(4, *old[name].shape[1:])]) for name in ("head.weight", "head.bias")}
    return old, OrderedDict(old, **more)


@refactoring
def a_larger_vocabulary(seed: int = 0) -> tuple[States, States]:
    old = llama(seed)
    both = ("tok_embeddings.weight", "output.weight")
    return old, OrderedDict(old, **{name: torch.cat([old[name], torch.zeros(8, 16)]) for name in both})


@refactoring
def shorter_positions(seed: int = 0) -> tuple[States, States]:
    old = decoder(4, seed)
    return old, OrderedDict(old, **{"wpe.weight": old["wpe.weight"][:12].clone()})


@refactoring
def an_old_layer_norm(seed: int = 0) -> tuple[States, States]:
    """gamma and beta, as the first BERT had them."""
    new = decoder(4, seed)
    norms = ("ln_1", "ln_2", "ln_f")
    old = OrderedDict(
        (name.replace("weight", "gamma").replace("bias", "beta") if any(n in name for n in norms) else name, value)
        for name, value in new.items()
    )
    return old, new


@refactoring
def weight_norm_parametrized(seed: int = 0) -> tuple[States, States]:
    old = layers(
        seed, 5, OrderedDict(), OrderedDict(), ups__N__bias=(8,), ups__N__weight_g=(8, 1, 1), ups__N__weight_v=(8, 4, 3)
    )
    pairs = (("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1"))
    return old, named(old, *pairs)


@refactoring
def multi_head_attention_taken_apart(seed: int = 0) -> tuple[States, States]:
    """in_proj_weight and in_proj_bias of torch become three layers."""
    shapes = {"in_proj_weight": (48, 16), "in_proj_bias": (48,), "out_proj__weight": (16, 16), "out_proj__bias": (16,)}
    old = layers(seed, 3, OrderedDict(), OrderedDict(), **{f"layers__N__attn__{n}": s for n, s in shapes.items()})
    new: States = OrderedDict()
    for number in range(3):
        lead = f"layers.{number}.attn."
        for part, weight, bias in zip(
            "qkv", old[f"{lead}in_proj_weight"].chunk(3), old[f"{lead}in_proj_bias"].chunk(3), strict=True
        ):
            new |= {f"{lead}{part}_proj.weight": weight.clone(), f"{lead}{part}_proj.bias": bias.clone()}
        new |= {name: value for name, value in old.items() if name.startswith(f"{lead}out_proj")}
    return old, new


@refactoring
def a_model_becomes_the_backbone_of_another(seed: int = 0) -> tuple[States, States]:
    old = vision(seed)
    new = OrderedDict((f"backbone.{name}", value) for name, value in old.items() if not name.startswith("head."))
    return old, new | {f"classifier.{name[5:]}": old[name] for name in ("head.weight", "head.bias")}


@refactoring
def numbers_become_names(seed: int = 0) -> tuple[States, States]:
    """The layers of a Sequential get names of their own."""
    old: States = OrderedDict()
    for number in range(4):
        width = 8 + number
        old |= drawn(seed * 10 + number, **{f"{2 * number}__weight": (width, 8), f"{2 * number}__bias": (width,)})
    pairs = {"0.": "stem.", "2.": "body.", "4.": "neck.", "6.": "head."}
    return old, OrderedDict((pairs[name[:2]] + name[2:], value) for name, value in old.items())


@refactoring
def stages_numbered_through(seed: int = 0) -> tuple[States, States]:
    """stages.1.blocks.0 becomes blocks.3."""
    old: States = OrderedDict()
    new: States = OrderedDict()
    count = 0
    for stage, depth in enumerate((3, 2, 4)):
        for block in range(depth):
            for leaf, value in drawn(
                seed * 100 + count, conv__weight=(8, 8, 3, 3), norm__weight=(8,), norm__bias=(8,)
            ).items():
                old[f"stages.{stage}.blocks.{block}.{leaf}"] = new[f"blocks.{count}.{leaf}"] = value
            count += 1
    return old, new


@refactoring
def a_block_removed(seed: int = 0) -> tuple[States, States]:
    """What was 3 is 2, and so on."""
    new, old = block_inserted(seed)
    return old, new


@refactoring
def experts_apart(seed: int = 0) -> tuple[States, States]:
    new, old = experts_stacked(seed)
    order = [
        name
        for layer in range(3)
        for name in [
            f"layers.{layer}.gate.weight",
            *(f"layers.{layer}.experts.{expert}.{n}.weight" for expert in range(12) for n in ("w1", "w2")),
        ]
    ]
    return old, OrderedDict((name, new[name]) for name in order)


@refactoring
def biases_dropped(seed: int = 0) -> tuple[States, States]:
    old = decoder(6, seed)
    return old, OrderedDict((name, v) for name, v in old.items() if not re.search(r"(attn|mlp)\.\w+\.bias$", name))


@refactoring
def an_adapter_in_each_block(seed: int = 0) -> tuple[States, States]:
    old, new = decoder(4, seed), OrderedDict()
    for name, value in old.items():
        new[name] = value
        if name.endswith("mlp.proj.bias"):
            lead = name.removesuffix("mlp.proj.bias")
            new |= {f"{lead}adapter.down.weight": torch.zeros(4, 16), f"{lead}adapter.up.weight": torch.zeros(16, 4)}
    return old, new


@refactoring
def a_shortcut_with_another_name(seed: int = 0) -> tuple[States, States]:
    """A residual network: downsample.0 becomes shortcut.conv."""
    old: States = OrderedDict()
    for stage in range(1, 4):
        for block in range(2):
            lead = f"layer{stage}__{block}__"
            shapes: dict[str, tuple[int, ...]] = {
                f"{lead}conv1__weight": (8, 8, 3, 3),
                f"{lead}bn1__weight": (8,),
                f"{lead}bn1__bias": (8,),
            }
            if block == 0:
                shapes |= {f"{lead}downsample__0__weight": (8, 8, 1, 1), f"{lead}downsample__1__weight": (8,)}
                shapes |= {f"{lead}downsample__1__bias": (8,)}
            old |= drawn(seed * 100 + 10 * stage + block, **shapes)
    return old, named(old, ("downsample.0", "shortcut.conv"), ("downsample.1", "shortcut.norm"))


@refactoring
def attention_of_an_autoencoder(seed: int = 0) -> tuple[States, States]:
    """Convolutions of one pixel become linear layers with other names, as in diffusers."""
    parts = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old: States = OrderedDict()
    for place in ("encoder", "decoder"):
        lead = f"{place}__mid_block__attentions__0__"
        shapes = {
            f"{lead}{n}__{leaf}": shape for n in parts for leaf, shape in (("weight", (8, 8, 1, 1)), ("bias", (8,)))
        }
        old |= drawn(
            seed * 10 + len(place), **{f"{lead}group_norm__weight": (8,), f"{lead}group_norm__bias": (8,)}, **shapes
        )
    new = named(old, *((f".{n}.", f".{other}.") for n, other in parts.items()))
    return old, OrderedDict((n, v.flatten(1).clone() if v.ndim == 4 else v) for n, v in new.items())


@refactoring
def whisper_as_transformers_spells_it(seed: int = 0) -> tuple[States, States]:
    shapes: dict[str, tuple[int, ...]] = {
        "attn_ln__weight": (16,),
        "attn_ln__bias": (16,),
        "attn__query__weight": (16, 16),
        "attn__query__bias": (16,),
        "attn__key__weight": (16, 16),
        "attn__value__weight": (16, 16),
        "attn__value__bias": (16,),
        "attn__out__weight": (16, 16),
        "attn__out__bias": (16,),
        "mlp_ln__weight": (16,),
        "mlp_ln__bias": (16,),
        "mlp__0__weight": (64, 16),
        "mlp__0__bias": (64,),
        "mlp__2__weight": (16, 64),
        "mlp__2__bias": (16,),
    }
    old: States = OrderedDict()
    for number, place in enumerate(("encoder", "decoder")):
        first = drawn(seed + number, **{f"{place}__positional_embedding": (20, 16)})
        last = drawn(seed + 7 + number, **{f"{place}__ln__weight": (16,), f"{place}__ln__bias": (16,)})
        old |= layers(seed + number, 3, first, last, **{f"{place}__blocks__N__{n}": s for n, s in shapes.items()})
    pairs = {
        "attn_ln": "self_attn_layer_norm",
        "attn.query": "self_attn.q_proj",
        "attn.key": "self_attn.k_proj",
        "attn.value": "self_attn.v_proj",
        "attn.out": "self_attn.out_proj",
        "mlp_ln": "final_layer_norm",
        "mlp.0": "fc1",
        "mlp.2": "fc2",
        "blocks": "layers",
        "positional_embedding": "embed_positions.weight",
        ".ln.": ".layer_norm.",
    }
    return old, OrderedDict((f"model.{name}", value) for name, value in named(old, *pairs.items()).items())


@refactoring
def a_projection_becomes_a_layer(seed: int = 0) -> tuple[States, States]:
    """A parameter that was multiplied from the right becomes a linear layer, whose weight is transposed."""
    old = drawn(seed, visual__proj=(16, 12), text_projection=(24, 12), logit_scale=())
    new = OrderedDict(
        {
            "visual_projection.weight": old["visual.proj"].t().contiguous(),
            "text_projection.weight": old["text_projection"].t().contiguous(),
            "logit_scale": old["logit_scale"],
        }
    )
    return old, new


@refactoring
def parameters_in_another_order(seed: int = 0) -> tuple[States, States]:
    """Nothing but the order in which a model declares its layers: the moments would be scrambled without a word."""
    old = llama(seed)
    turned = sorted(old, key=lambda name: name.startswith("layers.") and "norm" not in name)
    return old, OrderedDict((name, old[name]) for name in turned)


@refactoring
def layers_of_a_scan_apart(seed: int = 0) -> tuple[States, States]:
    """All layers in one tensor, as a scan wants them, become layers of their own."""
    torch.manual_seed(seed)
    old = OrderedDict({"layers.w_in": torch.randn(6, 32, 16), "layers.w_out": torch.randn(6, 16, 32)})
    return old, OrderedDict(
        (f"layers.{number}.{name[7:]}", value[number].clone()) for number in range(6) for name, value in old.items()
    )


@refactoring
def counters_of_batch_norms_gone(seed: int = 0) -> tuple[States, States]:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)) for _ in range(3)))
    old = OrderedDict(
        (name, torch.randn_like(v) if v.is_floating_point() else v) for name, v in model.state_dict().items()
    )
    return old, OrderedDict((name, value) for name, value in old.items() if "num_batches" not in name)


@refactoring
def a_recurrent_layer_in_an_encoder(seed: int = 0) -> tuple[States, States]:
    torch.manual_seed(seed)
    states = nn.LSTM(8, 8, 2, bidirectional=True).state_dict()
    old = OrderedDict((f"rnn.{name}", torch.randn_like(value)) for name, value in states.items())
    old |= drawn(seed, fc__weight=(4, 16), fc__bias=(4,))
    return old, named(old, ("rnn.", "encoder.lstm."), ("fc.", "decoder."))
