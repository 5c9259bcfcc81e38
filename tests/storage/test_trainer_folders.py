"""Folders of a trainer: weights with the state of their optimizer beside them, which change together."""

from __future__ import annotations

import collections
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")
pytest.importorskip("transformers")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.errors import CannotRead  # noqa: E402
from anemoi_ckpt_migrate.storage import folder_exchange, open_checkpoint  # noqa: E402
from tests.support import faults, trainer  # noqa: E402
from tests.support.fleets import found, not_root  # noqa: E402
from tests.support.forks import Forks  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, leftovers  # noqa: E402

RENAME = 'op.RenamePrefix("out.", "proj.")'
KINDS = ["safetensors", "sharded safetensors", "bin", "sharded bin"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the Trainer for each kind of weights, and one of accelerate."""
    top = tmp_path_factory.mktemp("trained")
    for kind in KINDS:
        trainer.saved(top / kind, kind)
    trainer.saved(top / "accelerate", ending="bin", groups=1)
    return top


@pytest.fixture
def run(project: Folder, written: Path) -> Callable[[str], Path]:
    """Copies a folder into the project."""
    return lambda kind="safetensors": Path(shutil.copytree(written / kind, project.path / "run"))


def state(folder: Path) -> dict[str, bytes]:
    return dict(trainer.content_of(folder))


def refused(project: Folder, code: int, says: str, *words: object) -> None:
    """A command refuses with one sentence, and nothing changes."""
    old = state(project.path)
    ran = project.run(*(words or ("upgrade", "head", "run")))
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert says in ran.err
    assert state(project.path) == old
    assert not leftovers(project.path)


# Renamed


@pytest.mark.parametrize("kind", [*KINDS, "accelerate"])
def test_a_rename_leaves_every_byte_of_the_optimizer(project: Folder, run: Any, kind: str) -> None:
    """Whichever parameter is at which position: none moves."""
    folder = run(kind)
    before, old = trainer.weights(folder), state(folder)
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.weights(folder)
    assert torch.equal(now["proj.weight"], before["out.weight"])
    assert "out.weight" not in now
    assert state(project.path / "run.bak") == old
    index = {name for name in old if name.endswith(".index.json")}
    changed = {name for name, content in state(folder).items() if content != old.get(name)}
    assert changed - index == {name for name in changed if "model" in name and not name.endswith(".json")}
    assert project.ok("current", "run").out.split()[1:2] == ["a1"]
    project.ok("downgrade", "base", "run")
    assert trainer.same(trainer.weights(folder), before)
    assert {name: text for name, text in state(folder).items() if "model" not in name} == {
        name: text for name, text in old.items() if "model" not in name
    }


def test_a_rename_in_one_shard_writes_that_shard_alone(project: Folder, run: Any) -> None:
    folder = run("sharded safetensors")
    inodes = {each.name: each.stat().st_ino for each in folder.iterdir()}
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", "run", "--no-backup")
    kept = {each.name for each in folder.iterdir() if each.stat().st_ino == inodes[each.name]}
    assert inodes.keys() - kept == {"model-00002-of-00002.safetensors", "model.safetensors.index.json"}


def test_hard_links_on_demand(project: Folder, run: Any) -> None:
    folder = run()
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", "run", "--hard-link")
    assert (folder / "optimizer.pt").samefile(project.path / "run.bak" / "optimizer.pt")
    assert not (folder / "model.safetensors").samefile(project.path / "run.bak" / "model.safetensors")


def test_a_rename_without_torch_and_without_the_libraries(project: Folder, run: Any) -> None:
    run()
    declare(project, "a1", RENAME)
    code = (
        "import sys; from anemoi_ckpt_migrate import cli; code = cli.main(['upgrade', 'head', 'run']); "
        "sys.exit(code or any(name.partition('.')[0] in ('torch', 'safetensors', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The optimizer follows


@pytest.mark.parametrize("kind", KINDS)
def test_fused_renamed_dropped_and_back(project: Folder, run: Any, kind: str) -> None:
    """The optimizer that comes out is the one by hand, and a model of the new code trains on with it alike."""
    folder = run(kind)
    weights, optimizer = trainer.weights(folder), trainer.optimizer_in(folder)
    declare(project, "a1", *([] if kind == "bin" else [trainer.GROUPS]), *trainer.CHANGES)
    project.ok("upgrade", "head", "run", "--check-rollback")
    expected = trainer.fused(weights), trainer.by_hand(optimizer)
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), expected)
    ends = []
    for state_dict, moments in ((trainer.weights(folder), trainer.optimizer_in(folder)), expected):
        model = trainer.model(trainer.New, seed=5)
        model.load_state_dict(state_dict, strict=True)
        adam = trainer.optimizer_of(model)
        adam.load_state_dict(copy.deepcopy(moments))
        trainer.trained(model, adam, trainer.batches(2, seed=7))
        ends.append((model.state_dict(), adam.state_dict()))
    assert trainer.same(*ends)
    project.ok("downgrade", "base", "run")
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), (weights, optimizer))


def test_accelerate_with_one_group(project: Folder, run: Any) -> None:
    folder = run("accelerate")
    weights, optimizer = trainer.weights(folder), trainer.optimizer_in(folder)
    names = [name for name, _ in trainer.model().named_parameters()]
    declare(project, "a1", f"op.ParameterGroups({[names]})", *trainer.CHANGES)
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.optimizer_in(folder)
    order = [name for name, _ in trainer.model(trainer.New).named_parameters()]
    assert now["param_groups"][0]["params"] == list(range(len(order)))
    place = order.index("qkv.bias")
    parts = [optimizer["state"][names.index(f"{part}.bias")]["exp_avg"] for part in "qkv"]
    assert torch.equal(now["state"][place]["exp_avg"], torch.cat(parts))
    project.ok("downgrade", "base", "run")
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), (weights, optimizer))


def test_another_order_of_the_model(project: Folder, run: Any) -> None:
    """The order in the files means nothing, but that of the model does to its optimizer."""
    folder = run()
    optimizer = trainer.optimizer_in(folder)
    declare(project, "a1", trainer.GROUPS, 'op.Reorder(["v.{i}", "q.{i}"])')
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.optimizer_in(folder)["state"]
    order = {0: 2, 2: 0, 5: 7, 7: 5}  # q and v: their weights in one group, their biases in the other
    assert trainer.same(now, {place: optimizer["state"][order.get(place, place)] for place in range(12)})
    project.ok("downgrade", "base", "run")
    assert trainer.same(trainer.optimizer_in(folder), optimizer)


def test_a_new_parameter(project: Folder, run: Any) -> None:
    folder = run()
    before = trainer.weights(folder), trainer.optimizer_in(folder)
    declare(project, "a1", trainer.GROUPS, 'op.Add("gate.weight", [8, 8], after="k.weight", group=0)')
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.optimizer_in(folder)
    assert [len(group["params"]) for group in now["param_groups"]] == [6, 7]
    assert trainer.same(now["state"][3], before[1]["state"][2])
    assert not now["state"].get(2, {}).get("exp_avg", torch.zeros(1)).any()
    assert not trainer.weights(folder)["gate.weight"].any()
    project.ok("downgrade", "base", "run")
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), before)


@pytest.mark.parametrize(
    ("operation", "other"),
    [
        ('op.Reorder(["norm.weight", "q.weight"])', "q.weight"),
        ('op.Add("gate.weight", [8, 8], after="q.bias", group=0)', "q.bias"),
        ('op.Add("gate.weight", [8, 8], index=1, group=0)', "q.bias"),
    ],
)
def test_between_groups_the_order_is_unknown(project: Folder, run: Any, operation: str, other: str) -> None:
    run()
    declare(project, "a1", trainer.GROUPS, operation)
    refused(
        project, 1,
        f"the files do not keep the order of the model, so the neighbours of {other} are known only in its group "
        "of the optimizer at optimizer; name parameters of one group at a time",
    )  # fmt: skip


OPERATIONS = (
    trainer.FUSED,
    'op.RenamePrefix("out.", "proj.")',
    'op.Drop("{name}.weight", keep=True)',
    'op.Drop("{name}.bias", keep=True)',
    'op.Reorder(["{other}.weight", "{name}.weight"])',
    'op.Reorder(["{other}.bias", "{name}.bias"])',
    'op.Add("new.weight", [8, 8], after="{name}.weight", group=0)',
    'op.Transpose("{name}.weight", 0, 1)',
    'op.Split("{name}.weight", ["first.weight", "second.weight"])',
)


@settings(max_examples=12)
@given(data=st.data())
def test_as_in_a_file_of_torch(written: Path, data: st.DataObject) -> None:
    """The same operations on one file with the same state, which is in the order of the model."""
    chosen = data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4))
    layers = st.sampled_from(["q", "k", "v", "spare"])
    lines = [each.replace("{name}", data.draw(layers)).replace("{other}", data.draw(layers)) for each in chosen]
    with tempfile.TemporaryDirectory() as top:
        folder, file = Path(shutil.copytree(written / "safetensors", Path(top, "run"))), Path(top, "run.ckpt")
        (Path(top) / "versions").mkdir()
        (Path(top) / "ckpt-migrate.toml").touch()
        values = trainer.weights(folder)
        model = {name: values[name] for name, _ in trainer.model().named_parameters()}
        torch.save({"model": model, "optimizer": trainer.optimizer_in(folder)}, file)
        project = Folder(Path(top), None)
        declare(project, "a1", trainer.GROUPS, *lines)
        outcomes = []
        for path in (file, folder):
            try:
                cm.upgrade(path, "head", project=top, check_rollback=True)
                outcomes.append(True)
            except cm.MigrateError:
                outcomes.append(False)
        event(f"migrated: {outcomes[0]}")
        assert outcomes[0] == outcomes[1], lines
        new = torch.load(file, weights_only=True)
        assert trainer.same(trainer.weights(folder), new["model"]), lines
        assert trainer.same(trainer.optimizer_in(folder), new["optimizer"]), lines
        if outcomes[0]:
            cm.downgrade(folder, "base", project=top)
        assert trainer.same(trainer.weights(folder), model), lines
        assert trainer.same(trainer.optimizer_in(folder), trainer.optimizer_in(written / "safetensors")), lines


def test_tied_weights_are_one_parameter(project: Folder) -> None:
    """The files hold one of the tied weights, and the manifest both: the model counts the first."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=16,
    )  # fmt: skip
    model, folder = transformers.LlamaForCausalLM(config), project.path / "run"
    model.save_pretrained(folder)
    adam = trainer.optimizer_of(model)
    adam.zero_grad()
    model(torch.arange(4)[None], labels=torch.arange(4)[None]).loss.backward()
    adam.step()
    torch.save(adam.state_dict(), folder / "optimizer.pt")
    assert "lm_head.weight" not in trainer.weights(folder)
    code = f"import transformers\n\ndef build():\n    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{config.to_diff_dict()}))\n"
    (project.path / "tied.py").write_text(code)
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\n[models]\nnet = "tied:build"\n')
    project.ok("manifest", "--update")
    layer = "model.layers.{n}.self_attn"
    declare(project, "a1", f'op.Fuse(["{layer}.q_proj.weight", "{layer}.k_proj.weight"], "{layer}.qk.weight")')
    project.ok("upgrade", "head", "run", "--no-check-model", "--check-rollback")
    names = [name for name, value in model.named_parameters() if value.ndim > 1]
    states, now = adam.state_dict()["state"], trainer.optimizer_in(folder)["state"]
    assert names[:3] == [
        "model.embed_tokens.weight",
        *(f"model.layers.0.self_attn.{each}_proj.weight" for each in "qk"),
    ]
    assert torch.equal(now[1]["exp_avg"], torch.cat([states[place]["exp_avg"] for place in (1, 2)]))
    assert trainer.same(now[0], states[0])
    assert trainer.same([now[place] for place in range(2, 9)], [states[place] for place in range(3, 10)])
    sys.modules.pop("tied", None)


