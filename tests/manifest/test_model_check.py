"""What comes of a migration is what the manifest says; and where a checkpoint stands that nobody stamped."""

from __future__ import annotations

import enum
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.models import FIRST, Models, begun  # noqa: E402
from tests.support.project import backups, digest, leftovers  # noqa: E402

WRONG = "ckpt['state_dict']['layer_norm.weight'] = ckpt['state_dict'].pop('norm.weight')"
BACK = "ckpt['state_dict']['norm.weight'] = ckpt['state_dict'].pop('layer_norm.weight')"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    r"""
    base - aaa - bbb - ccc
            |     |     '- a hyper-parameter moves
            |     '- head is top
            '- norm is layer_norm
    """
    found = begun(tmp_path, monkeypatch, capsys)
    found.code(FIRST)
    found.ok("manifest", "--update")
    found.save("old.ckpt")
    found.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")', name="norm is layer_norm")
    found.operations("bbb", "aaa", 'op.RenamePrefix("head.", "top.")', name="head is top")
    found.operations("ccc", "bbb", 'op.MoveItem("hyper_parameters", "config")', name="the configuration moves")
    found.code({"embed": FIRST["embed"], "layer_norm": FIRST["norm"], "top": FIRST["head"]})
    found.ok("manifest", "--update")
    return found


def at(models: Models, target: str, name: str = "") -> Path:
    """Return the checkpoint as it is at a revision, without a record."""
    path = models.path / (name or f"{target}.ckpt")
    shutil.copy(models.path / "old.ckpt", path)
    if target != "base":
        models.ok("upgrade", target, path, "--no-backup")
        states = torch.load(path)
        torch.save({name: value for name, value in states.items() if "migrat" not in name}, path)
    return path


def test_a_wrong_name_is_refused_before_anything_is_written(models: Models) -> None:
    """The function forgets one of two names."""
    models.script("aaa", None, WRONG, BACK)
    checkpoint = models.path / "old.ckpt"
    before = digest(checkpoint)
    for words in ([], ["--in-place"], ["-o", "new.ckpt"]):
        ran = models.run("upgrade", "head", checkpoint, *words)
        assert ran.code == 3
        assert ran.err == (
            f"ckpt-migrate: error: {checkpoint}: the result would not match the model net at ccc (layer_norm.bias is missing, "
            "norm.bias is left over): fix the scripts or the manifest, or skip this comparison with --no-check-model\n"
        )
    with pytest.raises(cm.Refused, match=r"layer_norm\.bias is missing"):
        cm.upgrade(checkpoint)
    with pytest.raises(cm.Refused, match=r"layer_norm\.bias is missing"):
        cm.sync(checkpoint)
    assert digest(checkpoint) == before
    assert not backups(checkpoint)
    assert not leftovers(models.path)
    models.ok("upgrade", "head", checkpoint, "--no-check-model")
    assert "norm.bias" in torch.load(checkpoint)["state_dict"]


def test_a_wrong_shape_is_refused_in_a_dry_run_too(models: Models) -> None:
    models.ok("manifest", "net", "--update", "--from", "old.ckpt", "--at", "base")
    models.operations("bbb", "aaa", 'op.RenamePrefix("head.", "top.")', 'op.Transpose("top.weight")')
    ran = models.run("upgrade", "head", "old.ckpt", "--dry-run")
    assert ran.code == 3
    assert "top.weight is [4, 2], not [2, 4]" in ran.err


def test_the_way_down_is_compared_too(models: Models) -> None:
    """What undoes ccc by hand breaks a name."""
    breaks = "ckpt['config'] = ckpt.pop('hyper_parameters')"
    back = "ckpt['hyper_parameters'] = ckpt.pop('config'); ckpt['state_dict']['x'] = ckpt['state_dict'].pop('top.bias')"
    models.script("ccc", "bbb", breaks, back)
    models.ok("upgrade", "head", "old.ckpt")
    before = digest(models.path / "old.ckpt")
    models.ok("manifest", "--update")  # that what was known of bbb is kept
    models.ok("manifest", "net", "--update", "--from", at_bbb(models), "--at", "bbb")
    ran = models.run("downgrade", "bbb", "old.ckpt")
    assert ran.code == 3
    assert "the result would not match the model net at bbb (top.bias is missing, x is left over)" in ran.err
    assert digest(models.path / "old.ckpt") == before
    models.ok("downgrade", "bbb", "old.ckpt", "--no-check-model")


def at_bbb(models: Models) -> Path:
    path = models.path / "bbb.ckpt"
    states = torch.load(models.path / "old.ckpt")
    torch.save({"state_dict": states["state_dict"]}, path)
    return path


