"""The manifest: what the code makes, beside what was written down of it; caught, and written for you."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.errors import CannotWrite  # noqa: E402
from anemoi_ckpt_migrate.manifests import manifest_file  # noqa: E402
from tests.support.models import FIRST, Models, begun  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

RENAMED = {"embed": FIRST["embed"], "layer_norm": FIRST["norm"], "head": FIRST["head"]}
MANIFEST = """\
{
  "format": 1,
  "models": {
    "net": {
      "revisions": [],
      "parameters": {
        "embed.bias": {"after": "embed.weight", "dtype": "float32", "shape": [4]},
        "embed.weight": {"after": null, "dtype": "float32", "shape": [4, 3]},
        "head.bias": {"after": "head.weight", "dtype": "float32", "shape": [2]},
        "head.weight": {"after": "norm.bias", "dtype": "float32", "shape": [2, 4]},
        "norm.bias": {"after": "norm.weight", "dtype": "float32", "shape": [4]},
        "norm.weight": {"after": "embed.bias", "dtype": "float32", "shape": [4]}
      }
    }
  }
}
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """A project with the first model, written down at base."""
    found = begun(tmp_path, monkeypatch, capsys)
    found.code(FIRST)
    found.ok("manifest", "--update")
    return found


def manifest(models: Models) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((models.path / "versions" / "manifest.json").read_text())
    return found


def shown(models: Models, *words: str) -> list[str]:
    (found,) = models.ok("manifest", *words, "--json").lines[0]
    return [parameter["name"] for parameter in found["parameters"]]


def test_one_parameter_a_line_sorted(models: Models) -> None:
    assert (models.path / "versions" / "manifest.json").read_text() == MANIFEST
    assert models.ok("manifest").out.splitlines() == [
        "net at base: 6 parameters",
        "    embed.weight  float32  [4, 3]",
        "    embed.bias    float32  [4]",
        "    norm.weight   float32  [4]",
        "    norm.bias     float32  [4]",
        "    head.weight   float32  [2, 4]",
        "    head.bias     float32  [2]",
    ]
    assert [item.name for item in cm.manifest(["net"])[0].snapshot.items] == shown(models)


def test_a_forgotten_migration_is_caught(models: Models) -> None:
    assert models.ok("check").out == "0 revisions, 1 model: no problems\n"
    models.code(RENAMED)
    for words in (["check"], ["check", "--model"], ["check", "--model", "net"]):
        ran = models.run(*words)
        assert ran.code == 4
        assert ran.out.splitlines() == [
            "versions/manifest.json: the model net differs from the manifest, and no revision explains the change: "
            "`ckpt-migrate revision NAME --autogenerate --model net` writes one; if old checkpoints need no migration, "
            "`ckpt-migrate manifest net --update` records the change",
            '    op.RenamePrefix("norm.", "layer_norm.")  # 98% certain',
            "0 revisions, 1 model: 1 problem",
        ]
    (found,) = models.run("check", "--json").lines
    assert found["problems"][0]["details"] == ['op.RenamePrefix("norm.", "layer_norm.")  # 98% certain']
    assert cm.check(model="net").exit_code == 4


def test_written_for_you(models: Models) -> None:
    """Alembic's workflow, with no old checkpoint at hand: then the checkpoint of before follows."""
    old = models.save("old.ckpt")
    models.code(RENAMED)
    models.ok("revision", "norm is layer_norm", "--autogenerate", "--rev-id", "aaa")
    assert 'op.RenamePrefix("norm.", "layer_norm.")' in (models.path / "versions/aaa_norm_is_layer_norm.py").read_text()
    assert manifest(models)["models"]["net"]["revisions"] == ["aaa"]
    models.ok("check")
    models.ok("upgrade", "head", old)
    new = torch.load(models.save("new.ckpt"))
    assert list(torch.load(old)["state_dict"]) == list(new["state_dict"])
    ran = models.run("revision", "x", "--autogenerate")
    assert ran.code == 2
    assert "net: the code matches the manifest, so there is nothing to migrate" in ran.err