def test_what_was_known_at_an_upgrade_is_in_the_record(project: Folder, run: Any) -> None:
    """A later revision, and a downgrade, need no names of their own."""
    folder = run()
    weights, optimizer = trainer.weights(folder), trainer.optimizer_in(folder)
    declare(project, "a1", trainer.GROUPS, trainer.FUSED)
    declare(project, "a2", *trainer.CHANGES[1:], parents="a1")
    project.ok("upgrade", "a1", "run")
    project.ok("upgrade", "head", "run")
    assert trainer.same(trainer.optimizer_in(folder), trainer.by_hand(optimizer))
    project.ok("downgrade", "base", "run")
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), (weights, optimizer))


def test_a_function_changes_a_moment(project: Folder, run: Any) -> None:
    folder = run()
    before = trainer.optimizer_in(folder)
    project.script(
        "a1",
        None,
        'ckpt["optimizer"]["state"][0]["exp_avg"].mul_(2)',
        'ckpt["optimizer"]["state"][0]["exp_avg"].div_(2)',
    )
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.optimizer_in(folder)
    assert torch.equal(now["state"][0]["exp_avg"], 2 * before["state"][0]["exp_avg"])
    assert torch.equal(now["state"][1]["exp_avg"], before["state"][1]["exp_avg"])
    project.ok("downgrade", "base", "run")
    assert trainer.same(trainer.optimizer_in(folder), before)


