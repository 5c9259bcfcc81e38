"""Harmless files: what people save with torch, of many kinds, none of which may be called dangerous."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import inspect
import io
import itertools
import logging
import random
import re
import types
import typing
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Settings:
    """As projects have them."""

    width: int = 8
    rate: float = 0.1


class Mode(enum.Enum):
    """As projects have them."""

    FAST = "fast"


class Flags(enum.IntFlag):
    """As projects have them."""

    A = 1
    B = 2


def make(folder: Path) -> list[Path]:
    """Save one file of each kind, and return where they are."""
    import torch

    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (made, options) in {**_tensors(), **_training(), **_models(), **_python()}.items():
            paths.append(folder / f"{name}.pt")
            torch.save({"content": made()}, paths[-1], **options)
    return [*paths, *_lightning(folder)]


Kinds = dict[str, tuple[Callable[[], Any], dict[str, Any]]]


def _tensors() -> Kinds:
    import numpy as np
    import torch

    class Weight(torch.nn.Parameter):
        """A subclass that nobody else knows."""

    Weight.__module__, Weight.__qualname__ = __name__, "Weight"
    globals()["Weight"] = Weight
    layer = torch.nn.Linear(3, 3)
    return {
        "state_dict": (layer.state_dict, {}),
        "before_1.6": (layer.state_dict, {"_use_new_zipfile_serialization": False}),
        "protocol_4": (lambda: {"w": torch.ones(2), "n": np.ones(2)}, {"pickle_protocol": 4}),
        "protocol_5": (lambda: {"w": torch.ones(2), "n": np.ones(2), "b": bytearray(b"1")}, {"pickle_protocol": 5}),
        "dtypes": (
            lambda: [torch.Size([1]), torch.device("cpu"), torch.bfloat16, torch.strided, torch.float8_e5m2],
            {},
        ),
        "sparse": (lambda: [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()], {}),
        "quantised": (lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), {}),
        "nested": (lambda: torch.nested.nested_tensor([torch.ones(2)]), {}),
        "ragged": (lambda: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), {}),
        "meta": (lambda: torch.ones(3, device="meta"), {}),
        "parameters": (lambda: [torch.nn.Parameter(torch.ones(2)), torch.nn.Buffer(torch.ones(2))], {}),
        "subclass": (lambda: Weight(torch.ones(2)), {}),
        "lazy": (lambda: torch.nn.LazyLinear(3), {}),
        "arrays": (lambda: [np.ones(3), np.array(["a", None], dtype=object), np.ma.ones(3), np.datetime64("2020")], {}),
        "records": (lambda: [np.rec.array([(1, 2.0)]), np.zeros(2, dtype=[("a", "f4")]), np.bool_(1), np.float32], {}),
        "generators": (lambda: [np.random.get_state(), np.random.default_rng(0), np.random.RandomState(0)], {}),
        "torch_generator": (lambda: [torch.Generator(), torch.get_rng_state(), random.getstate()], {}),
        "results": (lambda: [torch.ones(3).topk(1), torch.ones(3).max(0)], {}),
    }


def _training() -> Kinds:
    import torch

    kinds: Kinds = {}
    for name in ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "LBFGS", "Adafactor", "RAdam"):
        layer = torch.nn.Linear(3, 3)
        optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1)
        loss = layer(torch.ones(3)).sum()
        loss.backward()
        optimizer.step(functools.partial(lambda loss: loss, loss))
        kinds[f"optimizer_{name}"] = (optimizer.state_dict, {})
    schedulers = torch.optim.lr_scheduler
    one_cycle = schedulers.OneCycleLR(optimizer, 0.1, total_steps=5)
    steps = [schedulers.CosineAnnealingLR(optimizer, 5), schedulers.StepLR(optimizer, 2), one_cycle]
    scheduled = schedulers.LambdaLR(optimizer, functools.partial(warm_up, steps=10))
    return {
        **kinds,
        "schedulers": (
            lambda: [each.state_dict() for each in [*steps, schedulers.SequentialLR(optimizer, steps[:2], [1])]],
            {},
        ),
        "scheduler_of_partial": (lambda: [scheduled.state_dict(), functools.partial(warm_up, steps=10)], {}),
        "whole_optimizer": (lambda: [optimizer, *steps], {}),
        "scaler": (lambda: [torch.amp.GradScaler("cpu").state_dict(), torch.amp.GradScaler("cpu")], {}),
        "version": (lambda: torch.torch_version.TorchVersion("2.1.0"), {}),
    }


def warm_up(step: int, steps: int) -> float:
    """Give the factor of a step."""
    return min(1.0, step / steps)


def _models() -> Kinds:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Subset, TensorDataset

    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear})
    data = TensorDataset(torch.ones(3))
    return {
        "model": (lambda: small, {}),
        "transformer": (
            lambda: [nn.TransformerEncoderLayer(8, 2), nn.TransformerEncoderLayer(8, 2, activation=torch.tanh)],
            {},
        ),
        "recurrent": (lambda: [nn.LSTM(2, 2), nn.utils.weight_norm(nn.Linear(2, 2))], {}),
        "activations": (
            lambda: [nn.functional.relu, functools.partial(nn.functional.gelu, approximate="tanh"), torch.sigmoid],
            {},
        ),
        "averaged": (lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)), {}),
        "quantised_model": (lambda: dynamic, {}),
        "distribution": (lambda: torch.distributions.Normal(0.0, 1.0), {}),
        "data": (lambda: [Subset(data, [0]), DataLoader(data)], {}),
        "method": (lambda: small.train, {}),
    }


def _python() -> Kinds:
    from zoneinfo import ZoneInfo

    from omegaconf import OmegaConf

    config = OmegaConf.create({"a": 1, "b": [1, {"c": "${a}"}]})
    typed = OmegaConf.structured(Settings)
    when = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    hints = [type(None), Any, typing.Optional[int], dict[str, int], typing.Callable[[int], int], int | None, Ellipsis]  # noqa: UP045
    named = collections.namedtuple("named", "a b")
    named.__module__, named.__qualname__ = __name__, "named"
    globals()["named"] = named
    return {
        "namespace": (lambda: [argparse.Namespace(a=1), types.SimpleNamespace(b=2)], {}),
        "omegaconf": (lambda: [config, typed], {}),
        "paths": (lambda: [Path("a"), Path("/b").absolute()], {}),
        "project_classes": (lambda: [Settings(), Mode.FAST, Flags.A | Flags.B, named(1, 2), Settings], {}),
        "times": (lambda: [when, when.date(), datetime.timedelta(1), when.astimezone(ZoneInfo("UTC"))], {}),
        "numbers": (lambda: [decimal.Decimal("1.5"), fractions.Fraction(1, 2), 1j, 1 << 80, uuid.UUID(int=1)], {}),
        "containers": (
            lambda: [
                collections.OrderedDict(a=1),
                collections.defaultdict(list, a=[1]),
                collections.defaultdict(dict),
                collections.Counter("aab"),
                collections.deque([1], 3),
                collections.ChainMap({}),
                {1, 2},
                frozenset([3]),
                range(3),
                slice(1, 2),
                bytearray(b"1"),
            ],
            {},
        ),
        "hints": (lambda: hints, {}),
        "odds": (
            lambda: [re.compile("a+"), random.Random(0), array.array("d", [1]), io.BytesIO(b"1"), itertools.count(3)],
            {},
        ),
        "more_odds": (lambda: [ValueError("x"), logging.getLogger("a"), inspect.Parameter.empty, len, max], {}),
    }


def _lightning(folder: Path) -> list[Path]:
    import lightning
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    class Model(lightning.LightningModule):
        """As small as it gets."""

        def __init__(self, width: int, path: Path, mode: Mode) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            """Return a loss."""
            return self.layer(batch[0]).sum()

        def configure_optimizers(self) -> Any:
            """Return what trains it."""
            optimizer = torch.optim.AdamW(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, default_root_dir=folder, accelerator="cpu", **quiet)  # type: ignore[arg-type]
    trainer.fit(Model(2, Path("x"), Mode.FAST), DataLoader(TensorDataset(torch.ones(2, 2))))
    trainer.save_checkpoint(folder / "trained.ckpt")
    return [folder / "trained.ckpt"]