def test_a_buffer_is_none_of_the_optimizers_business(models: Models) -> None:
    """A model says what is a buffer, so the optimizer of an old checkpoint still fits the new model."""
    old = models.save("old.ckpt")
    models.code({**FIRST, "more": "nn.BatchNorm1d(4, affine=False)"})
    models.ok("revision", "running statistics", "--autogenerate")
    (script,) = (models.path / "versions").glob("*.py")
    assert 'op.Add("more.running_mean", [4], buffer=True)' in script.read_text()
    assert manifest(models)["models"]["net"]["parameters"]["more.running_mean"]["buffer"] is True
    models.ok("upgrade", "head", old)
    model = runpy.run_path(str(models.path / "net.py"))["build"]()
    model.load_state_dict(torch.load(old)["state_dict"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(torch.load(old)["optimizer_states"][0])
    assert len(optimizer.state) == 6


def test_a_change_that_needs_no_migration(models: Models) -> None:
    models.code({**FIRST, "head": "nn.Linear(4, 3)"})
    assert models.run("check").code == 4
    ran = models.ok("manifest", "--update")
    assert ran.out.splitlines()[0] == "net at base: 6 parameters, written to versions/manifest.json"
    assert all(line.startswith("    without a migration: op.") for line in ran.out.splitlines()[1:])
    models.ok("check")


def test_a_revision_that_was_written_by_hand_says_why(models: Models) -> None:
    """The manifest still belongs to base: what it says is followed along the operations."""
    models.code(RENAMED)
    models.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")')
    models.ok("check")
    models.operations("aaa", None, 'op.RenamePrefix("norm.", "layernorm.")')
    ran = models.run("check")
    assert ran.code == 4
    assert 'op.RenamePrefix("layernorm.", "layer_norm.")' in ran.out
    models.operations("aaa", None, 'op.RenamePrefix("form.", "layer_norm.")')
    ran = models.run("check")
    assert ran.code == 1
    assert "the revision aaa does not fit the model net: its operations do not fit: no name matches form.*" in ran.out


def test_functions_say_nothing(models: Models) -> None:
    models.script("aaa")
    assert models.run("check").code == 4  # though nothing changed: what becomes of checkpoints would not be compared
    models.code(RENAMED)
    ran = models.run("check")
    assert ran.code == 4
    assert (
        "the model net after aaa is unknown, because it has functions, and only operations can be followed: "
        "if the current code is right, `ckpt-migrate manifest net --update` records it" in ran.out
    )
    assert models.run("revision", "x", "--autogenerate").code == 2
    models.ok("manifest", "--update")
    models.ok("check")
    assert manifest(models)["models"]["net"]["revisions"] == ["aaa"]


def test_what_it_was_is_kept_where_no_operations_lead_back(models: Models) -> None:
    r"""
    base - aaa - bbb - ccc
            |     |     '- functions
            |     '------- drops head.bias, which does not say what that was
            '------------- renames
    """
    first = shown(models)
    models.code(RENAMED)
    models.ok("revision", "one", "--autogenerate", "--rev-id", "aaa")
    second = shown(models)
    assert not (models.path / "versions" / "manifests").exists()
    models.code({**RENAMED, "head": "nn.Linear(4, 2, bias=False)"})
    models.ok("revision", "two", "--autogenerate", "--rev-id", "bbb")
    models.script("ccc", "bbb")
    models.code({**RENAMED, "head": "nn.Linear(4, 2, bias=False)", "more": "nn.Linear(1, 1)"})
    models.ok("manifest", "--update")
    assert [path.name for path in sorted((models.path / "versions" / "manifests").iterdir())] == [
        "aaa.json",
        "bbb.json",
    ]
    assert shown(models, "--at", "base") == first
    assert shown(models, "--at", "aaa") == second
    assert shown(models, "--at", "bbb") == second[:-1]
    assert shown(models, "--at", "head") == [*second[:-1], "more.weight", "more.bias"] == shown(models)
    (models.path / "versions" / "manifests" / "bbb.json").unlink()
    (models.path / "versions" / "manifests" / "aaa.json").unlink()
    ran = models.run("manifest", "--at", "aaa")
    assert ran.code == 3
    assert (
        "the model net at aaa is unknown, only back to ccc (change ccc), because it has functions, and only operations "
        "can be followed; `ckpt-migrate manifest net --update --at aaa --from CKPT` takes it from a checkpoint at that revision"
    ) in ran.err


def test_a_checkpoint_bridges_what_no_operations_do(models: Models) -> None:
    old = models.save("old.ckpt")
    models.script("aaa", None, *("ckpt['state_dict']['x'] = ckpt['state_dict'].pop('embed.bias')",) * 2)
    models.code(RENAMED)
    (models.path / "versions" / "manifest.json").unlink()
    models.ok("manifest", "--update")
    assert models.run("manifest", "--at", "base").code == 3
    ran = models.run("manifest", "net", "--update", "--from", old)
    assert ran.code == 3
    assert "old.ckpt: it has no record: give its revision with --at" in ran.err
    models.ok("manifest", "net", "--update", "--from", old, "--at", "base")
    assert shown(models, "--at", "base") == list(torch.load(old)["state_dict"])
    assert shown(models) == [name.replace("norm", "layer_norm") for name in torch.load(old)["state_dict"]]
    models.ok("stamp", "aaa", old)
    ran = models.run("manifest", "net", "--update", "--from", old, "--at", "base")
    assert ran.code == 3
    assert "old.ckpt: it is at aaa, not at base" in ran.err


def test_a_model_from_a_checkpoint_alone(models: Models) -> None:
    """No function makes it: it is shown and compared with, and `check` has nothing to say about it."""
    old = models.save("old.ckpt")
    models.configure()
    models.ok("manifest", "other", "--update", "--from", old, "--at", "base")
    assert sorted(manifest(models)["models"]) == ["net", "other"]
    models.ok("check")
    ran = models.run("check", "--model")
    assert ran.code == 2
    assert "ckpt-migrate.toml configures no models; gt = " in ran.err


def test_several_models(models: Models) -> None:
    """What both have in common is one script; what they do not is refused, and caught."""
    models.code({"norm": "nn.LayerNorm(4)", "out": "nn.Linear(2, 2)"}, "small")
    models.configure(net="net:build", small="small:build")
    assert "does not have the model small yet" in models.run("check").out
    models.ok("manifest", "small", "--update")
    assert models.ok("check").out == "0 revisions, 2 models: no problems\n"
    models.code(RENAMED)
    models.code({"layer_norm": "nn.LayerNorm(4)", "out": "nn.Linear(2, 2)"}, "small")
    models.ok("revision", "both", "--autogenerate", "--rev-id", "aaa")
    models.ok("check")
    models.code({**RENAMED, "more": "nn.Linear(5, 5)"})
    models.code({"layer_norm": "nn.LayerNorm(4)", "out": "nn.Linear(2, 2, bias=False)"}, "small")
    ran = models.run("revision", "each", "--autogenerate")
    assert ran.code == 3
    assert "net and small changed in different ways, so one script cannot migrate them all" in ran.err
    models.ok("revision", "one", "--autogenerate", "--model", "small", "--rev-id", "bbb")
    ran = models.run("check")
    assert ran.code == 1
    assert "the revision bbb does not fit the model net: its operations do not fit: there is no out.bias" in ran.out


def test_models_on_branches_of_their_own(models: Models) -> None:
    r"""
    base - n1       of the model net
        \
         - s1 - s2  of the model small
    """
    models.code({"a": "nn.Linear(2, 2)"}, "small")
    models.configure(net="net:build", small="small:build")
    path = models.path / "ckpt-migrate.toml"
    path.write_text(f"several_heads = true\n{path.read_text()}")
    models.ok("manifest", "--update")
    net, small = models.save("net.ckpt"), models.save("small.ckpt", "small")
    models.code(RENAMED)
    models.ok("revision", "net", "--autogenerate", "--model", "net", "--rev-id", "n1")
    assert "the revision n1 does not fit the model small" in models.run("check").out
    models.code({"b": "nn.Linear(2, 2)"}, "small")
    models.ok("revision", "small", "--autogenerate", "--model", "small", "--head", "base", "--rev-id", "s1")
    models.ok("check")
    models.code({"c": "nn.Linear(2, 2)"}, "small")
    models.ok("revision", "small again", "--autogenerate", "--model", "small", "--head", "s1", "--rev-id", "s2")
    models.ok("check")
    assert {name: found["revisions"] for name, found in manifest(models)["models"].items()} == {
        "net": ["n1"],
        "small": ["s2"],
    }
    models.ok("upgrade", "n1", net)
    models.ok("upgrade", "s2", small)


def test_a_merge_leaves_parameters_alone(models: Models) -> None:
    r"""
          - aaa -
    base          m
          - bbb -
    """
    models.operations("aaa", None, 'op.RenamePrefix("norm.", "layer_norm.")')
    models.operations("bbb", None, 'op.RenamePrefix("head.", "top.")')
    models.ok("merge", "heads", "both", "--rev-id", "m")
    models.code({"embed": FIRST["embed"], "layer_norm": FIRST["norm"], "top": FIRST["head"]})
    models.ok("check")
    models.ok("manifest", "--update")
    assert not (models.path / "versions" / "manifests").exists()
    assert [name for name in shown(models, "--at", "aaa") if "norm" in name or "head" in name] == [
        "layer_norm.weight",
        "layer_norm.bias",
        "head.weight",
        "head.bias",
    ]


def test_squashed_revisions_are_looked_into(models: Models) -> None:
    for revision, parent, old, new in (
        ("a1", None, "norm", "b"),
        ("a2", "a1", "b", "c"),
        ("a3", "a2", "c", "layer_norm"),
    ):
        migrate = f"ckpt['state_dict'] = {{k.replace('{old}.', '{new}.'): v for k, v in ckpt['state_dict'].items()}}"
        models.script(revision, parent, migrate, "pass")
    models.code(RENAMED)
    models.ok("manifest", "--update")
    models.ok("squash", "a1:a2", "two in one", "--rev-id", "sq")
    models.ok("check")
    assert shown(models, "--at", "a3") == shown(models)


BROKEN = {
    '"format": 1,': ('"format": 2,', "has format 2, this version reads 1: upgrade ckpt-migrate"),
    '"after": null': ('"after": "head.bias"', "embed.bias comes after a name that net does not have"),
    '"after": "norm.weight"': ('"after": "embed.bias"', "both come after embed.bias in net"),
    '"shape": [4, 3]': ('"shape": [4, -3]', "embed.weight cannot have the shape [4, -3]"),
    '"dtype": "float32", "shape": [2]': ('"shape": [2]', "'dtype' is missing"),
    '"head.bias":': ('"head.weight":', "head.weight is in it twice"),
    '  "models": {\n': ('  "models": {\n"net": {},\n', "net is in it twice"),
    '      "revisions": [],\n': (
        '<<<<<<< HEAD\n      "revisions": [],\n',
        "it has conflict markers of version control",
    ),
    '"revisions": []': ('"revisions": ["zzz"]', "it is about zzz, which no script here has"),
    '"revisions": [],': ('"revisions": 3,', "net has no list of revisions"),
    MANIFEST: ("[", "versions/manifest.json cannot be used ("),
}


@pytest.mark.parametrize("before", BROKEN, ids=range(len(BROKEN)))
def test_a_manifest_that_was_edited_by_hand(models: Models, before: str) -> None:
    """One sentence, and the way out; nothing is written over it that is of a later format."""
    after, says = BROKEN[before]
    checkpoint = models.save("old.ckpt")
    models.script("aaa")
    path = models.path / "versions" / "manifest.json"
    path.write_text(MANIFEST.replace(before, after, 1))
    then = digest(path), digest(checkpoint)
    ran = models.run("check")
    assert (ran.code, says in ran.out) == (1, True), ran.out
    if "zzz" not in after:
        for words in (["manifest"], ["upgrade", "head", checkpoint], ["stamp", "auto", checkpoint]):
            ran = models.run(*words)
            assert (ran.code, says in ran.err) == (1, True), ran.err
    assert (digest(path), digest(checkpoint)) == then
    if "version reads" in says:
        assert models.run("manifest", "--update").code == 1
        assert digest(path) == then[0]
    elif "zzz" not in after:
        models.ok("manifest", "--update")
        models.ok("check")


def test_what_is_known_is_known_after_a_squash(models: Models) -> None:
    """The kept manifest is about r1, a part; the head is known as the whole, and a checkpoint goes there."""
    old, middle, bare = (models.save(name) for name in ("old.ckpt", "middle.ckpt", "bare.ckpt"))
    models.code(RENAMED)
    models.ok("revision", "one", "--autogenerate", "--rev-id", "r1")
    models.ok("upgrade", "head", middle)
    torch.save({"state_dict": torch.load(middle)["state_dict"]}, middle)
    models.code({**RENAMED, "head": "nn.Linear(4, 2, bias=False)"})
    models.ok("revision", "two", "--autogenerate", "--rev-id", "r2")
    models.operations("r3", "r2", 'op.MoveItem("hyper_parameters", "config")')
    models.ok("squash", "r1:r3", "three in one", "--rev-id", "sq")
    assert [path.name for path in (models.path / "versions" / "manifests").iterdir()] == ["r1.json"]
    models.ok("check")
    assert shown(models, "--at", "sq") == shown(models, "--at", "r2") == shown(models)
    assert "head.bias" in shown(models, "--at", "r1")
    models.ok("upgrade", "head", old)
    assert models.ok("stamp", "auto", middle, "--json").lines[0]["to"] == ["r1"]
    torch.save({"state_dict": torch.load(old)["state_dict"]}, bare)
    ran = models.run("stamp", "auto", bare)
    assert ran.code == 3
    assert [line.split(" (")[0] for line in ran.err.splitlines()[1:]] == ["    r3", "    r2"]


def test_what_moves_is_no_longer_what_it_was(models: Models) -> None:
    """Of aaa it was kept that the first layer is called embed; on top of ttt it is not."""
    old = models.save("old.ckpt")
    models.code(RENAMED)
    models.ok("revision", "mine", "--autogenerate", "--rev-id", "aaa")
    models.code({**RENAMED, "head": "nn.Linear(4, 2, bias=False)"})
    models.ok("revision", "more of mine", "--autogenerate", "--rev-id", "bbb")
    models.operations("ttt", None, 'op.RenamePrefix("embed.", "first.")', name="theirs")
    ran = models.ok("rebase", "aaa", "--onto", "ttt")
    assert "removed versions/manifests/aaa.json, the manifest of a revision that moved" in ran.out
    models.code({"first": FIRST["embed"], "layer_norm": FIRST["norm"], "head": "nn.Linear(4, 2, bias=False)"})
    models.ok("manifest", "--update")
    models.ok("upgrade", "aaa", old)
    models.ok("upgrade", "head", old)


def test_a_kept_manifest_that_makes_no_sense(models: Models) -> None:
    """Nothing writes it anew, and what is right stays."""
    path = models.path / "versions" / "manifests" / "base.json"
    path.parent.mkdir()
    path.write_text("[]")
    models.script("aaa")
    before = digest(models.path / "versions" / "manifest.json")
    for words in (["manifest"], ["manifest", "--update"], ["upgrade", "head", models.save("old.ckpt")]):
        ran = models.run(*words)
        assert ran.code == 1
        way = "it does not have the structure of a manifest); restore it from version control, or remove it"
        assert f"the manifest versions/manifests/base.json cannot be used ({way}" in ran.err
    assert digest(models.path / "versions" / "manifest.json") == before


def test_a_module_that_is_not_where_it_is_looked_for(models: Models) -> None:
    models.configure(net="lib_of_src:build")
    assert f"it must be installed, or lie in {models.path}" in models.run("check").out
    (models.path / "torch.py").write_text("def build(): pass\n")
    models.configure(net="torch:build")
    assert f"torch has no function build ({torch.__file__})" in models.run("check").out


def test_commands_that_are_proposed_can_be_typed(models: Models) -> None:
    models.configure(**{'"my net"': "net:build"})
    assert "`ckpt-migrate manifest 'my net' --update` adds it" in models.run("check").out


def test_what_editors_do_to_a_manifest(models: Models) -> None:
    path = models.path / "versions" / "manifest.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    models.ok("check")


def test_what_was_removed_from_history_is_written_anew(models: Models) -> None:
    models.script("aaa")
    models.code(RENAMED)
    models.ok("manifest", "--update")
    (models.path / "versions" / "aaa_change.py").unlink()
    assert "it is about aaa, which no script here has" in models.run("check").out
    models.ok("manifest", "--update")
    assert manifest(models)["models"]["net"]["revisions"] == []


FACTORIES = {
    "import pkg.that.was.nowhere\ndef build(): pass\n": "net cannot be imported: ModuleNotFoundError",
    "def build(width): pass\n": "net:build cannot be called without arguments: missing a required argument: 'width'",
    "def build(hyper_parameters): pass\n": "net:build needs hyper-parameters, but there is no checkpoint to take them from: give the argument a default",
    "from torch import nn\ndef build(): return nn.Linear(2, 2, device='cpu')\n": "net:build puts weight on cpu: use torch's default device",
    "from torch import nn\ndef build(): return nn.Linear(2, 2).to('cpu')\n": "ckpt-migrate builds it without weights",
    "from torch import nn\ndef build(): return nn.Linear(2, 2).cuda()\n": "net:build failed with",
    "def other(): pass\n": "net has no function build",
    "from torch import nn\ndef build(): return nn.LazyLinear(2)\n": "in the model of net:build, weight has no shape before the first call",
    "from torch import nn\nclass build(nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n"
    "    def get_extra_state(self): return self.weight.sum().item()\n": "net:build failed with",
    "class Skipped(BaseException): pass\ndef build(): raise Skipped()\n": "net:build failed with Skipped",
    "def build(): return 5\n": "net:build returns a intinstead of a torch.nn.Module",
}


@pytest.mark.parametrize("code", FACTORIES, ids=range(len(FACTORIES)))
def test_a_factory_that_makes_no_model(models: Models, code: str) -> None:
    (models.path / "net.py").write_text(code)
    sys.modules.pop("net", None)
    before = digest(models.path / "versions" / "manifest.json")
    for words in (["check"], ["manifest", "--update"], ["revision", "x", "--autogenerate"]):
        sys.modules.pop("net", None)
        ran = models.run(*words)
        assert ran.code == (1 if words == ["check"] else 2)
        assert FACTORIES[code] in ran.out + ran.err
    assert digest(models.path / "versions" / "manifest.json") == before
    assert [path.name for path in (models.path / "versions").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["manifest", "other"], "the manifest has no model 'other'; its models are net"),
        (["manifest", "other", "--update"], "configures no model 'other', only net"),
        (["manifest", "--from", "x.ckpt"], "--from needs --update, because it names the checkpoint to record"),
        (["manifest", "--update", "--at", "base"], "--at needs --from with a checkpoint at that revision"),
        (["manifest", "--update", "--from", "x.ckpt"], "--from takes one MODEL: name the model of the checkpoint"),
        (["check", "--model", "other"], "configures no model 'other'"),
        (["revision", "x", "--model", "net"], "--model needs --autogenerate"),
        (["revision", "x", "--autogenerate", "a", "b", "--model", "net"], "--model and OLD NEW exclude each other"),
        (["revision", "x", "--autogenerate", "a"], "--autogenerate takes both OLD and NEW, or neither"),
        (["revision", "--autogenerate"], "a revision needs a NAME"),
        (["revision"], "a revision needs a NAME"),
    ],
)
def test_arguments_that_do_not_go_together(models: Models, words: list[str], says: str) -> None:
    ran = models.run(*words)
    assert ran.code == 2
    assert says in ran.err