def test_a_function_for_folders_with_and_without_an_optimizer(project: Folder, run: Any) -> None:
    folder = run()
    alone = Path(shutil.copytree(folder, project.path / "alone"))
    (alone / "optimizer.pt").unlink()
    up = 'weights = ckpt.get("model", ckpt)\nweights["proj.bias"] = weights.pop("out.bias")'
    down = 'weights = ckpt.get("model", ckpt)\nweights["out.bias"] = weights.pop("proj.bias")'
    project.script("a1", None, up, down)
    project.ok("upgrade", "head", "run", "alone", "--check-rollback")
    assert trainer.same(trainer.weights(folder), trainer.weights(alone))
    assert "proj.bias" in trainer.weights(alone)
    project.ok("downgrade", "base", "run", "alone")


def test_a_function_makes_new_tensors_in_both_files(project: Folder, run: Any) -> None:
    """Both get storages of their own, which the file does not have yet."""
    folder = run()
    before = trainer.weights(folder), trainer.optimizer_in(folder)
    project.script(
        "a1",
        None,
        'ckpt["model"]["out.bias"] = ckpt["model"]["out.bias"] + 1\n'
        'ckpt["optimizer"]["state"][0]["exp_avg"] = ckpt["optimizer"]["state"][0]["exp_avg"] * 4',
        'ckpt["model"]["out.bias"] = ckpt["model"]["out.bias"] - 1\n'
        'ckpt["optimizer"]["state"][0]["exp_avg"] = ckpt["optimizer"]["state"][0]["exp_avg"] / 4',
    )
    project.ok("upgrade", "head", "run")
    assert torch.equal(trainer.weights(folder)["out.bias"], before[0]["out.bias"] + 1)
    now, old = trainer.optimizer_in(folder)["state"], before[1]["state"]
    assert torch.equal(now[0]["exp_avg"], old[0]["exp_avg"] * 4)
    assert trainer.same([now[place] for place in range(1, 12)], [old[place] for place in range(1, 12)])


