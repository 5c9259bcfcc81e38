"""hardware is system, in the configuration

The trainers for anemoi-models 0.11.0 have `system` with `hardware`, `input` and `output`. A file of `input` is one path:
folder and name, which were apart, stay beside it. The skip connection of the model is configured as `residual`.

Some trainers still pickled configurations as models of pydantic, whose classes are renamed here.

Revision ID: 7be41c05d9f3
Revises: d52a08f1c7e4
Create Date: 2026-11-25 00:00:00+00:00
"""

import warnings
from pathlib import PurePosixPath

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "7be41c05d9f3"
down_revision = "d52a08f1c7e4"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.0"})
known_as = {
    "1763479917_hardware_schema_update": {
        "3.9": "7237d0a8f30bf746ca7e118041f8194b8119f3143d8968adc0fe3e379c1ee2dc",
        "3.12": "3e33639a642c450a0f36b03382d4fd8d0dfcfcf8827919e076511ead315acde7",
        "3.13": "4c3c6ee02a0eadea0eb7537a86ccc613d6bb0e697447cba4bff534648b31eed5",
    },
}

operations = [
    op.ConvertItem(
        "hyper_parameters.config",
        "omegaconf.DictConfig",
        classes=[
            "anemoi.training.schemas.base_schema.BaseSchema",
            "anemoi.training.schemas.base_schema.UnvalidatedBaseSchema",
        ],
        aliases={"target_": "_target_", "convert_": "_convert_", "mean_std": "mean-std", "min_max": "min-max"},
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.accelerator",
        "hyper_parameters.config.system.hardware.accelerator",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.num_gpus_per_node",
        "hyper_parameters.config.system.hardware.num_gpus_per_node",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.num_nodes", "hyper_parameters.config.system.hardware.num_nodes", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.num_gpus_per_model",
        "hyper_parameters.config.system.hardware.num_gpus_per_model",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.output", "hyper_parameters.config.system.output.root", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.logs.base",
        "hyper_parameters.config.system.output.logs.root",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.logs.wandb",
        "hyper_parameters.config.system.output.logs.wandb",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.logs.mlflow",
        "hyper_parameters.config.system.output.logs.mlflow",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.logs.tensorboard",
        "hyper_parameters.config.system.output.logs.tensorboard",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.checkpoints",
        "hyper_parameters.config.system.output.checkpoints.root",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.files.checkpoint.every_n_epochs",
        "hyper_parameters.config.system.output.checkpoints.every_n_epochs",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.files.checkpoint.every_n_train_steps",
        "hyper_parameters.config.system.output.checkpoints.every_n_train_steps",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.files.checkpoint.every_n_minutes",
        "hyper_parameters.config.system.output.checkpoints.every_n_minutes",
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.plots", "hyper_parameters.config.system.output.plots", optional=True
    ),
    op.MoveItem(
        "hyper_parameters.config.hardware.paths.profiler",
        "hyper_parameters.config.system.output.profiler",
        optional=True,
    ),
    op.Run("add_computed", "remove_computed"),
    op.SetItem(
        "hyper_parameters.config.model.residual",
        {"_target_": "anemoi.models.layers.residual.SkipConnection", "step": -1},
        overwrite=False,
        optional=True,
    ),
    op.MoveItem(
        "hyper_parameters.config.training.optimizer.kwargs.betas",
        "hyper_parameters.config.training.optimizer.betas",
        optional=True,
    ),
    op.DropItem("hyper_parameters.config.training.optimizer.kwargs", optional=True),
    op.DropItem("hyper_parameters.config.training.optimizer.zero", optional=True),
    op.SetItem(
        "hyper_parameters.config.training.optimizer._target_", "torch.optim.AdamW", overwrite=False, optional=True
    ),
]

CONFIG = "hyper_parameters.config"
FILES = {
    "dataset": "data",
    "graph": "graph",
    "truncation": "truncation",
    "truncation_inv": "truncation",
    "warm_start": "warm_start",
}
TRUNCATED = "anemoi.models.layers.residual.TruncatedConnection"


def add_computed(ckpt: CkptType) -> CkptType:
    """Put together the paths of files, and say that the skip connection of the model is truncated, if it is."""
    hardware = items.get(ckpt, f"{CONFIG}.hardware")
    if items.get(hardware, "files") is not None and items.get(ckpt, f"{CONFIG}.system.input") is None:
        joined = {}
        for name, folder in FILES.items():
            place, file = items.get(hardware, f"paths.{folder}"), items.get(hardware, f"files.{name}")
            joined[name] = file if file is None else str(PurePosixPath(str(place or ""), str(file)))
        if items.get(ckpt, f"{CONFIG}.system") is None:
            items.put(ckpt, f"{CONFIG}.system", {})
        items.put(ckpt, f"{CONFIG}.system.input", joined)
    down, up = (items.get(ckpt, f"{CONFIG}.system.input.{name}") for name in ("truncation", "truncation_inv"))
    truncated = down is not None or up is not None
    if (
        truncated
        and items.get(ckpt, f"{CONFIG}.model") is not None
        and "residual" not in items.keys(ckpt, f"{CONFIG}.model")
    ):
        warnings.warn(
            "the model has a truncation, whose matrices were in the checkpoint; from now on they are read from the "
            "files that model.residual names: see that these are there",
            stacklevel=2,
        )
        names = {"truncation_down_file_path": down, "truncation_up_file_path": up}
        items.put(ckpt, f"{CONFIG}.model.residual", {"_target_": TRUNCATED, **names})
    return ckpt


def remove_computed(ckpt: CkptType) -> CkptType:
    """Take both away again, where what they were made of is there."""
    if items.get(ckpt, f"{CONFIG}.hardware.files") is not None and "input" in items.keys(ckpt, f"{CONFIG}.system"):
        items.take(ckpt, f"{CONFIG}.system.input")
        if not items.keys(ckpt, f"{CONFIG}.system"):
            items.take(ckpt, f"{CONFIG}.system")
        if items.get(ckpt, f"{CONFIG}.model.residual._target_") == TRUNCATED:
            items.take(ckpt, f"{CONFIG}.model.residual")
    return ckpt
