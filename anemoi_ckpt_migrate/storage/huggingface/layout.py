"""Recognise the files of a Hugging Face folder that hold weights: one file, or shards with an index."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.storage.folder_names import INDEX, is_index

_STEMS = ("model", "adapter_model", "diffusion_pytorch_model", "pytorch_model")
_TORCH = ".bin"
_WEIGHTS = re.compile(rf"({'|'.join(_STEMS)})(\.[\w-]+)??(\.safetensors|\.bin)")
_OPTIMIZER = re.compile(r"optimizer\.(pt|bin)|optimizer(_\d+)?")
_PIPELINE = "model_index.json"


@dataclass(frozen=True)
class Layout:
    """The set of weights in a folder.

    Attributes
    ----------
    folder : Path
        The folder.
    index : str
        The name of the index; empty if all weights are in one file.
    single : str
        The name of that file; empty if there is an index.
    """

    folder: Path
    index: str
    single: str

    @property
    def is_of_torch(self) -> bool:
        """Whether its files are those of `torch.save`, not of safetensors."""
        return self.index.endswith(f"{_TORCH}{INDEX}")


def find_layout(folder: Path, names: Collection[str]) -> Layout | None:
    """Return the weights of a folder; None if it is no folder of Hugging Face.

    Parameters
    ----------
    folder : Path
        The folder.
    names : collection of str
        The names in it.

    Raises
    ------
    Refused
        It has two sets of weights, or all weights in one file of torch; the state of an optimizer is beside them; it
        is a pipeline of several models.
    """
    found = sets_of_weights(names)
    if _PIPELINE in names and not found:
        raise Refused(f"it is a pipeline of diffusers; {_components(folder, names)}")
    if not found:
        return None
    check_one_set(found)
    beside = sorted(name for name in names if _OPTIMIZER.fullmatch(name))
    if beside:
        raise Refused(
            f"it has the state of an optimizer ({beside[0]}) beside the weights, which operations cannot take along "
            "yet; copy the weights and their index to another folder, and migrate that"
        )
    name = found[0]
    if name.endswith(_TORCH):
        raise Refused(f"its weights are in {name}, a file of torch.save; give the path of that file")
    return Layout(folder, name, "") if is_index(name) else Layout(folder, "", name)


def sets_of_weights(names: Collection[str]) -> list[str]:
    """Return the indices, and then the single files with weights, among the names of a folder."""
    indices = sorted(name for name in names if is_index(name))
    return [*indices, *sorted(name for name in names if name.startswith(_STEMS) and _WEIGHTS.fullmatch(name))]


def check_one_set(found: Sequence[str]) -> None:
    """Refuse a folder with several sets of weights.

    Raises
    ------
    Refused
        There are several; the message names two.
    """
    if len(found) > 1:
        raise Refused(
            f"it has two sets of weights, {found[0]} and {found[1]}, of which only one would be migrated; "
            "move one of them to another folder"
        )


def _components(folder: Path, names: Collection[str]) -> str:
    """Say which folders of a pipeline to migrate."""
    parts = sorted(name for name in names if _has_weights(folder / name))
    if not parts:
        return "give the folder of one of its models"
    return f"each of its models is a checkpoint of its own: give {' or '.join(str(folder / name) for name in parts)}"


def _has_weights(folder: Path) -> bool:
    try:
        return any(_WEIGHTS.fullmatch(name) or name.endswith(INDEX) for name in os.listdir(folder))
    except OSError:
        return False
