"""the training method, in the configuration

The trainers for anemoi-models 0.16.0 take the training method with its arguments.

Diffusion models are called transport models from then on, and what is said of diffusion is said of transport: with an objective,
which there was one of, and with how noise is drawn in training, which the method knew. What inference samples by has other names.

Releases 0.13 to 0.15 leave the processor out of models that do not skip it; from 0.16.0 on it counts. A model of before 0.13, where it
counted too, has a mark until here.

Revision ID: 6ea07b3954d2
Revises: bd60f8a3179c
Create Date: 2026-11-25 00:00:00+00:00
"""

import warnings

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "6ea07b3954d2"
down_revision = "bd60f8a3179c"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.16.0"})

PLACES = ["hyper_parameters.config", "hyper_parameters.metadata.config"]
RECORDS = {"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"}
NEVER_SKIPPED = "never_skipped_by_anemoi_migrations"
METHOD = "training.training_method"
METHODS = "anemoi.training.train.methods"
TRANSPORT = f"{METHODS}.TransportTraining"
MODES = {f"{METHODS}.DiffusionTraining": "state", f"{METHODS}.DiffusionTendencyTraining": "tendency"}


def transported(ckpt: CkptType) -> list[op.Operation]:
    """Say of the method what it predicts, where that was said by its name."""
    if unprocessed(ckpt):
        warnings.warn(
            "its latent_skip is False, and releases 0.13 to 0.15 leave the processor out of such models: from 0.16.0 on "
            "it counts, so the output is another if one of those trained it",
            stacklevel=2,
        )
    marked = [op.DropItem(NEVER_SKIPPED, optional=True)]
    mode = MODES.get(items.get(ckpt, f"{PLACES[0]}.{METHOD}"))
    if mode is None:
        return marked
    predicts = {"prediction_mode": mode, "objective": "edm_diffusion"}
    own = [
        op.SetItem(METHOD, TRANSPORT, optional=True),
        op.SetItem("training.transport", predicts, overwrite=False, optional=True),
    ]
    return [*marked, op.At(PLACES, own, records=RECORDS, optional=True)]


def diffused(ckpt: CkptType) -> list[op.Operation]:
    """Say by its name what it predicts."""
    if unprocessed(ckpt):
        warnings.warn(
            "its latent_skip is False: releases 0.13 to 0.15 leave the processor out of such models, so the output is another there",
            stacklevel=2,
        )
    mode = items.get(ckpt, f"{PLACES[0]}.training.transport.prediction_mode")
    names = [name for name, own in MODES.items() if own == mode]
    if not names or items.get(ckpt, f"{PLACES[0]}.{METHOD}") != TRANSPORT:
        return []
    own = [op.DropItem("training.transport", optional=True), op.SetItem(METHOD, names[0], optional=True)]
    return [op.At(PLACES, own, records=RECORDS, optional=True)]


def unprocessed(ckpt: CkptType) -> bool:
    """Tell whether releases 0.13 to 0.15 leave out its processor, and none before them made it."""
    return items.get(ckpt, f"{PLACES[0]}.model.model.latent_skip") is False and NEVER_SKIPPED not in ckpt


operations = [
    op.Derive("transported", "diffused"),
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.MoveItem("training.training_method", "training.method._target_", optional=True),
            op.MapItem(
                "model.model._target_",
                {
                    "anemoi.models.models.AnemoiDiffusionModelEncProcDec": "anemoi.models.models.AnemoiTransportModelEncProcDec",
                    "anemoi.models.models.AnemoiDiffusionTendModelEncProcDec": "anemoi.models.models.AnemoiTransportTendModelEncProcDec",
                    "anemoi.models.models.diffusion_encoder_processor_decoder.AnemoiDiffusionModelEncProcDec": "anemoi.models.models.transport_encoder_processor_decoder.AnemoiTransportModelEncProcDec",
                    "anemoi.models.models.diffusion_encoder_processor_decoder.AnemoiDiffusionTendModelEncProcDec": "anemoi.models.models.transport_encoder_processor_decoder.AnemoiTransportTendModelEncProcDec",
                },
                optional=True,
            ),
            op.MoveItem("model.model.diffusion", "model.model.transport", optional=True),
            op.SetItem("model.model.transport.objective", "edm_diffusion", overwrite=False, optional=True),
            op.SetItem(
                "model.model.transport.training_condition", {"distribution": "karras"}, overwrite=False, optional=True
            ),
            op.CopyItem(
                "model.model.transport.sigma_max",
                "model.model.transport.training_condition.sigma_max",
                overwrite=False,
                optional=True,
            ),
            op.CopyItem(
                "model.model.transport.sigma_min",
                "model.model.transport.training_condition.sigma_min",
                overwrite=False,
                optional=True,
            ),
            op.CopyItem(
                "model.model.transport.rho",
                "model.model.transport.training_condition.rho",
                overwrite=False,
                optional=True,
            ),
            op.MoveItem(
                "model.model.transport.inference_defaults.noise_scheduler",
                "model.model.transport.inference_defaults.sampling_schedule",
                optional=True,
            ),
            op.MoveItem(
                "model.model.transport.inference_defaults.diffusion_sampler",
                "model.model.transport.inference_defaults.sampler",
                optional=True,
            ),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]