def test_options_and_json_are_reached(project: Folder, run: Any) -> None:
    """The keys of the tree are the names of the files; trainer_state.json is reached as config.json is."""
    folder = run()
    old = state(folder)
    declare(
        project,
        "a1",
        'op.SetItem("optimizer.param_groups.0.lr", 0.5)',
        'op.SetItem("scheduler.base_lrs", [0.5, 0.5])',
        'op.At([], [op.SetItem("global_step", 3)], records={"trainer_state.json": ""})',
    )
    project.ok("upgrade", "head", "run", "--check-rollback")
    assert trainer.optimizer_in(folder)["param_groups"][0]["lr"] == 0.5
    assert torch.load(folder / "scheduler.pt")["base_lrs"] == [0.5, 0.5]
    assert json.loads((folder / "trainer_state.json").read_bytes())["global_step"] == 3
    project.ok("downgrade", "base", "run")
    assert trainer.same(torch.load(folder / "scheduler.pt"), torch.load(project.path / "run.bak" / "scheduler.pt"))
    assert (folder / "trainer_state.json").read_bytes() == old["trainer_state.json"]


# Which parameter is at which position


def test_ambiguous_and_the_ways_out(project: Folder, run: Any) -> None:
    """Files of safetensors are sorted by name. Nothing but names, or the manifest, tells the order of the model."""
    run()
    declare(project, "a1", trainer.FUSED)
    refused(
        project, 1,
        "the optimizer at optimizer has moments that may belong to k.weight or to out.weight, as the files do not keep "
        "the order of the model; list their names with op.ParameterGroups([[...]]), in the optimizer's order, or record "
        "the model with `ckpt-migrate manifest --update`",
    )  # fmt: skip
    declare(project, "a1", 'op.ParameterGroups([["*.weight"], ["*"]], exclude=["norm.*"])', trainer.FUSED)
    refused(
        project, 1, "ParameterGroups lists *.weight, which selects k.weight and out.weight, but the files do not keep"
    )
    declare(project, "a1", trainer.GROUPS, trainer.FUSED)
    project.ok("upgrade", "head", "run")


