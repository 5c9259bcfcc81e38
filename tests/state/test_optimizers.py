"""Train, save, migrate, load into the new model, train on: bit for bit what the old model would have done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.support.operations import FUSING, New, Old, batches, declare, equal, train, trained, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

Make = Callable[[nn.Module], Any]


def one_group(kind: Any, **options: Any) -> Make:
    return lambda model: kind(model.parameters(), **options)


def named(kind: Any, **options: Any) -> Make:
    return lambda model: kind(model.named_parameters(), **options)


def by_dimension(model: nn.Module) -> Any:
    """Matrices decay, vectors do not: the usual two groups."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}])


OPTIMIZERS = {
    "AdamW": one_group(torch.optim.AdamW, lr=1e-2),
    "AdamW, foreach": one_group(torch.optim.AdamW, lr=1e-2, foreach=True),
    "AdamW, fused": one_group(torch.optim.AdamW, lr=1e-2, fused=True),
    "AdamW, amsgrad": one_group(torch.optim.AdamW, lr=1e-2, amsgrad=True),
    "AdamW, by name": named(torch.optim.AdamW, lr=1e-2),
    "AdamW, two groups": by_dimension,
    "SGD": one_group(torch.optim.SGD, lr=1e-2),
    "SGD, momentum": one_group(torch.optim.SGD, lr=1e-2, momentum=0.9),
    "SGD, nesterov": one_group(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True),
    "Adagrad": one_group(torch.optim.Adagrad, lr=1e-2),
    "RMSprop": one_group(torch.optim.RMSprop, lr=1e-3, momentum=0.5, centered=True),
    "RMSprop, by name": named(torch.optim.RMSprop, lr=1e-3),
}


def saved(path: Path, model: nn.Module, optimizer: Any, **more: Any) -> Path:
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], **more}, path)
    return path


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_happened(project: Folder, kind: str) -> None:
    """q, k, v -> qkv with their moments: at the end, the weights are those of the old model, trained on."""
    make = OPTIMIZERS[kind]
    model, optimizer = trained(make)
    checkpoint = saved(project.path / "last.ckpt", model, optimizer)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", checkpoint)

    tree = torch.load(checkpoint, weights_only=True)
    new = New()
    new.load_state_dict(tree["state_dict"])
    went_on = make(new)
    went_on.load_state_dict(tree["optimizer_states"][0])
    train(model, optimizer, batches(5, seed=1))
    train(new, went_on, batches(5, seed=1))

    expected = torch.cat([model.q.weight, model.k.weight, model.v.weight])
    assert torch.equal(new.qkv.weight, expected)
    assert torch.equal(new.qkv.bias, torch.cat([model.q.bias, model.k.bias, model.v.bias]))
    assert torch.equal(new.proj.weight, model.out.weight)
    assert torch.equal(new.norm.weight, model.norm.weight)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_way_back_restores_everything(project: Folder, kind: str) -> None:
    model, optimizer = trained(OPTIMIZERS[kind])
    checkpoint = saved(project.path / "last.ckpt", model, optimizer, epoch=3)
    before = torch.load(checkpoint, weights_only=True)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)


def test_the_way_back_needs_no_script_and_no_trust(project: Folder) -> None:
    """The record holds data: code that has never seen the script takes the file back."""
    model, optimizer = trained(OPTIMIZERS["AdamW"])
    checkpoint = saved(project.path / "last.ckpt", model, optimizer)
    before = torch.load(checkpoint, weights_only=True)
    script = declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", checkpoint)
    script.unlink()
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)


def test_frozen_parameters_are_not_in_the_optimizer(project: Folder) -> None:
    """k, q, v are fused, all frozen; the optimizer has only what is left, and moves up."""
    torch.manual_seed(0)
    model = Old()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("out", "norm"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    train(model, optimizer, batches(3))
    # q.bias and norm.weight have one shape, so only the names tell them apart.
    checkpoint = saved(project.path / "last.ckpt", model, optimizer)
    declare(project, "a1", *FUSING)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "moments that may belong to" in ran.err
    assert "op.ParameterGroups" in ran.err

    declare(project, "a1", 'op.ParameterGroups([["norm.weight", "norm.bias", "out.*"]])', *FUSING)
    before = torch.load(checkpoint, weights_only=True)
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)
    assert list(after["state_dict"])[:2] == ["qkv.weight", "qkv.bias"]
    assert equal(after["optimizer_states"], before["optimizer_states"])
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)


def test_half_frozen_is_refused(project: Folder) -> None:
    """k has moments, q has none: nobody can fuse them."""
    model, optimizer = trained(OPTIMIZERS["AdamW"])
    state = optimizer.state_dict()
    del state["state"][0]  # q.weight
    checkpoint = project.path / "last.ckpt"
    torch.save({"state_dict": model.state_dict(), "optimizer": state}, checkpoint)
    before = digest(checkpoint)
    declare(project, "a1", *FUSING)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "the optimizer has moments for some of them and none for others" in ran.err
    assert digest(checkpoint) == before


