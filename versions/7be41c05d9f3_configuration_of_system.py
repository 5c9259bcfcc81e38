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
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.MoveItem("hardware.accelerator", "system.hardware.accelerator", optional=True),
            op.MoveItem("hardware.num_gpus_per_node", "system.hardware.num_gpus_per_node", optional=True),
            op.MoveItem("hardware.num_nodes", "system.hardware.num_nodes", optional=True),
            op.MoveItem("hardware.num_gpus_per_model", "system.hardware.num_gpus_per_model", optional=True),
            op.MoveItem("hardware.paths.output", "system.output.root", optional=True),
            op.MoveItem("hardware.paths.logs.base", "system.output.logs.root", optional=True),
            op.MoveItem("hardware.paths.logs.wandb", "system.output.logs.wandb", optional=True),
            op.MoveItem("hardware.paths.logs.mlflow", "system.output.logs.mlflow", optional=True),
            op.MoveItem("hardware.paths.logs.tensorboard", "system.output.logs.tensorboard", optional=True),
            op.MoveItem("hardware.paths.checkpoints", "system.output.checkpoints.root", optional=True),
            op.MoveItem(
                "hardware.files.checkpoint.every_n_epochs", "system.output.checkpoints.every_n_epochs", optional=True
            ),
            op.MoveItem(
                "hardware.files.checkpoint.every_n_train_steps",
                "system.output.checkpoints.every_n_train_steps",
                optional=True,
            ),
            op.MoveItem(
                "hardware.files.checkpoint.every_n_minutes", "system.output.checkpoints.every_n_minutes", optional=True
            ),
            op.MoveItem("hardware.paths.plots", "system.output.plots", optional=True),
            op.MoveItem("hardware.paths.profiler", "system.output.profiler", optional=True),
            op.Run("add_computed", "remove_computed"),
            op.SetItem(
                "model.residual",
                {"_target_": "anemoi.models.layers.residual.SkipConnection", "step": -1},
                overwrite=False,
                optional=True,
            ),
            op.MoveItem("model.layer_kernels.*.w_one_bias_zero_init", "model.layer_kernels.*.zero_init", optional=True),
            op.MoveItem(
                "model.*.layer_kernels.*.w_one_bias_zero_init", "model.*.layer_kernels.*.zero_init", optional=True
            ),
            op.MoveItem("training.optimizer.kwargs.betas", "training.optimizer.betas", optional=True),
            op.DropItem("training.optimizer.kwargs", optional=True),
            op.DropItem("training.optimizer.zero", optional=True),
            op.SetItem("training.optimizer._target_", "torch.optim.AdamW", overwrite=False, optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]

FILES = {
    "dataset": "data",
    "graph": "graph",
    "truncation": "truncation",
    "truncation_inv": "truncation",
    "warm_start": "warm_start",
}
TRUNCATED = "anemoi.models.layers.residual.TruncatedConnection"


def add_computed(config: CkptType) -> CkptType:
    """Put together the paths of files, and say that the skip connection of the model is truncated, if it is."""
    hardware = items.get(config, "hardware")
    if items.get(hardware, "files") is not None and items.get(config, "system.input") is None:
        joined = {}
        for name, folder in FILES.items():
            place, file = items.get(hardware, f"paths.{folder}"), items.get(hardware, f"files.{name}")
            joined[name] = file if file is None else str(PurePosixPath(str(place or ""), str(file)))
        if items.get(config, "system") is None:
            items.put(config, "system", {})
        items.put(config, "system.input", joined)
    down, up = (items.get(config, f"system.input.{name}") for name in ("truncation", "truncation_inv"))
    truncated = down is not None or up is not None
    if truncated and items.get(config, "model") is not None and "residual" not in items.keys(config, "model"):
        warnings.warn(
            "the model has a truncation, whose matrices were in the checkpoint; from now on they are read from the "
            "files that model.residual names: see that these are there",
            stacklevel=2,
        )
        names = {"truncation_down_file_path": down, "truncation_up_file_path": up}
        items.put(config, "model.residual", {"_target_": TRUNCATED, **names})
    return config


def remove_computed(config: CkptType) -> CkptType:
    """Take both away again, where what they were made of is there."""
    if items.get(config, "hardware.files") is not None and "input" in items.keys(config, "system"):
        items.take(config, "system.input")
        if not items.keys(config, "system"):
            items.take(config, "system")
        if items.get(config, "model.residual._target_") == TRUNCATED:
            items.take(config, "model.residual")
    return config