def test_a_checkpoint_that_cannot_be_at_base(models: Models) -> None:
    """Nobody stamped it: before anything is run, that is said, and what to do."""
    checkpoint = at(models, "aaa")
    before = digest(checkpoint)
    ran = models.run("upgrade", "head", checkpoint)
    assert ran.code == 3
    assert ran.err == (
        f"ckpt-migrate: error: {checkpoint}: it has no record, so it should be at base, but it does not match the model net "
        "there (norm.weight is missing, norm.bias is missing, layer_norm.weight is left over, layer_norm.bias is left over): "
        f"`ckpt-migrate stamp auto {checkpoint}` finds its revision; --no-check-model skips this comparison\n"
    )
    assert digest(checkpoint) == before
    assert models.run("sync", checkpoint).code == 3
    models.ok("stamp", "auto", checkpoint)
    models.ok("upgrade", "head", checkpoint)
    assert "top.bias" in torch.load(checkpoint)["state_dict"]


@pytest.mark.parametrize("target", ["base", "aaa", "bbb", "ccc"])
def test_stamp_auto_finds_where_a_checkpoint_stands(models: Models, target: str) -> None:
    """At bbb and ccc the parameters are the same: whether the configuration moved tells them apart."""
    checkpoint = at(models, target)
    ran = models.ok("stamp", "auto", checkpoint, "--json")
    assert ran.lines[0]["to"] == ([] if target == "base" else [target])
    (found,) = models.ok("current", checkpoint, "--json").lines
    assert [head["revision"] for head in found["heads"]] == ([] if target == "base" else [target])
    models.ok("upgrade", "head", checkpoint)
    assert list(torch.load(checkpoint)["state_dict"])[-1] == "top.bias"


def test_several_places_fit(models: Models) -> None:
    """Without anything but parameters, nothing tells bbb from ccc."""
    states = torch.load(at(models, "bbb"))
    torch.save({"state_dict": states["state_dict"]}, "bare.ckpt")
    before = digest(models.path / "bare.ckpt")
    ran = models.run("stamp", "auto", "bare.ckpt")
    assert ran.code == 3
    assert ran.err.splitlines() == [
        "ckpt-migrate: error: bare.ckpt: 2 revisions match its parameters equally well; "
        "choose one with `ckpt-migrate stamp REV bare.ckpt`:",
        '    ccc (the configuration moves), of the model net, after op.MoveItem(["hyper_parameters"], ["config"])',
        "    bbb (head is top), of the model net",
    ]
    assert digest(models.path / "bare.ckpt") == before


def test_no_place_fits(models: Models) -> None:
    states = torch.load(at(models, "aaa"))
    states["state_dict"]["more"] = torch.ones(3)
    torch.save(states, "more.ckpt")
    before = digest(models.path / "more.ckpt")
    ran = models.run("stamp", "auto", "more.ckpt")
    assert ran.code == 3
    assert ran.err.splitlines() == [
        "ckpt-migrate: error: more.ckpt: no revision matches; the closest is net at aaa (norm is layer_norm); "
        "`ckpt-migrate stamp REV more.ckpt` records a revision without this comparison; the differences:",
        "    more is left over",
    ]
    torch.save({"state_dict": {"quite.other": torch.ones(3)}}, "other.ckpt")
    ran = models.run("stamp", "auto", "other.ckpt")
    assert ran.code == 3
    assert "other.ckpt: it has nothing in common with the known models of this project" in ran.err
    assert digest(models.path / "more.ckpt") == before


def test_the_order_tells_places_apart(models: Models) -> None:
    models.operations("ddd", "ccc", 'op.Reorder(["top.bias", "top.weight"])')
    checkpoint = at(models, "ddd")
    assert models.ok("stamp", "auto", checkpoint, "--json").lines[0]["to"] == ["ddd"]


def test_what_was_stamped_is_not_guessed(models: Models) -> None:
    checkpoint = models.path / "old.ckpt"
    models.ok("upgrade", "aaa", checkpoint)
    ran = models.run("stamp", "auto", checkpoint)
    assert ran.code == 3
    assert "it has a record and is at aaa: --purge discards the record first" in ran.err
    assert models.ok("stamp", "auto", "--purge", checkpoint, "--json").lines[0]["to"] == ["aaa"]


def test_without_a_manifest_there_is_nothing_to_go_by(models: Models) -> None:
    (models.path / "versions" / "manifest.json").unlink()
    ran = models.run("stamp", "auto", "old.ckpt")
    assert ran.code == 2
    assert "there is no manifest to compare with; `ckpt-migrate manifest --update` writes one" in ran.err
    models.ok("upgrade", "head", "old.ckpt")


