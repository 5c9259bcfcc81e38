"""The models of the recipes, before and after. Each pair computes the same, but where the recipe says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WIDTH = 8


class Named(nn.Module):
    """Layers by name; `compute` says how they work together."""

    def __init__(self, compute: Callable[[Any, torch.Tensor], torch.Tensor], **layers: Any) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            if isinstance(layer, torch.Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


@dataclass(frozen=True)
class Recipe:
    """A model before and after.

    Attributes
    ----------
    old, new : callable
        Make the two.
    same : bool
        Whether both compute the same.
    hyper_parameters : dict
        Those in the old checkpoint.
    wrap : str
        Added before all names of the old checkpoint.
    x : Tensor
        The input.
    optimizer : callable
        Makes the optimizer of the new model.
    """

    old: Callable[[], nn.Module]
    new: Callable[[], nn.Module]
    same: bool = True
    hyper_parameters: Any = None
    wrap: str = ""
    x: Any = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = lambda model: torch.optim.AdamW(
        model.parameters(), lr=0.01
    )


def linear(inside: int = WIDTH, outside: int = WIDTH, bias: bool = True) -> nn.Linear:
    return nn.Linear(inside, outside, bias=bias)


def chain(*names: str) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Compute one layer after the other."""

    def compute(model: Any, x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = getattr(model, name)(x)
        return x

    return compute


class Norm(nn.Module):
    """A layer norm with names of its own."""

    def __init__(self, weight: str, bias: str) -> None:
        super().__init__()
        self.names = weight, bias
        setattr(self, weight, nn.Parameter(torch.rand(WIDTH)))
        setattr(self, bias, nn.Parameter(torch.rand(WIDTH)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = (getattr(self, name) for name in self.names)
        return functional.layer_norm(x, (WIDTH,), weight, bias)


def attend(qkv: Any, heads: int = 2) -> torch.Tensor:
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in qkv)
    return functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


def separate(model: Any, x: torch.Tensor) -> torch.Tensor:
    return attend([model.attn[name](x) for name in "qkv"])


def projected(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.attn["proj"](separate(model, x))


class Layers(nn.ModuleDict):
    """Layers by name."""


def three(*more: str) -> Layers:
    return Layers({name: linear() for name in ("q", "k", "v", *more)})


def rotated(x: torch.Tensor, halves: bool) -> torch.Tensor:
    """Rotate the pairs of rows of each head: neighbours, or the rows of two halves."""
    parts = x.unflatten(-1, (2, -1))
    pairs = parts.unflatten(-1, (2, -1)).transpose(-1, -2) if halves else parts.unflatten(-1, (-1, 2))
    angle = torch.arange(pairs.shape[-2]) + 1.0
    a, b = pairs[..., 0], pairs[..., 1]
    turned = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)
    return (turned.transpose(-1, -2).flatten(-2) if halves else turned.flatten(-2)).flatten(-2)


def rotary(halves: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def compute(model: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (model.attn[name](x) for name in "qkv")
        return attend([rotated(q, halves), rotated(k, halves), v])

    return compute


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, 4 * WIDTH) / 4)
        self.bias = nn.Parameter(torch.zeros(4 * WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Expert(nn.Module):
    """All experts in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, WIDTH, WIDTH))
        self.bias = nn.Parameter(torch.randn(3, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.einsum("noi,bi->bno", self.weight, x) + self.bias).sum(1)


def words(rows: int) -> nn.Module:
    def compute(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.output(model.embedding(x))[:, :10]

    return Named(compute, embedding=nn.Embedding(rows, WIDTH), output=linear(WIDTH, rows, bias=False))


def tied(both: bool) -> nn.Module:
    def compute(model: Any, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(model.embedding(x), model.embedding.weight)

    layers = {"embedding": nn.Embedding(10, WIDTH)}
    if both:
        layers["output"] = linear(WIDTH, 10, bias=False)  # type: ignore[assignment]
        layers["output"].weight = layers["embedding"].weight
    return Named(compute, **layers)


def frequencies(kept: bool) -> nn.Module:
    def compute(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.attn["q"](x)

    model = Named(compute, attn=three())
    model.attn["q"].register_buffer("inv_freq", 10_000 ** -torch.linspace(0, 1, 4), persistent=kept)  # type: ignore[operator]
    return model


def placed(rows: int) -> nn.Module:
    """Add an embedding of the positions that the input has."""

    def compute(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.layer(x + model.positions.weight[: len(x)])

    return Named(compute, positions=nn.Embedding(rows, WIDTH), layer=linear())


def normed() -> nn.Module:
    return Named(chain("encoder", "norm"), encoder=linear(), norm=nn.LayerNorm(WIDTH))


def with_decay_of_weights(model: nn.Module) -> torch.optim.Optimizer:
    """Decay weights, but no biases and norms."""
    plain = {name for name, _ in model.named_parameters() if name.endswith("bias") or name.startswith("norm.")}
    groups = [
        {
            "params": [value for name, value in model.named_parameters() if (name in plain) == bare],
            "weight_decay": decay,
        }
        for bare, decay in ((False, 0.01), (True, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=0.01)


def of_the_norm(model: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.norm.parameters(), lr=0.01)


def grown(inserted: bool) -> nn.Module:
    layers = [linear() for _ in range(4 + inserted)]
    layers[1] = nn.ReLU()  # type: ignore[call-overload]
    return nn.Sequential(*layers)


class Config:
    """A class in a pickle."""

    def __init__(self) -> None:
        self.depth = 3


RECIPES: dict[str, Recipe] = {
    "A module has another name": Recipe(
        lambda: Named(chain("encoder"), encoder=nn.Sequential(linear(), linear())),
        lambda: Named(chain("backbone"), backbone=nn.Sequential(linear(), linear())),
    ),
    "Wrappers of DDP and torch.compile": Recipe(
        lambda: nn.Sequential(linear()), lambda: nn.Sequential(linear()), wrap="module._orig_mod."
    ),
    "A layer between the others": Recipe(lambda: grown(False), lambda: grown(True)),
    "gamma and beta become weight and bias": Recipe(
        lambda: Named(chain("norm"), norm=Norm("gamma", "beta")),
        lambda: Named(chain("norm"), norm=nn.LayerNorm(WIDTH)),
    ),
    "weight_norm becomes a parametrization": Recipe(
        lambda: Named(chain("conv"), conv=nn.utils.weight_norm(linear())),
        lambda: Named(chain("conv"), conv=nn.utils.parametrizations.weight_norm(linear())),
    ),
    "q, k and v in one layer": Recipe(
        lambda: Named(separate, attn=three()),
        lambda: Named(
            lambda model, x: attend(model.attn["qkv"](x).chunk(3, -1)), attn=Layers({"qkv": linear(WIDTH, 3 * WIDTH)})
        ),
    ),
    "in_proj of nn.MultiheadAttention in three layers": Recipe(
        lambda: Named(lambda model, x: model.attn(x, x, x)[0], attn=nn.MultiheadAttention(WIDTH, 2)),
        lambda: Named(projected, attn=three("proj")),
    ),
    "Conv1D becomes Linear": Recipe(
        lambda: Named(lambda model, x: model.mlp["c_fc"](x), mlp=Layers({"c_fc": Conv1D()})),
        lambda: Named(lambda model, x: model.mlp["fc"](x), mlp=Layers({"fc": linear(WIDTH, 4 * WIDTH)})),
    ),
    "A linear layer becomes a 1x1 convolution": Recipe(
        lambda: Named(chain("head"), head=linear(WIDTH, 3)),
        lambda: Named(lambda model, x: model.head(x[..., None, None])[..., 0, 0], head=nn.Conv2d(WIDTH, 3, 1)),
    ),
    "Experts in one tensor": Recipe(
        lambda: Named(
            lambda model, x: torch.stack([each(x) for each in model.experts]).sum(0),
            experts=nn.ModuleList([linear() for _ in range(3)]),
        ),
        lambda: Named(chain("experts"), experts=Expert()),
    ),
    "New words in the vocabulary": Recipe(lambda: words(10), lambda: words(12), x=torch.arange(5)),
    "Fewer positions": Recipe(lambda: placed(12), lambda: placed(8)),
    "The output layer shares the embedding": Recipe(lambda: tied(True), lambda: tied(False), x=torch.arange(5)),
    "A buffer that is computed again": Recipe(lambda: frequencies(True), lambda: frequencies(False)),
    "A new head": Recipe(
        lambda: Named(chain("policy"), policy=linear()),
        lambda: Named(chain("policy"), policy=linear(), value=linear(WIDTH, 1)),
    ),
    "Rotary embeddings of halves": Recipe(
        lambda: Named(rotary(False), attn=three()), lambda: Named(rotary(True), attn=three())
    ),
    "A class and its hyper-parameters moved": Recipe(
        lambda: nn.Sequential(linear()),
        lambda: nn.Sequential(linear()),
        hyper_parameters={"lr": 0.1, "optimizer": {}, "config": Config()},
    ),
    "Weight decay for some parameters only": Recipe(normed, normed, optimizer=with_decay_of_weights),
    "A frozen encoder": Recipe(normed, normed, optimizer=of_the_norm),
    "Another optimizer": Recipe(
        normed,
        normed,
        optimizer=lambda model: torch.optim.NAdam(model.parameters(), lr=0.01, decoupled_weight_decay=True),
    ),
    "Weights in half precision": Recipe(
        lambda: nn.Sequential(linear()), lambda: nn.Sequential(linear()).bfloat16(), same=False
    ),
}
