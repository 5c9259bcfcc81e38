"""Makes inference checkpoints with the release of anemoi-models on the path, as its trainer does, and compares what they predict.

    python inference.py save INFERENCE.ckpt TRAINING         # from TRAINING.ckpt, whose output is in TRAINING.forward.npz
    python inference.py compare NEW.ckpt INFERENCE.ckpt      # with what was saved beside the one it came from
    python inference.py compare_all NEW.ckpt INFERENCE.ckpt  # metadata and arrays too

Beside a checkpoint, ``.predicted.pt`` holds inputs, what the model makes of them, and what `predict_step` makes of raw values.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy
import torch
from anemoi.models.interface import AnemoiModelInterface
from anemoi.utils.checkpoints import load_metadata, save_metadata
from rebuilding import plain

ARRAYS = {"data": {"mask": numpy.array([True, False, True])}}


def built(tree: Any) -> Any:
    """Return the model of a training checkpoint."""
    given = tree["hyper_parameters"]
    wanted = inspect.signature(AnemoiModelInterface.__init__).parameters
    arguments = {name: given[name] for name in given if name in wanted}
    if "n_step_input" in wanted:
        task = given["config"]["task"]
        arguments.update(n_step_input=task["multistep_input"], n_step_output=task["multistep_output"])
    model = AnemoiModelInterface(**arguments)
    weights = tree["state_dict"].items()
    model.load_state_dict({name.removeprefix("model."): value for name, value in weights if name.startswith("model.")})
    return model.eval()


def by_dataset(model: Any) -> bool:
    """Tell whether a release takes and gives tensors by dataset."""
    return isinstance(model.data_indices, dict)


def put_out(model: Any, x: Any, raw: Any) -> tuple[Any, Any]:
    """Return what a model makes of normalised inputs, and of raw values."""
    with torch.no_grad():
        if by_dataset(model):
            made = model.model({"data": x})["data"], model.predict_step({"data": raw})["data"]
        else:
            made = model.model(x), model.predict_step(raw)
    return made[0].flatten(), made[1].flatten()


def save(path: str, training: str) -> None:
    """Save a model with what its trainer puts beside it, and what it predicts."""
    tree = torch.load(f"{training}.ckpt", weights_only=False)
    model = built(tree)
    saved = numpy.load(f"{training}.forward.npz")
    x = torch.from_numpy(saved["x"])
    raw = torch.rand(x[:, :, 0].shape, generator=torch.Generator().manual_seed(3)) + 1
    forward, predicted = put_out(model, x, raw)
    assert torch.equal(forward, torch.from_numpy(saved["y"]).flatten())
    metadata = {**model.metadata, "config": plain(tree["hyper_parameters"]["config"]), "version": "1.0"}
    model.config = model.metadata = None
    torch.save(model, path)
    save_metadata(path, metadata, supporting_arrays=ARRAYS if by_dataset(model) else ARRAYS["data"])
    torch.save(
        {"x": x, "raw": raw, "forward": forward, "predicted": predicted}, Path(path).with_suffix(".predicted.pt")
    )


def compare(path: str, before: str) -> None:
    """Load a model as `anemoi-inference` does, and compare."""
    model = torch.load(path, weights_only=False)
    saved = torch.load(Path(before).with_suffix(".predicted.pt"))
    forward, predicted = put_out(model, saved["x"], saved["raw"])
    assert torch.equal(forward, saved["forward"])
    assert torch.equal(predicted, saved["predicted"])


def compare_all(path: str, before: str) -> None:
    """Compare, and look whether metadata and arrays are beside the model."""
    compare(path, before)
    metadata, arrays = load_metadata(path, supporting_arrays=True)
    assert metadata["version"] == "1.0"
    assert {"data", "model"} <= set(metadata["config"])
    assert (arrays["data"]["mask"] == ARRAYS["data"]["mask"]).all()


if __name__ == "__main__":
    {"save": save, "compare": compare, "compare_all": compare_all}[sys.argv[1]](*sys.argv[2:])