def test_groups_apart_are_refused(project: Folder) -> None:
    torch.manual_seed(0)
    model = Old()
    optimizer = torch.optim.SGD(
        [
            {"params": [("q.weight", model.q.weight)], "lr": 0.1},
            {"params": [(name, p) for name, p in model.named_parameters() if name != "q.weight"]},
        ],
        lr=1e-2,
        momentum=0.9,
    )
    train(model, optimizer, batches(3))
    checkpoint = saved(project.path / "last.ckpt", model, optimizer)
    declare(project, "a1", *FUSING)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "they are in groups 0 and 1 of the optimizer" in ran.err


class Tied(nn.Module):
    """An embedding that is the head too."""

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.wte(x)))


def tied(project: Folder) -> tuple[Path, Any]:
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, [torch.randint(0, 11, (4,)) for _ in range(3)])
    return saved(project.path / "last.ckpt", model, optimizer), optimizer.state_dict()


def test_a_tied_head_goes_and_the_moments_stay(project: Folder) -> None:
    """wte -- head, one memory: dropping either name leaves the parameter, and what is remembered of it."""
    for name, place in (("head.weight", 0), ("wte.weight", 2)):
        checkpoint, state = tied(project)
        before = torch.load(checkpoint, weights_only=True)
        declare(project, "a1", f'op.Drop("{name}", keep=True)')
        project.ok("upgrade", "head", checkpoint, "--check-rollback")
        after = torch.load(checkpoint, weights_only=True)
        moments = after["optimizer_states"][0]["state"]
        assert len(moments) == 3
        assert torch.equal(moments[place]["exp_avg"], state["state"][0]["exp_avg"])
        project.ok("downgrade", "base", checkpoint)
        back = without_record(torch.load(checkpoint, weights_only=True))
        assert equal(back, before)
        weights = back["state_dict"]
        assert weights["head.weight"].data_ptr() == weights["wte.weight"].data_ptr()


def test_tied_weights_do_not_come_apart_unseen(project: Folder) -> None:
    checkpoint, _ = tied(project)
    declare(project, "a1", 'op.Transpose("head.weight")')
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "shares its memory with" in ran.err
    declare(project, "a1", 'op.Transpose(["wte.weight", "head.weight"])')
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert weights["head.weight"].data_ptr() == weights["wte.weight"].data_ptr()


def test_an_added_parameter_is_fresh_and_a_dropped_one_gone(project: Folder) -> None:
    model, optimizer = trained(OPTIMIZERS["AdamW"])
    checkpoint = saved(project.path / "last.ckpt", model, optimizer)
    before = torch.load(checkpoint, weights_only=True)
    declare(project, "a1", 'op.Add("scale", [8], fill=1, index=0)', 'op.Drop("k.*", keep=True)')
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)
    assert list(after["state_dict"])[:4] == ["scale", "q.weight", "q.bias", "v.weight"]
    state = after["optimizer_states"][0]
    assert state["param_groups"][0]["params"] == list(range(9))
    assert 0 not in state["state"]
    assert torch.equal(state["state"][3]["exp_avg"], before["optimizer_states"][0]["state"][4]["exp_avg"])
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)


def test_what_was_trained_is_not_thrown_away_unasked(project: Folder) -> None:
    model, optimizer = trained(OPTIMIZERS["SGD"])
    checkpoint = saved(project.path / "last.ckpt", model, optimizer)
    declare(project, "a1", 'op.Add("scale", [8], fill=1)')
    project.ok("upgrade", "head", checkpoint)
    tree = torch.load(checkpoint, weights_only=True)
    tree["state_dict"]["scale"] += 1
    torch.save(tree, checkpoint)
    before = digest(checkpoint)
    ran = project.run("downgrade", "base", checkpoint)
    assert ran.code == 1
    assert "--discard-changes removes it" in ran.err
    assert digest(checkpoint) == before
    project.ok("downgrade", "base", checkpoint, "--discard-changes")
    assert "scale" not in torch.load(checkpoint, weights_only=True)["state_dict"]


def test_names_as_keys(project: Folder) -> None:
    """As torch.distributed.checkpoint.state_dict and FSDP save it: the state by name."""
    model, optimizer = trained(OPTIMIZERS["AdamW"])
    state = optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    state["state"] = {names[key]: value for key, value in state["state"].items()}
    state["param_groups"][0]["params"] = names
    checkpoint = project.path / "last.ckpt"
    torch.save({"model": model.state_dict(), "optim": state}, checkpoint)
    before = torch.load(checkpoint, weights_only=True)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)["optim"]
    assert after["param_groups"][0]["params"][:2] == ["qkv.weight", "qkv.bias"]
    assert after["state"]["qkv.weight"]["exp_avg"].shape == (24, 8)
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)