def test_a_checkpoint_without_parameters(models: Models) -> None:
    torch.save({"epoch": 3}, "empty.ckpt")
    ran = models.run("stamp", "auto", "empty.ckpt")
    assert ran.code == 3
    assert "the parameters of the model cannot be found in it" in ran.err


@pytest.fixture
def sized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """A project whose model is as wide as hyper-parameters say."""
    found = begun(tmp_path, monkeypatch, capsys)
    _sized(found, "norm")
    found.ok("manifest", "--update")
    return found


def _sized(models: Models, norm: str) -> None:
    layers = {"embed": "nn.Linear(3, w)", norm: "nn.LayerNorm(w)", "head": "nn.Linear(w, 2)"}
    models.code(layers, arguments="hyper_parameters=None")
    path = models.path / "net.py"
    line = "    w = (hyper_parameters or {}).get('width', 4)\n    return"
    path.write_text(path.read_text().replace("    return", line, 1))


def test_shapes_depend_on_hyper_parameters(sized: Models) -> None:
    """What is expected of a checkpoint is built from its own."""
    assert "which depend on hyper-parameters" in sized.ok("manifest").out
    wide = sized.save("wide.ckpt", width=7)
    _sized(sized, "layer_norm")
    sized.ok("revision", "norm", "--autogenerate", "--rev-id", "aaa")
    sized.ok("upgrade", "head", wide)
    assert torch.load(wide)["state_dict"]["layer_norm.weight"].shape == (7,)
    again = sized.path / "again.ckpt"
    torch.save({name: value for name, value in torch.load(wide).items() if "migrat" not in name}, again)
    ran = sized.run("upgrade", "head", again)
    assert ran.code == 1
    way = f"it was taken to be at base: `ckpt-migrate stamp auto {again}` finds its revision"
    assert f"no name matches norm.*; nothing was changed; it has no record, so {way}" in ran.err
    assert sized.ok("stamp", "auto", again, "--json").lines[0]["to"] == ["aaa"]
    sized.ok("downgrade", "base", wide)
    (sized.path / "versions" / "aaa_norm.py").unlink()
    sized.script("aaa", None, WRONG.replace("layer_norm.weight", "layer_norm.weigth"), BACK)
    sized.ok("stamp", "--purge", "base", wide)
    ran = sized.run("upgrade", "head", wide)
    assert ran.code == 3
    assert "layer_norm.weight is missing" in ran.err


def test_code_that_is_not_there_or_does_not_take_what_was_is_said(sized: Models) -> None:
    """Checkpoints follow on machines without the model's code: then they are not compared."""
    wide = sized.save("wide.ckpt", width=7)
    _sized(sized, "layer_norm")
    sized.ok("revision", "norm", "--autogenerate", "--rev-id", "aaa")
    (sized.path / "net.py").write_text("import nowhere_at_all\n")
    sys.modules.pop("net", None)
    ran = sized.ok("upgrade", "head", wide)
    assert "it was not compared with the model net: net cannot be imported: ModuleNotFoundError" in ran.err


