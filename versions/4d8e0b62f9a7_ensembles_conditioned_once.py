"""ensembles conditioned once

Before anemoi-models 0.11.0, an ensemble model is given what it skips beside its input: the prognostic variables of the last
step, which the input holds too. From then on it is not, unless ``condition_on_residual`` says so, and then behind all else.

Where it says so, the columns of the weights that take this in are put in the new order. Else they are added to those of
the same variables: the output stays what it was. Training goes on as that of such a model, with one weight where there
were two. What is skipped has to be what the input holds: a truncated model is refused, unless it is to be conditioned.

What the optimizer remembers goes with the columns: for both it is the same, for both have had the same gradient.

These are functions, because no operation computes weights from other weights; so they keep the old ones themselves.

Revision ID: 4d8e0b62f9a7
Revises: c91f4a7be036
Create Date: 2026-11-25 00:00:00+00:00
"""

import warnings
from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, items

revision = "4d8e0b62f9a7"
down_revision = "c91f4a7be036"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.0"})

KEPT = "kept_by_anemoi_migrations"
MODEL = "hyper_parameters.config.model"
OPTION = "condition_on_residual"
EMBEDDINGS = (
    "model.model.encoder.emb_nodes_src.weight",
    "model.model.encoder.emb_nodes_src.mlp.0.weight",
    "model.model.decoder.emb_nodes_dst.weight",
)


class Columns:
    """Which columns of an embedding are for what: the input, what is skipped, attributes of nodes, and the step."""

    def __init__(self, ckpt: CkptType) -> None:
        indices = ckpt["hyper_parameters"]["data_indices"]
        steps = items.get(ckpt, "hyper_parameters.config.training.multistep_input")
        if steps is None:
            raise Refused(
                "it is an ensemble model, and its configuration does not say of how many steps (multistep_input)"
            )
        if not embeddings(ckpt["state_dict"]):
            raise Refused("it is an ensemble model, and no weights are known by which it takes in its input")
        known = indices.model.input.name_to_index
        self.input = steps * len(known)
        self.same = sorted(self.input - len(known) + known[name] for name in indices.prognostic)
        self.skipped = len(self.same)

    def add_up(self, weight: Any) -> Any:
        """Return a weight of which each variable that is given twice has one column."""
        added = self.leave_out(weight).clone()
        added[:, self.same] += weight[:, self.input : self.input + self.skipped]
        return added

    def take_apart(self, weight: Any, skipped: Any) -> Any:
        """Return a weight with columns for what is skipped, which make no difference."""
        apart = weight.clone()
        apart[:, self.same] -= skipped
        return self.put_in(apart, skipped)

    def leave_out(self, weight: Any) -> Any:
        """Return a weight without the columns for what is skipped."""
        import torch

        return torch.cat([weight[:, : self.input], weight[:, self.input + self.skipped :]], dim=1)

    def put_in(self, weight: Any, skipped: Any) -> Any:
        """Return a weight with columns for what is skipped."""
        import torch

        return torch.cat([weight[:, : self.input], skipped, weight[:, self.input :]], dim=1)

    def put_twice(self, moments: Any) -> Any:
        """Return what is remembered of columns, for both of those that are given the same."""
        return self.put_in(moments, moments[:, self.same])

    def to_the_end(self, weight: Any) -> Any:
        """Return a weight whose columns for what is skipped come behind all others."""
        import torch

        return torch.cat([self.leave_out(weight), weight[:, self.input : self.input + self.skipped]], dim=1)

    def from_the_end(self, weight: Any) -> Any:
        """Return a weight whose columns for what is skipped come behind the input again."""
        cut = weight.shape[1] - self.skipped
        return self.put_in(weight[:, :cut], weight[:, cut:])