def test_shapes_that_contradict_names(project: Folder, run: Any) -> None:
    run()
    wrong = {"norm.weight": "out.weight", "out.weight": "norm.weight"}
    groups = [[wrong.get(name, name) for name in own] for own in (trainer.DECAY, trainer.NO_DECAY)]
    declare(project, "a1", f"op.ParameterGroups({groups})", trainer.FUSED)
    refused(
        project,
        1,
        "the optimizer at optimizer has moments of the shape [8, 8] for norm.weight, which has the shape [8]",
    )


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_another_count_than_that_of_the_model(project: Folder, run: Any, kind: str) -> None:
    """A rename passes by; what has to know the parameters is refused."""
    folder = run(kind)
    content = trainer.optimizer_in(folder)
    content["param_groups"][1]["params"] += [12, 13]
    content["state"] |= {12: content["state"][11], 13: content["state"][11]}
    torch.save(content, folder / "optimizer.pt")
    declare(project, "a1", RENAME)
    project.ok("upgrade", "head", "run")
    declare(project, "a2", trainer.FUSED, parents="a1")
    old = state(folder)
    ran = project.run("upgrade", "head", "run")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "the 14 parameters of the optimizer at optimizer do not match the shapes" in ran.err
    assert state(folder) == old


def test_each_shape_of_one_parameter_only(project: Folder) -> None:
    """Then the shapes tell all, in any order."""
    folder = project.path / "run"
    folder.mkdir()
    from safetensors.torch import save_file

    values = {"z": torch.randn(2, 3), "a": torch.randn(4, 2), "m": torch.randn(5)}
    adam = torch.optim.Adam([value.requires_grad_() for value in values.values()])
    sum(value.square().sum() for value in values.values()).backward()
    adam.step()
    save_file({name: value.detach() for name, value in values.items()}, folder / "model.safetensors")
    torch.save(adam.state_dict(), folder / "optimizer.pt")
    declare(project, "a1", 'op.Transpose("a", 0, 1)')
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.optimizer_in(folder)["state"]
    assert [list(each["exp_avg"].shape) for each in now.values()] == [[2, 3], [2, 4], [5]]
    assert torch.equal(now[1]["exp_avg"], adam.state_dict()["state"][1]["exp_avg"].T)


@pytest.fixture
def with_manifest(project: Folder) -> Folder:
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\n[models]\nnet = "nets:build"\n')
    (project.path / "nets.py").write_text(
        "from tests.support import trainer\n\ndef build():\n    return trainer.Old(trainer.Config())\n"
    )
    yield project
    sys.modules.pop("nets", None)


def test_the_manifest_knows_the_order(with_manifest: Folder, run: Any) -> None:
    """No script has to name anything; the way back needs no manifest."""
    project, folder = with_manifest, run()
    weights, optimizer = trainer.weights(folder), trainer.optimizer_in(folder)
    project.ok("manifest", "--update")
    declare(project, "a1", *trainer.CHANGES)
    project.ok("upgrade", "head", "run", "--check-rollback")
    assert trainer.same(trainer.optimizer_in(folder), trainer.by_hand(optimizer))
    (project.path / "versions" / "manifest.json").unlink()
    project.ok("downgrade", "base", "run")
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), (weights, optimizer))


def test_patterns_where_the_manifest_tells_the_order(with_manifest: Folder, run: Any) -> None:
    project, folder = with_manifest, run()
    optimizer = trainer.optimizer_in(folder)
    project.ok("manifest", "--update")
    declare(project, "a1", f'op.ParameterGroups([{trainer.DECAY}, ["*"]])', *trainer.CHANGES)
    project.ok("upgrade", "head", "run")
    assert trainer.same(trainer.optimizer_in(folder), trainer.by_hand(optimizer))