def test_it_needs_no_torch(models: Models) -> None:
    code = "import sys; from anemoi_ckpt_migrate import cli; cli.main(['upgrade', 'head', 'old.ckpt', '--dry-run']); "
    ran = subprocess.run([sys.executable, "-c", f"{code}print('torch' in sys.modules)"], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "False", ran.stderr


def test_hyper_parameters_that_were_renamed_since(sized: Models) -> None:
    """The code of today builds the default from them: that says nothing of sizes, and names still do."""
    wide = sized.save("wide.ckpt", width=7)
    _sized(sized, "layer_norm")
    sized.ok("revision", "norm", "--autogenerate", "--rev-id", "aaa")
    sized.operations("bbb", "aaa", 'op.MoveItem("hyper_parameters.width", "hyper_parameters.size")')
    (sized.path / "net.py").write_text((sized.path / "net.py").read_text().replace("'width'", "'size'"))
    sys.modules.pop("net", None)
    sized.ok("manifest", "--update")
    sized.ok("upgrade", "aaa", wide)
    between = sized.path / "between.ckpt"
    torch.save({name: value for name, value in torch.load(wide).items() if "migrat" not in name}, between)
    assert sized.ok("stamp", "auto", between, "--json").lines[0]["to"] == ["aaa"]
    sized.ok("upgrade", "head", between)
    assert torch.load(between)["hyper_parameters"] == {"size": 7}
    sized.ok("downgrade", "base", between)


def test_sizes_of_a_model_that_has_only_one(models: Models) -> None:
    """The way out is named: the function has to take hyper-parameters."""
    states = torch.load("old.ckpt")
    states["state_dict"]["head.weight"] = torch.ones(5, 4)
    torch.save(states, "other.ckpt")
    ran = models.run("upgrade", "head", "other.ckpt")
    assert ran.code == 3
    assert "(head.weight is [5, 4], not [2, 4])" in ran.err
    assert "let the function that makes the model take `hyper_parameters`" in ran.err


def test_an_enumeration_is_not_what_the_code_was_given(sized: Models) -> None:
    """It is read without its class, so what the code builds from it is held against nobody."""
    wide = sized.save("wide.ckpt", width=7)
    _sized(sized, "layer_norm")
    sized.ok("revision", "norm", "--autogenerate", "--rev-id", "aaa")
    states = torch.load(wide)
    states["hyper_parameters"] = {"width": 5, "layout": Layout.WIDE}
    torch.save(states, wide)
    ran = sized.ok("upgrade", "head", wide)
    assert "it was not compared with the model net: hyper_parameters.layout is not plain data" in ran.err


class Layout(enum.Enum):
    WIDE = "wide"


def test_a_model_of_sizes_that_nothing_makes_here(sized: Models) -> None:
    """The manifest has the sizes of the default, which say nothing of others."""
    wide = sized.save("wide.ckpt", width=7)
    sized.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")')
    sized.configure()
    ran = sized.ok("upgrade", "head", wide)
    assert "it was not compared with the model net: its sizes depend on hyper-parameters, but " in ran.err


def test_without_torch_nothing_is_built(sized: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = sized.save("wide.ckpt", width=7)
    sized.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")')
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "anemoi_ckpt_migrate.storage.tensors.torch_library")
    ran = sized.ok("upgrade", "head", wide)
    assert (
        "it was not compared with the model net: net:build cannot be called here, because torch cannot be imported"
        in ran.err
    )
    ran = sized.run("check")
    assert ran.code == 1
    assert "net:build cannot be called here, because torch cannot be imported" in ran.out


GUESSES = {
    # Of grouped heads, queries are larger than keys and values; one name says nothing of the sizes of three.
    "sizes": (
        {"q": "nn.Linear(4, 8)", "k": "nn.Linear(4, 2)", "v": "nn.Linear(4, 2)"},
        {"qkv": "nn.Linear(4, 12)"},
        'op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")',
    ),
    # Some names began with `b.` before.
    "names": (
        {"a": "nn.ModuleDict({'y': nn.Linear(2, 3)})", "b": "nn.ModuleDict({'x': nn.Linear(2, 3)})"},
        {"b": "nn.ModuleDict({'y': nn.Linear(2, 3), 'x': nn.Linear(2, 3)})"},
        'op.RenamePrefix("a.", "b.")',
    ),
}


@pytest.mark.parametrize("case", GUESSES)
def test_what_a_model_was_is_a_guess_where_things_became_one(models: Models, case: str) -> None:
    """The manifest began with the new model. What it was before is not held against a checkpoint that becomes it."""
    before, after, operation = GUESSES[case]
    (models.path / "versions" / "manifest.json").unlink()
    for path in (models.path / "versions").glob("*.py"):
        path.unlink()
    models.code(before)
    old, again, wrong = (models.save(name) for name in ("old.ckpt", "again.ckpt", "wrong.ckpt"))
    models.operations("aaa", None, operation)
    models.code(after)
    models.ok("manifest", "--update")
    first = torch.load(old)
    assert not models.ok("upgrade", "head", old, "--check-rollback").err
    assert not models.ok("downgrade", "base", old).err
    assert list(torch.load(old)["state_dict"]) == list(first["state_dict"])
    assert models.ok("stamp", "auto", again).out == f"{again}: already at base, nothing to do\n"
    first["state_dict"]["more"] = torch.ones(3)
    torch.save(first, wrong)
    ran = models.run("upgrade", "head", wrong)
    assert ran.code == 3
    assert "more is left over" in ran.err


def test_what_modules_save_of_their_own_is_nobodys_parameter(models: Models) -> None:
    """It is a tensor of whatever size, as that of layers of eight bits, or none."""
    for shape in ((7,), (0,)):
        states = torch.load("old.ckpt")
        states["state_dict"]["norm._extra_state"] = torch.ones(shape)
        torch.save(states, "more.ckpt")
        models.ok("upgrade", "head", "more.ckpt", "--no-backup")
        states = {name: value for name, value in torch.load("more.ckpt").items() if "migrat" not in name}
        assert states["state_dict"]["layer_norm._extra_state"].shape == shape
        torch.save(states, "more.ckpt")
        assert models.ok("stamp", "auto", "more.ckpt", "--json").lines[0]["to"] == ["ccc"]


def test_several_heads_at_once(models: Models) -> None:
    models.operations("ddd", "aaa", 'op.RenamePrefix("embed.", "first.")')
    checkpoint = models.path / "both.ckpt"
    models.ok("upgrade", "heads", "old.ckpt", "-o", checkpoint)
    torch.save({name: value for name, value in torch.load(checkpoint).items() if "migrat" not in name}, checkpoint)
    assert models.ok("stamp", "auto", checkpoint, "--json").lines[0]["to"] == ["ccc", "ddd"]


def test_the_other_side_of_functions_is_not_known(models: Models) -> None:
    """They move the configuration: the parameters of a checkpoint at base are those of aaa, and only those are known."""
    (models.path / "versions" / "manifest.json").unlink()
    models.script("aaa", None, "ckpt['config'] = ckpt.pop('hyper_parameters')", "pass")
    models.operations("bbb", "aaa", 'op.RenamePrefix("norm.", "layer_norm.")')
    (models.path / "versions" / "ccc_change.py").unlink()
    models.code({**FIRST, "norm": "nn.Identity()", "layer_norm": FIRST["norm"]})
    models.ok("manifest", "--update")
    ran = models.ok("stamp", "auto", "old.ckpt", "--dry-run")
    assert "old.ckpt: base -> aaa" in ran.out
    assert "the functions of aaa cannot be followed, so they may or may not have run" in ran.err
    new = models.save("new.ckpt")
    assert not models.ok("stamp", "auto", new).err


def test_the_code_belongs_to_the_head_and_the_manifest_follows_later(sized: Models) -> None:
    """The script was written by hand, and the manifest is still about base: `check` is content with that."""
    wide, again, wrong = (sized.save(name, width=7) for name in ("wide.ckpt", "again.ckpt", "wrong.ckpt"))
    _sized(sized, "layer_norm")
    sized.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")')
    sized.ok("check")
    states = torch.load(wrong)
    states["state_dict"]["head.weight"] = torch.ones(2, 8)
    torch.save(states, wrong)
    assert not sized.ok("upgrade", "head", wide).err
    assert not sized.ok("downgrade", "base", wide).err
    assert sized.ok("stamp", "auto", again).out == f"{again}: already at base, nothing to do\n"
    ran = sized.run("upgrade", "head", wrong)
    assert ran.code == 3
    assert "head.weight is [2, 8], not [2, 7]" in ran.err


def test_names_that_begin_otherwise(models: Models) -> None:
    """Saved from within a wrapper: it is no model of ours, and the way out is named each time."""
    states = torch.load("old.ckpt")
    states["state_dict"] = {f"module.{name}": value for name, value in states["state_dict"].items()}
    torch.save(states, "wrapped.ckpt")
    models.script("aaa", None, "ckpt['epoch'] = 0", "pass")
    ran = models.run("stamp", "auto", "wrapped.ckpt")
    assert ran.code == 3
    assert "`ckpt-migrate stamp REV wrapped.ckpt` records a revision without this comparison" in ran.err
    models.ok("manifest", "net", "--update", "--from", "old.ckpt", "--at", "base")
    ran = models.run("upgrade", "aaa", "wrapped.ckpt")
    assert ran.code == 3
    assert "--no-check-model skips this comparison" in ran.err
    models.ok("upgrade", "aaa", "wrapped.ckpt", "--no-check-model")


def test_the_way_out_where_it_is_not_known_what_a_model_was(models: Models) -> None:
    """Nothing leads back over the order of before: a checkpoint of base is the one that tells."""
    models.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")', 'op.Drop("head.*")', name="no head")
    models.operations("bbb", "aaa", name="nothing")
    models.operations("ccc", "bbb", name="nothing either")
    models.code({"embed": FIRST["embed"], "layer_norm": FIRST["norm"]})
    models.ok("manifest", "--update")
    before = digest(models.path / "old.ckpt")
    ran = models.run("stamp", "auto", "old.ckpt")
    assert ran.code == 3
    assert "ckpt-migrate stamp" not in ran.err
    way = "`ckpt-migrate manifest net --update --from old.ckpt --at base`"
    assert f"net at base is unknown; if it is at that revision, {way} records its parameters" in ran.err
    assert digest(models.path / "old.ckpt") == before
    models.ok(*way.strip("`").split()[1:])
    assert "already at base" in models.ok("stamp", "auto", "old.ckpt").out
    models.ok("upgrade", "head", "old.ckpt")
    assert "layer_norm.weight" in torch.load("old.ckpt")["state_dict"]