def migrate(ckpt: CkptType) -> CkptType:
    """Have each variable be given once, or in the new order."""
    if not is_ensemble(ckpt):
        return ckpt
    columns, conditioned = Columns(ckpt), items.get(ckpt, f"{MODEL}.{OPTION}")
    if conditioned:
        change(ckpt, columns.to_the_end, columns.to_the_end)
        return ckpt
    if ckpt["hyper_parameters"].get("truncation_data"):
        raise Refused(
            "it is an ensemble model with a truncation, which releases from 0.11.0 on give their input otherwise: go on with "
            f"it in an earlier one, or have its configuration say {OPTION}, which 0.11.1 to 0.11.3 can run"
        )
    warnings.warn(
        "the ensemble model is given what it skips once, where it was twice: what it puts out stays the same, and it "
        "trains on with one weight where there were two",
        stacklevel=2,
    )
    before = [{key: copy[key] for key in embeddings(copy)} for copy in copies(ckpt)]
    moments = change(ckpt, columns.add_up, columns.leave_out)
    ckpt.setdefault(KEPT, {})[revision] = {"unsaid": conditioned is None, "weights": before, "moments": moments}
    if items.get(ckpt, MODEL) is not None:
        items.put(ckpt, f"{MODEL}.{OPTION}", False)
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Have them be given twice again: with the weights of before, or where there were none, with weights of zero."""
    if not is_ensemble(ckpt):
        return ckpt
    columns = Columns(ckpt)
    if items.get(ckpt, f"{MODEL}.{OPTION}"):
        change(ckpt, columns.from_the_end, columns.from_the_end)
        return ckpt
    everywhere, kept = copies(ckpt), ckpt.get(KEPT, {})
    aside = kept.pop(revision, {"unsaid": False, "weights": [{}] * len(everywhere), "moments": []})
    if not kept:
        ckpt.pop(KEPT, None)
    now = [{key: copy[key] for key in embeddings(copy)} for copy in everywhere]
    change(ckpt, lambda weight: columns.take_apart(weight, 0 * weight[:, columns.same]), columns.put_twice)
    for copy, weights, before in zip(everywhere, now, aside["weights"], strict=True):
        for key in before:
            copy[key] = as_before(weights[key], before[key], columns)
    for number, position, name, before in aside["moments"]:
        state = ckpt["optimizer_states"][number]["state"][position]
        if columns.leave_out(before).equal(columns.leave_out(state[name])):
            state[name] = before
    if aside["unsaid"] and items.get(ckpt, MODEL) is not None:
        items.take(ckpt, f"{MODEL}.{OPTION}")
    return ckpt


def as_before(now: Any, before: Any, columns: Columns) -> Any:
    """Return a weight as it was, or if it was trained since, one that makes of its input what it does now."""
    if columns.add_up(before).equal(now):
        return before
    return columns.take_apart(now, before[:, columns.input : columns.input + columns.skipped])


# What has such columns.


def is_ensemble(ckpt: CkptType) -> bool:
    """Tell by what injects noise, or by the configuration."""
    target = str(items.get(ckpt, f"{MODEL}.model._target_") or "")
    return "AnemoiEnsModel" in target or any(
        key.startswith("model.model.noise_injector.") for key in ckpt["state_dict"]
    )


def copies(ckpt: CkptType) -> list[dict[str, Any]]:
    """Return the state dict, and copies of it."""
    names = list(ckpt["state_dict"])
    return [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]


def embeddings(copy: dict[str, Any]) -> list[str]:
    """Return the weights that take in what the model is given."""
    return [key for key in EMBEDDINGS if key in copy]


def change(ckpt: CkptType, weight: Callable[[Any], Any], moments: Callable[[Any], Any]) -> list[list[Any]]:
    """Make other weights, and other moments of them; return where these were, and what."""
    before = moments_of(ckpt)
    for copy in copies(ckpt):
        for key in embeddings(copy):
            copy[key] = weight(copy[key])
    for number, position, name, value in before:
        ckpt["optimizer_states"][number]["state"][position][name] = moments(value)
    return before


def moments_of(ckpt: CkptType) -> list[list[Any]]:
    """Return what optimizers remember of the weights, and where, as shapes tell."""
    state_dict = ckpt["state_dict"]
    shapes = {tuple(state_dict[key].shape) for key in embeddings(state_dict)}
    found = [
        [number, position, name, value]
        for number, optimizer in enumerate(ckpt.get("optimizer_states", []))
        for position, state in optimizer["state"].items()
        for name, value in state.items()
        if tuple(getattr(value, "shape", ())) in shapes
    ]
    others = [key for key, value in state_dict.items() if tuple(value.shape) in shapes and key not in EMBEDDINGS]
    if found and others:
        raise Refused(
            f"what the optimizer remembers of {others[0]} cannot be told from what it remembers of embeddings"
        )
    return found