def test_names_in_the_optimizer(project: Folder, run: Any) -> None:
    """torch saves them if the optimizer was made from named parameters."""
    folder = run()
    model = trainer.model()
    adam = torch.optim.AdamW([(name, value) for name, value in model.named_parameters()])
    trainer.trained(model, adam, trainer.batches(1))
    torch.save(adam.state_dict(), folder / "optimizer.pt")
    declare(project, "a1", *trainer.CHANGES)
    project.ok("upgrade", "head", "run", "--check-rollback")
    now = trainer.optimizer_in(folder)
    names = now["param_groups"][0]["param_names"]
    assert names == [name for name, _ in trainer.model(trainer.New).named_parameters()]
    parts = [adam.state[getattr(model, part).weight]["exp_avg"] for part in "qkv"]
    assert torch.equal(now["state"][names.index("qkv.weight")]["exp_avg"], torch.cat(parts))


def test_a_manifest_from_such_a_folder_knows_no_order(project: Folder, run: Any) -> None:
    run()
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\n[models]\nnet = "nets:build"\n')
    project.ok("manifest", "net", "--update", "--from", "run", "--at", "base")
    declare(project, "a1", trainer.FUSED)
    refused(project, 1, "as the files do not keep the order of the model")


# Interrupted


def test_weights_and_optimizer_change_together(project: Folder, forks: Forks, written: Path) -> None:
    """Killed at a system call: both are old, or both are new. Every eighth call before the exchange, all from there on."""
    declare(project, "a1", trainer.GROUPS, trainer.FUSED)
    (project.path / "runs").mkdir()
    folder = project.path / "runs" / "run"

    def begin() -> None:
        shutil.rmtree(folder.parent)
        shutil.copytree(written / "safetensors", folder)

    begin()
    forks.rehearse(project.path, "upgrade", "head", folder)
    begin()
    calls = faults.sound(forks, folder.parent, "upgrade", "head", folder)
    old, new = (_sides(each) for each in (written / "safetensors", folder))
    outcomes = collections.Counter[str]()
    struck = faults.struck(calls, faults.KILL)
    exchange = next(place for place, call in enumerate(struck) if call.name == "renameat2")
    for call in [*struck[:exchange:8], *struck[exchange:]]:
        begin()
        ran = faults.strike(forks, call, faults.KILL, folder.parent, "upgrade", "head", folder)
        assert ran.code == -signal.SIGKILL
        found = _sides(folder)
        assert found in (old, new), call
        if folder_exchange.has_journal(folder):
            project.ok("recover", folder)
            assert _sides(folder) == found
        project.ok("upgrade", "head", folder)
        assert _sides(folder) == new
        outcomes["new" if found == new else "old"] += 1
    assert outcomes["old"] > 3, outcomes
    assert outcomes["new"] > 1, outcomes


def _sides(folder: Path) -> tuple[list[str], list[int]]:
    """The names of the weights, and the positions of the optimizer."""
    return sorted(trainer.weights(folder)), list(trainer.optimizer_in(folder)["state"])


# Reading


def test_reading_commands(project: Folder, run: Any) -> None:
    folder = run()
    old = state(folder)
    declare(project, "a1", trainer.GROUPS, *trainer.CHANGES)
    shown = project.ok("inspect", "run").out
    assert "Hugging Face, safetensors, with optimizer.pt and scheduler.pt" in shown
    paths = {each["path"] for each in json.loads(project.ok("inspect", "--json", "run").out)["tensors"]}
    assert {"model.out.weight", "optimizer.state.0.exp_avg"} <= paths
    assert project.ok("current", "run").out.split()[1:2] == ["base,"]
    assert project.run("check", "run").code == 4
    project.ok("upgrade", "head", "run", "--dry-run")
    project.ok("inspect", "--verify", "run")
    loaded = cm.load("run")
    assert loaded.keys() == {"model", "optimizer", "scheduler"}
    expected = trainer.fused(trainer.weights(folder)), trainer.by_hand(trainer.optimizer_in(folder))
    assert trainer.same((loaded["model"], loaded["optimizer"]), expected)
    assert loaded["scheduler"]["base_lrs"] == [0.01, 0.01]
    with cm.upgraded("run") as path:
        assert trainer.same(trainer.optimizer_in(path), expected[1])
        assert (path / "trainer_state.json").read_bytes() == old["trainer_state.json"]
    assert state(folder) == old
    project.ok("upgrade", "head", "run")
    assert project.ok("check", "run").code == 0
    ran = project.run("diff", "run.bak", "run")
    assert ran.code == 0
    assert "qkv" in ran.out


