"""Recognise the files of a Hugging Face folder: weights in one file or in shards, and the states of a training.

The Trainer of transformers writes ``optimizer.pt`` and ``scheduler.pt`` beside the weights, `Accelerator.save_state` of
accelerate ``optimizer.bin`` and ``scheduler.bin``; with several optimizers, ``optimizer_1.bin`` and so on.
Sources: `Trainer` of transformers (5.24), `save_accelerator_state` of accelerate (1.14).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.storage.folder_names import INDEX, is_index
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_STEMS = ("model", "adapter_model", "diffusion_pytorch_model", "pytorch_model")
_TORCH = ".bin"
_WEIGHTS = lazy_regex(rf"({'|'.join(_STEMS)})(\.[\w-]+)??(\.safetensors|\.bin)")
_OPTIMIZER = lazy_regex(r"optimizer(_\d+)?\.(pt|bin)")
_STATE = lazy_regex(r"(?P<key>(optimizer|scheduler)(_\d+)?)\.(pt|bin)")
_IN_PARTS = lazy_regex(r"optimizer(_\d+)?")
_DEEPSPEED = lazy_regex(r"zero_to_fp32\.py|global_step\d+|.*_optim_states\.pt")
_FURTHER_MODEL = lazy_regex(r"(model|pytorch_model)_\d+\.(safetensors|bin)")
# All else that belongs to a training and is carried along unread.
_OF_TRAINING = lazy_regex(
    r"(training_args|sampler(_\d+)?|dl_state_dict(_\d+)?)\.bin|rng_state(_\d+)?\.pth|scaler\.pt"
    r"|(random_states|custom_checkpoint)_\d+\.pkl"
)
_COPY = "copy the weights and their index to another folder, and migrate that"
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
    states : tuple of str
        The files with the states of optimizers and schedulers; without one of an optimizer, there are none.
    """

    folder: Path
    index: str
    single: str
    states: tuple[str, ...] = ()

    @property
    def is_of_torch(self) -> bool:
        """Whether its files are those of `torch.save`, not of safetensors."""
        return self.index.endswith(f"{_TORCH}{INDEX}") or self.single.endswith(_TORCH)


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
        It has two sets of weights, or nothing but one file of torch with weights; the state of an optimizer is beside
        them in a form that cannot follow; it is a pipeline of several models.
    """
    found = sets_of_weights(names)
    if _PIPELINE in names and not found:
        raise Refused(f"it is a pipeline of diffusers; {_components(folder, names)}")
    if not found:
        return None
    check_one_set(found)
    _check_states(names)
    name, states = found[0], states_among(names)
    if name.endswith(_TORCH) and not states:
        raise Refused(f"its weights are in {name}, a file of torch.save; give the path of that file")
    return Layout(folder, name, "", states) if is_index(name) else Layout(folder, "", name, states)


def states_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the files with states of a training, in order; none if no optimizer is among them."""
    found = sorted(name for name in names if name.startswith(("optimizer", "scheduler")) and _STATE.fullmatch(name))
    return tuple(found) if any(map(_OPTIMIZER.fullmatch, found)) else ()


def is_of_trainer(names: Collection[str]) -> bool:
    """Return whether a folder with these names holds weights and the state of an optimizer."""
    return bool(states_among(names)) and bool(sets_of_weights(names))


def is_member_of_trainer(name: str, names: Collection[str]) -> bool:
    """Return whether a file is weights beside the state of an optimizer, or a state beside weights.

    Parameters
    ----------
    name : str
        The file.
    names : collection of str
        The names in its folder.
    """
    if _STATE.fullmatch(name) is None and _WEIGHTS.fullmatch(name) is None:
        return False
    return is_of_trainer(names)


def files_of_training(names: Collection[str]) -> frozenset[str]:
    """Return the files beside weights and an optimizer that belong to the training; none in any other folder."""
    if not is_of_trainer(names):
        return frozenset()
    return frozenset([*states_among(names), *filter(_OF_TRAINING.fullmatch, names)])


def key_of_state(name: str) -> str:
    """Return the key of the tree for a file with a state: ``optimizer.pt`` holds ``optimizer``."""
    found = _STATE.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no state of a training")
    return found["key"]


def _check_states(names: Collection[str]) -> None:
    """Refuse states of a training that cannot follow the weights."""
    found = {"DeepSpeed": _DEEPSPEED, "FSDP": _IN_PARTS}
    for writer, wanted in found.items():
        if beside := sorted(filter(wanted.fullmatch, names)):
            raise Refused(
                f"it has the state of an optimizer in parts, as {writer} writes it ({beside[0]}), which operations "
                f"cannot take along; {_COPY}"
            )
    states = states_among(names)
    if not states:
        return
    if models := sorted(filter(_FURTHER_MODEL.fullmatch, names)):
        raise Refused(
            f"it holds several models ({models[0]}), and nothing says whose the optimizers are; copy the files of one "
            "to another folder, and migrate that"
        )
    known: dict[str, str] = {}
    for name in states:
        other = known.setdefault(key_of_state(name), name)
        if other != name:
            raise Refused(f"it has both {other} and {name}; move one of them to another folder")


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