def test_the_name_may_stand_last(models: Models) -> None:
    models.code(RENAMED)
    models.ok("revision", "--autogenerate", "norm is layer_norm")
    assert len(list((models.path / "versions").glob("*_norm_is_layer_norm.py"))) == 1


def test_two_models_of_one_name_in_the_configuration(project: Folder) -> None:
    (project.path / "ckpt-migrate.toml").write_text('[models]\nnet = "a:b"\nnet = "c:d"\n')
    ran = project.run("check")
    assert ran.code == 1
    assert "ckpt-migrate.toml cannot be read" in ran.err
    (project.path / "ckpt-migrate.toml").write_text('[models]\nnet = "not a factory"\n')
    ran = project.run("check")
    assert 'models must be a table of functions that make models, such as gt = "mypackage.models:build_gt"' in ran.err


def test_a_manifest_that_cannot_be_written(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(models.path / "versions" / "manifest.json")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    ran = models.run("manifest", "--update")
    assert ran.code == 1
    assert "versions/manifest.json could not be written (No space left on device)" in ran.err
    assert digest(models.path / "versions" / "manifest.json") == before


def test_a_script_that_was_written_before_the_disk_was_full(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as it should be, and the manifest follows it when there is room."""

    def full(folder: Path, *_: object) -> None:
        raise CannotWrite(f"the manifest {folder / 'manifest.json'} could not be written (No space left on device)")

    models.code(RENAMED)
    with monkeypatch.context() as patched:
        patched.setattr(manifest_file, "write", full)
        ran = models.run("revision", "norm", "--autogenerate", "--rev-id", "aaa")
    assert ran.code == 1
    assert "the script is complete; once that is fixed, run `ckpt-migrate manifest --update`" in ran.err
    models.ok("check")
    models.ok("manifest", "--update")
    assert manifest(models)["models"]["net"]["revisions"] == ["aaa"]


def test_code_that_sets_things_for_the_process(models: Models) -> None:
    """Paths that were given, and functions of scripts, mean what they meant."""
    build = "    os.chdir(tempfile.gettempdir()); torch.set_default_dtype(torch.float64)\n    return torch.nn.Linear(2, 2)\n"
    (models.path / "net.py").write_text(f"import os, tempfile, torch\n\ndef build():\n{build}")
    sys.modules.pop("net", None)
    models.ok("manifest", "--update")
    assert manifest(models)["models"]["net"]["parameters"]["weight"]["dtype"] == "float64"
    assert (Path.cwd(), torch.get_default_dtype()) == (models.path, torch.float32)
