"""Rebuilds models from checkpoints alone, or gives checkpoints configurations of other classes; run with a release on the path.

    python rebuilding.py rebuild FILE ARRAYS FILE ARRAYS...   # prints how far outputs are from those in ARRAYS, a line each
    python rebuilding.py configure CLASS FILE...              # with anemoi-training on the path too
    python rebuilding.py forward OUTPUT FILE                  # saves what the model puts out; of diffusion, a sample too

Nothing of ckpt-migrate is imported here.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf


def plain(value: Any) -> Any:
    """Return plain dicts and lists, of whatever dict class."""
    if isinstance(value, DictConfig):
        return OmegaConf.to_container(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


def built(path: str) -> Any:
    """Build the model that a checkpoint's own hyper-parameters say, and load strictly."""
    from anemoi.models.interface import AnemoiModelInterface

    checkpoint = torch.load(path, weights_only=False)
    made_from = dict(checkpoint["hyper_parameters"])
    config = OmegaConf.create(plain(made_from.pop("config")))
    steps = {"n_step_input": config.task.multistep_input, "n_step_output": config.task.multistep_output}
    training = torch.nn.Module()
    training.model = AnemoiModelInterface(config=config, **steps, **made_from)
    training.load_state_dict(checkpoint["state_dict"], strict=True)
    training.eval()
    return training.model.model


def rebuild(path: str, arrays: str) -> float:
    """Build a model, and compare what it puts out."""
    model, known = built(path), np.load(arrays)
    with torch.no_grad():
        found = model({"data": torch.from_numpy(known["x"])})["data"].numpy()
    return float(np.abs(found - known["y"].reshape(found.shape)).max())


def forward(output: str, path: str) -> None:
    """Build a model, and save what it makes of inputs that depend on nothing; a diffusion model of noise, and its sample."""
    model = built(path)
    numbers = torch.Generator().manual_seed(3)
    nodes = model.node_attributes.num_nodes["data"]
    x = {"data": torch.randn(2, 2, 1, nodes, model.num_input_channels["data"], generator=numbers)}
    with torch.no_grad():
        if not hasattr(model, "noise_embedder"):
            torch.save({"made": model(x)["data"]}, output)
            return
        noised = {"data": torch.randn(2, 1, 1, nodes, model.num_output_channels["data"], generator=numbers)}
        levels = {"data": torch.tensor([0.5, 2.0]).reshape(2, 1, 1, 1, 1)}
        denoise = getattr(model, "fwd_with_preconditioning", model)  # from 0.16 on, the model does this itself
        sample = model.sample(x, **SAMPLED[hasattr(model, "transport_source")])["data"]
        torch.save({"made": denoise(x, noised, levels)["data"], "sample": sample}, output)


SAMPLED = (
    {"noise_scheduler_params": {"sigma_max": 10.0, "sigma_min": 0.1}},
    {"schedule_params": {"sigma_max": 10.0, "sigma_min": 0.1}},
)
"""What the configuration of the real checkpoint does not say of noise in sampling, as releases call it."""


def configure(name: str, path: str) -> None:
    """Have the configuration of a checkpoint be of the class that a trainer would have pickled."""
    checkpoint = torch.load(path, weights_only=False)
    config = OmegaConf.create(plain(checkpoint["hyper_parameters"]["config"]))
    if name != "DictConfig":
        from anemoi.training.schemas import base_schema

        kind = getattr(base_schema, name)
        try:
            config = kind(**config)
        except (ValueError, TypeError):  # some releases take plain dicts, some those of OmegaConf
            config = kind(**OmegaConf.to_object(config))
    checkpoint["hyper_parameters"]["config"] = config
    torch.save(checkpoint, path)


if __name__ == "__main__":
    if sys.argv[1] == "rebuild":
        for path, arrays in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
            print(rebuild(path, arrays))
    elif sys.argv[1] == "forward":
        forward(*sys.argv[2:])
    else:
        for path in sys.argv[3:]:
            configure(sys.argv[2], path)