def test_read_from_a_store(project: Folder, run: Any) -> None:
    """As a local folder; a file of it is refused there too, and so is a write."""
    fsspec = pytest.importorskip("fsspec")
    folder = run()
    store = fsspec.filesystem("memory")
    for name, text in state(folder).items():
        store.pipe(f"/trainer-folders/run/{name}", text)
    declare(project, "a1", trainer.GROUPS, *trainer.CHANGES)
    url = "memory://trainer-folders/run"
    assert "with optimizer.pt and scheduler.pt" in project.ok("inspect", url).out
    loaded = cm.load(url)
    assert trainer.same(loaded["optimizer"], trainer.by_hand(trainer.optimizer_in(folder)))
    ran = project.run("upgrade", "head", f"{url}/optimizer.pt")
    assert (ran.code, "give its folder, memory://trainer-folders/run" in ran.err) == (3, True)
    assert project.run("upgrade", "head", url).code == 3
    project.ok("upgrade", "head", url, "--output", "local")
    assert trainer.same(trainer.optimizer_in(project.path / "local"), loaded["optimizer"])
    assert (project.path / "local" / "rng_state.pth").read_bytes() == (folder / "rng_state.pth").read_bytes()
    store.rm("/trainer-folders", recursive=True)


def test_stamped(project: Folder, run: Any) -> None:
    folder = run("bin")
    old = state(folder)
    declare(project, "a1", RENAME)
    project.ok("stamp", "head", "run")
    assert project.ok("current", "run").out.split()[1:2] == ["a1"]
    assert {name for name, text in state(folder).items() if text != old[name]} == {"pytorch_model.bin"}
    assert trainer.same(trainer.weights(folder), trainer.weights(project.path / "run.bak"))
    project.ok("upgrade", "head", "run", "--output", "copy")
    assert state(project.path / "copy") == state(folder)


@pytest.mark.parametrize("kind", [*KINDS, "accelerate"])
def test_one_checkpoint_for_a_walk(project: Folder, run: Any, kind: str) -> None:
    """Neither the optimizer, nor the state of random numbers, nor the weights are found by themselves."""
    run(kind)
    declare(project, "a1", RENAME)
    assert found(project.path) == [["run"]]
    project.ok("upgrade", "head", "-r", ".")
    assert project.ok("current", "run").out.split()[1:2] == ["a1"]


@pytest.mark.parametrize(
    ("kind", "file"), [("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin"), ("bin", "optimizer.pt"),
                       ("safetensors", "scheduler.pt"), ("accelerate", "optimizer.bin")],
)  # fmt: skip
def test_a_file_of_it_is_refused_and_the_way_out(project: Folder, run: Any, kind: str, file: str) -> None:
    run(kind)
    declare(project, "a1", RENAME)
    refused(
        project, 3,
        f"run/{file}: it is part of weights with the state of their optimizer (run), which can only be migrated as a "
        "whole; give its folder, run",
        "upgrade", "head", f"run/{file}",
    )  # fmt: skip
    project.ok("upgrade", "head", "run")


# Refused


class Attack:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch attacked",)


