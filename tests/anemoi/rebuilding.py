"""Rebuilds models from checkpoints alone, or gives checkpoints configurations of other classes; run with a release on the path.

    python rebuilding.py rebuild FILE ARRAYS FILE ARRAYS...   # prints how far outputs are from those in ARRAYS, a line each
    python rebuilding.py configure CLASS FILE...              # with anemoi-training on the path too

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


def rebuild(path: str, arrays: str) -> float:
    """Build the model that a checkpoint's own hyper-parameters say, load strictly, and compare what it puts out."""
    from anemoi.models.interface import AnemoiModelInterface

    checkpoint = torch.load(path, weights_only=False)
    made_from = dict(checkpoint["hyper_parameters"])
    config = OmegaConf.create(plain(made_from.pop("config")))
    steps = {"n_step_input": config.task.multistep_input, "n_step_output": config.task.multistep_output}
    training = torch.nn.Module()
    training.model = AnemoiModelInterface(config=config, **steps, **made_from)
    training.load_state_dict(checkpoint["state_dict"], strict=True)
    training.eval()
    known = np.load(arrays)
    with torch.no_grad():
        found = training.model.model({"data": torch.from_numpy(known["x"])})["data"].numpy()
    return float(np.abs(found - known["y"].reshape(found.shape)).max())


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
    else:
        for path in sys.argv[3:]:
            configure(sys.argv[2], path)