def rewritten(file: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write an archive anew, with changed entries; None removes one."""
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            if (changed := change(name, content)) is not None:
                archive.writestr(name, changed)


def linked_out(folder: Path) -> None:
    (folder / "optimizer.pt").rename(folder.parent / "elsewhere.pt")
    (folder / "optimizer.pt").symlink_to(folder.parent / "elsewhere.pt")


def linked(folder: Path) -> None:
    (folder / "optimizer.pt").rename(folder / "blob")
    (folder / "optimizer.pt").symlink_to("blob")


HOSTILE: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no file of torch": (lambda run: (run / "optimizer.pt").write_bytes(b"text"), 1, "optimizer.pt: it is not a checkpoint"),
    "a file of torch before 1.6": (
        lambda run: torch.save(
            torch.load(run / "optimizer.pt"), run / "optimizer.pt", _use_new_zipfile_serialization=False
        ),
        1, "optimizer.pt: torch before 1.6 saved it; load it, and save it again with torch.save",
    ),
    "an empty file": (lambda run: (run / "optimizer.pt").write_bytes(b""), 1, "optimizer.pt: it is empty"),
    "a file that was cut": (lambda run: os.truncate(run / "optimizer.pt", 5000), 1, "optimizer.pt: it starts as a torch checkpoint"),
    "no state of an optimizer": (
        lambda run: torch.save({"a": 1}, run / "optimizer.pt"),
        1,
        "optimizer.pt in it does not hold the state of an optimizer; move it away",
    ),
    "a list": (lambda run: torch.save([], run / "optimizer.pt"), 1, "optimizer.pt in it does not hold the state"),
    "groups that are none": (
        lambda run: torch.save({"state": {}, "param_groups": [1]}, run / "optimizer.pt"), 1, "does not hold the state",
    ),
    "a missing payload": (
        lambda run: rewritten(run / "optimizer.pt", lambda name, text: None if name.endswith("data/3") else text),
        1,
        "optimizer.pt: the payload data/3 is missing",
    ),
    "a damaged pickle": (
        lambda run: rewritten(run / "scheduler.pt", lambda name, text: b"\x80\x02(" if name.endswith("data.pkl") else text),
        1,
        "scheduler.pt: its data.pkl is damaged or hostile",
    ),
    "missing weights": (
        lambda run: (run / "model-00002-of-00002.safetensors").unlink(), 1, "cannot be read (no such file or directory)",
    ),
    "a link out of it": (linked_out, 3, "optimizer.pt in it is a link that leads out of the folder"),
    "a link in it": (linked, 3, "optimizer.pt in it is a link, as in the cache of a hub; write elsewhere with --output"),
    "a folder": (
        lambda run: ((run / "optimizer.pt").unlink(), (run / "optimizer.pt").mkdir()), 1, "optimizer.pt in it is not a regular file",
    ),
    "two optimizers": (
        lambda run: shutil.copy(run / "optimizer.pt", run / "optimizer.bin"),
        3,
        "it has both optimizer.bin and optimizer.pt; move one of them to another folder",
    ),
    "two models": (
        lambda run: (run / "model_1.safetensors").touch(), 3, "it holds several models (model_1.safetensors), and nothing says",
    ),
    "DeepSpeed": (lambda run: (run / "global_step2").mkdir(), 3, "as DeepSpeed writes it (global_step2), which operations"),
    "FSDP": (lambda run: (run / "optimizer_0").mkdir(), 3, "as FSDP writes it (optimizer_0), which operations cannot take along"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_folder_that_lies(project: Folder, run: Any, attack: str) -> None:
    change, code, says = HOSTILE[attack]
    folder = run("sharded safetensors")
    change(folder)
    declare(project, "a1", RENAME)
    refused(project, code, says)


def test_an_optimizer_that_cannot_be_read(written: Path) -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        folder = Path(shutil.copytree(written / "safetensors", Path(top) / "run"))
        for each in (folder, *folder.iterdir()):
            each.chmod(0o755 if each.is_dir() else 0o644)
        (folder / "optimizer.pt").chmod(0o000)
        with not_root(), pytest.raises(CannotRead) as refusal, open_checkpoint(folder):
            pass
    assert refusal.value.sentence == "optimizer.pt in it cannot be read (permission denied)"


def test_no_code_in_the_optimizer_runs(project: Folder, run: Any) -> None:
    folder = run()
    torch.save({**trainer.optimizer_in(folder), "more": Attack()}, folder / "optimizer.pt")
    declare(project, "a1", RENAME)
    assert "posix.system" in project.ok("inspect", "run").out
    project.run("upgrade", "head", "run")
    project.run("diff", "run", "run")
    cm.load("run")
    assert not (project.path / "attacked").exists()


def test_keys_that_have_no_file(project: Folder, run: Any) -> None:
    run()
    declare(project, "a1", 'op.SetItem("epoch", 3)')
    refused(
        project, 1,
        "ckpt['epoch'] cannot be saved (the files of the folder stay the same, so its tree has model, optimizer, "
        "scheduler, and nothing else)",
    )  # fmt: skip
    declare(project, "a1", 'op.DropItem("scheduler")')
    refused(project, 1, "ckpt['scheduler'] cannot be saved (the files of the folder stay the same")


def test_damage_is_named(project: Folder, run: Any) -> None:
    folder = run()
    content = bytearray((folder / "optimizer.pt").read_bytes())
    with zipfile.ZipFile(folder / "optimizer.pt") as archive:
        place = next(info.header_offset for info in archive.infolist() if info.filename.endswith("data/1"))
    content[place + 200] ^= 1
    (folder / "optimizer.pt").write_bytes(content)
    ran = project.run("inspect", "--verify", "run")
    assert ran.code == 1
    assert "optimizer.pt/data/1" in ran.out + ran.err
