"""Files that torch wrote, rewritten, and read by plain torch in every way it reads."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.tensors.refs import is_stored
from tests.support.project import DATA, RENAME, Folder, digest, load

torch = pytest.importorskip("torch")
config = pytest.importorskip("torch.utils.serialization").config


def rewritten(path: Path, change: Any = None) -> Path:
    """Write a checkpoint again, with its tree changed by a function."""
    new = path.with_name(f"new-{path.name}")
    with open_checkpoint(path) as file:
        tree = file.load()
        tree = tree if change is None else change(tree)
        file.write(file.pickled(tree), {}, new)
    return new


def same(one: Any, other: Any) -> None:
    """Check that two loaded checkpoints are equal, tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.stride(), one.requires_grad) == (
            other.dtype, other.shape, other.stride(), other.requires_grad
        )  # fmt: skip
        if one.device.type != "meta":
            assert torch.equal(one, other) or bool(one.isnan().any())
        assert getattr(one, "units", None) == getattr(other, "units", None)
        assert one.untyped_storage().nbytes() == other.untyped_storage().nbytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
        if hasattr(one, "__dict__"):  # where torch keeps `_metadata`
            same(vars(one), vars(other))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    else:
        assert one == other


WAYS = [
    {"weights_only": only, "mmap": mapped, "map_location": where}
    for only, mapped, where in itertools.product((True, False), (True, False), (None, "cpu"))
]


@pytest.mark.parametrize("name", ["training.ckpt", "state_dict.pt", "plain.pt", "list.pt"])
def test_torch_reads_what_we_write(name: str, tmp_path: Path) -> None:
    old = Path(shutil.copy(DATA / name, tmp_path))
    new = rewritten(old)
    for way in WAYS:
        same(torch.load(new, **way), torch.load(old, **way))
    meta = torch.load(new, map_location="meta", weights_only=True)
    assert type(meta) is type(torch.load(old, weights_only=True))
    config.load.calculate_storage_offsets = True
    try:
        same(torch.load(new, mmap=True), torch.load(old))
    finally:
        config.load.calculate_storage_offsets = False
    assert zipfile.ZipFile(new).testzip() is None


def test_lightning_reads_what_we_write(tmp_path: Path) -> None:
    from tests.data.make import Module

    old = Path(shutil.copy(DATA / "lightning.ckpt", tmp_path))
    new = rewritten(old)
    same(torch.load(new, weights_only=False), torch.load(old, weights_only=False))
    assert Module.load_from_checkpoint(new).hparams.width == 4


class Own(torch.Tensor):
    """A tensor of a class that only this project has."""


def with_attribute(tensor: Any) -> Any:
    tensor.units = "K"
    return tensor


def values() -> dict[str, Any]:
    """Make what people put into checkpoints."""
    base = torch.arange(24.0).reshape(4, 6)
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    return {
        "strided": base.t()[1:3],
        "base": base,
        "view": base[2:],
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "parameter": parameter,
        "frozen": torch.nn.Parameter(torch.zeros(1), requires_grad=False),
        "again": parameter,
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]),
        "half": torch.ones(3, dtype=torch.float16),
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "uint16": torch.ones(3, dtype=torch.uint16),
        "storage": torch.ones(3).untyped_storage(),
        "sparse": torch.eye(3).to_sparse(),
        "sizes": [torch.Size([1, 2])],
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        "meta": torch.ones(2, device="meta"),
        "attribute": with_attribute(torch.ones(2)),
        "parameter with attribute": with_attribute(torch.nn.Parameter(torch.ones(2))),
        "own kind": torch.ones(2).as_subclass(Own),
        "dtype": torch.float64,
        "device": torch.device("cpu"),
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"xyz"),
        "long": 2**70,
        "complex number": 1j,
        "set": {1, "a"},
        "frozenset": frozenset({2}),
        "ordered": OrderedDict(a=1, b=2),
        "none": None,
        "surrogate": "\ud800",
        "nested": [({"x": [1.5, float("inf")]},)],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_kinds_of_values(tmp_path: Path, protocol: int) -> None:
    old = tmp_path / "values.ckpt"
    torch.save(values(), old, pickle_protocol=protocol)
    one, other = torch.load(old, weights_only=False), torch.load(rewritten(old), weights_only=False)
    for loaded in (one, other):
        loaded["storage"], loaded["sparse"] = list(loaded["storage"]), loaded["sparse"].to_dense()
    same(one, other)


def test_sharing_is_kept(tmp_path: Path) -> None:
    old = tmp_path / "values.ckpt"
    torch.save(values(), old)

    def shuffle(tree: Any) -> Any:
        return {f"{key}!": tree[key] for key in reversed(tree)}

    new = rewritten(old, shuffle)
    loaded = torch.load(new, weights_only=False)
    assert loaded["parameter!"] is loaded["again!"]
    addresses = {loaded[key].untyped_storage().data_ptr() for key in ("strided!", "base!", "view!")}
    assert len(addresses) == 1
    loaded["view!"].zero_()
    assert loaded["base!"][2:].eq(0).all()
    assert new.stat().st_size < old.stat().st_size + 256  # nothing is written twice


def test_dropped_tensors_leave_the_file(tmp_path: Path) -> None:
    old = tmp_path / "large.ckpt"
    torch.save({"keep": torch.ones(1000), "drop": torch.ones(100_000)}, old)
    new = rewritten(old, lambda tree: {"keep": tree["keep"]})
    assert new.stat().st_size < 10_000
    assert torch.load(new)["keep"].sum() == 1000


def test_payload_is_aligned(tmp_path: Path) -> None:
    old = tmp_path / "odd.ckpt"
    torch.save({f"layer{index}": torch.ones(index + 1) for index in range(20)}, old)
    new = rewritten(old, lambda tree: {f"{key}.weight": tree[key] for key in list(tree)[::-3]})
    for tensor in torch.load(new, mmap=True).values():
        assert tensor.data_ptr() % 64 == 0
        assert tensor.eq(1).all()


def test_unknown_records_are_kept(tmp_path: Path) -> None:
    old = tmp_path / "anemoi.ckpt"
    torch.save({"a": torch.ones(2)}, old)
    with zipfile.ZipFile(old, "a") as archive:
        archive.writestr("anemoi/metadata/ai-models.json", '{"version": 1}')
    new = rewritten(rewritten(old))
    assert zipfile.ZipFile(new).read("anemoi/metadata/ai-models.json") == b'{"version": 1}'
    assert torch.load(new)["a"].sum() == 2


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_other_settings_of_torch_save(tmp_path: Path, alignment: int) -> None:
    old = tmp_path / "set.ckpt"
    config.save.storage_alignment = alignment
    try:
        torch.save({"a": torch.ones(3), "b": torch.zeros(2)}, old)
    finally:
        config.save.storage_alignment = 64
    new = rewritten(old, lambda tree: {"x": tree["b"], "y": tree["a"]})
    same(torch.load(new, mmap=True), {"x": torch.zeros(2), "y": torch.ones(3)})


def test_tensors_of_every_kind_can_be_touched(project: Folder) -> None:
    body = 'for k in ("sparse", "attribute", "parameter with attribute", "bf16", "complex"):\n    ckpt[k] = ckpt[k] * 2'
    project.script("a1", None, f'{body}\nassert ckpt["quantized"].dequantize().sum() == 3\nassert ckpt["meta"].dtype')
    checkpoint = project.path / "values.ckpt"
    torch.save(values(), checkpoint)
    project.ok("upgrade", "head", checkpoint)
    after = torch.load(checkpoint, weights_only=False)
    assert after["sparse"].to_dense().sum() == 6
    assert (after["attribute"].sum(), after["parameter with attribute"].sum()) == (4, 4)
    same(after["own kind"], values()["own kind"])


def test_a_tensor_of_a_foreign_class_can_be_moved_not_opened(project: Folder) -> None:
    project.script("a0", None, 'ckpt["moved"] = ckpt.pop("own kind")')
    project.script("a1", "a0", 'ckpt["moved"].add_(1)')
    project.script("a2", "a1")
    checkpoint = project.path / "values.ckpt"
    torch.save({"own kind": torch.ones(2).as_subclass(Own), "epoch": 1}, checkpoint)
    project.ok("upgrade", "a0", checkpoint)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "versions/a1_change.py" in ran.err
    assert "tests.storage.test_checkpoint_file.Own" in ran.err


def test_big_endian_payload_is_not_misread(project: Folder) -> None:
    project.script("a1", None, 'ckpt["b"] = ckpt.pop("a")')
    project.script("a2", "a1", 'ckpt["b"].mul_(2)')
    checkpoint = project.path / "big.ckpt"
    torch.save({"a": torch.ones(4), "epoch": 1}, checkpoint)
    with zipfile.ZipFile(checkpoint) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    records |= {"big/byteorder": b"big", "big/data/0": records["big/data/0"][::-1]}
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    assert torch.load(checkpoint)["a"].tolist() == [1, 1, 1, 1]
    project.ok("upgrade", "a1", checkpoint)
    assert torch.load(checkpoint)["b"].tolist() == [1, 1, 1, 1]
    before = digest(checkpoint)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "not little-endian, so they can be moved but not changed" in ran.err
    assert digest(checkpoint) == before


def test_what_is_made_of_a_cuda_tensor_belongs_where_it_lived(project: Folder) -> None:
    project.script("a1", None, 'ckpt["a"] = ckpt["a"] * 2\nckpt["b"].mul_(2)')
    checkpoint = project.path / "cuda.ckpt"
    torch.save({"a": torch.ones(4), "b": torch.ones(3), "epoch": 1}, checkpoint)
    with zipfile.ZipFile(checkpoint) as archive:
        data = archive.read("cuda/data.pkl").replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
    with open_checkpoint(checkpoint) as file:
        from anemoi_ckpt_migrate.storage import Pickled

        file.load()
        file.write(Pickled(data, {"0": None, "1": None}), {}, backup=False)
    project.ok("upgrade", "head", checkpoint)
    where: list[str] = []
    torch.load(checkpoint, map_location=lambda storage, location: where.append(location) or storage)
    assert where == ["cuda:0", "cuda:0"]


CHANGES = {
    "assigned": ('sd["x.weight"] = sd["x.weight"].t().contiguous() * 2', lambda w: w.t() * 2),
    "in place": ('sd["x.weight"].mul_(3)', lambda w: w * 3),
    "item": ('sd["x.weight"][0] = 7', lambda w: torch.cat([torch.full((1, 4), 7.0), w[1:]])),
    "view": ('sd["x.weight"].view(-1)[:4].fill_(1)', lambda w: torch.cat([torch.ones(1, 4), w[1:]])),
    "data": ('sd["x.weight"].data.zero_()', torch.zeros_like),
    "operator": ('sd["x.weight"] += 1', lambda w: w + 1),
    "numpy": ('sd["x.weight"].numpy()[:] = 5', lambda w: torch.full_like(w, 5)),
    "function": ('import torch\nsd["x.weight"] = torch.cat([sd["x.weight"][:2], sd["x.weight"][2:]])', lambda w: w),
    "function first": ('import torch\nsd["x.weight"] = torch.stack([sd["x.weight"]])[0] + 0', lambda w: w),
    "isinstance": (
        "import torch\nfor k, v in sd.items():\n    if isinstance(v, torch.Tensor) and v.ndim == 2: sd[k] = v.neg()",
        lambda w: -w,
    ),
    "double": ('sd["x.weight"] = sd["x.weight"].double()', lambda w: w.double()),
    "made": ('import torch\nsd["x.weight"] = torch.eye(4)', lambda w: torch.eye(4)),
    "copied": ('import copy\nsd["x.weight"] = copy.deepcopy(sd["x.weight"])', lambda w: w),
    "formatted": ('ckpt["text"] = f"{sd[\'x.weight\'].sum():.3f}"\nfloat(ckpt["text"])', lambda w: w),
    "shape": ('sd["x.weight"] = sd["x.weight"].reshape(sd["x.weight"].shape + (1,))[..., 0]', lambda w: w),
    "condition": ('if (sd["x.weight"] == 0).all():\n    raise ValueError', lambda w: w),
}


@pytest.mark.parametrize("how", CHANGES)
def test_every_change_of_a_tensor_reaches_the_file(project: Folder, how: str) -> None:
    body, expected = CHANGES[how]
    project.script("a1", None, f'sd = ckpt["state_dict"]\n{body}')
    checkpoint = project.copy()
    before = torch.load(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    for way in WAYS:
        after = torch.load(checkpoint, **way)
        want = expected(before["state_dict"]["x.weight"])
        same(after["state_dict"]["x.weight"].contiguous(), want.contiguous())
        same(after["state_dict"]["norm.weight"], before["state_dict"]["norm.weight"])
        same(after["optimizer_states"], before["optimizer_states"])


def test_only_tensors_that_changed_are_written_anew(project: Folder) -> None:
    """The payload of the others stands in the new file as it stood in the old one."""
    project.script("a1", None, 'for name, t in ckpt["state_dict"].items():\n    t.sum()\n    if name == "b": t.add_(1)')
    checkpoint = project.path / "c.ckpt"
    torch.save({"state_dict": {name: torch.full((5000,), float(ord(name))) for name in "abc"}}, checkpoint)
    project.ok("upgrade", "head", checkpoint)
    order = [name for name in zipfile.ZipFile(checkpoint).namelist() if "/data/" in name]
    assert order == ["c/data/0", "c/data/2", "c/data/1"]
    assert [t[0].item() for t in torch.load(checkpoint)["state_dict"].values()] == [97, 99, 99]


def test_tied_tensors_stay_tied_when_they_change(project: Folder) -> None:
    project.script("a1", None, 'ckpt["state_dict"]["x.weight"].mul_(2)')
    checkpoint = project.copy()
    before = torch.load(checkpoint)["state_dict"]["x.weight"]
    project.ok("upgrade", "head", checkpoint)
    after = torch.load(checkpoint)["state_dict"]
    assert torch.equal(after["tied.weight"], before * 2)
    assert after["tied.weight"].data_ptr() == after["x.weight"].data_ptr()


def test_new_tensors_that_share_memory_still_do(project: Folder) -> None:
    body = 'import torch\nw = torch.arange(6.)\nckpt["state_dict"] |= {"n1": w, "n2": w[2:], "n3": w.view(2, 3)}'
    project.script("a1", None, body)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    after = torch.load(checkpoint)["state_dict"]
    assert after["n1"].data_ptr() == after["n3"].data_ptr()
    assert after["n2"].tolist() == [2, 3, 4, 5]
    project.ok("downgrade", "base", checkpoint)


def test_moving_tensors_needs_no_torch(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    code = (
        "import sys; from anemoi_ckpt_migrate import cli\n"
        f"for words in {[['upgrade', 'head'], ['current'], ['history'], ['stamp', 'base'], ['stamp', 'head'], ['downgrade', '-1']]!r}:\n"
        f"    assert cli.main([*words, {str(checkpoint)!r}]) == 0\n"
        "cli.main(['show', 'a1']); cli.main(['heads'])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_stand_ins_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "v.ckpt"
    torch.save(values(), path)
    with open_checkpoint(path) as file:
        tree = file.load()
        for key, value in values().items():
            if isinstance(value, torch.Tensor) and key != "sparse":
                assert is_stored(tree[key])
                assert (tree[key].shape, tree[key].ndim) == (value.shape, value.ndim)
                assert isinstance(tree[key].shape, torch.Size)
                assert tree[key].numel() == value.numel()
        assert repr(tree["strided"]) == "<tensor 2x4 in the file>"
        assert not file.touched


def test_every_tensor_of_a_lightning_run_goes_up_and_down(project: Folder) -> None:
    names = '[k for k in sorted(sd) if k.startswith("{}")]'
    up = f'sd = ckpt["state_dict"]\nfor k in {names.format("model.x.")}:\n    sd["model.lin." + k[8:]] = sd.pop(k)'
    down = f'sd = ckpt["state_dict"]\nfor k in {names.format("model.lin.")}:\n    sd["model.x." + k[10:]] = sd.pop(k)'
    project.script("a1", None, up, down)
    checkpoint = project.copy("lightning.ckpt")
    before = torch.load(checkpoint, weights_only=False)
    project.ok("upgrade", "head", checkpoint)
    assert "model.lin.bias" in torch.load(checkpoint, weights_only=False)["state_dict"]
    project.ok("downgrade", "base", checkpoint)
    after = torch.load(checkpoint, weights_only=False)
    assert after.pop("ckpt_migrate")["heads"] == []
    for name in before["state_dict"]:
        same(after["state_dict"].pop(name), before["state_dict"][name])
    same({**after, "state_dict": {}}, {**before, "state_dict": {}})


def test_training_goes_on_as_before(project: Folder) -> None:
    """A renamed model, with the weights and the optimizer of the old one, takes the same steps."""
    from tests.data.make import Model, trained

    class Renamed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            old = Model()
            self.y, self.norm, self.tied = old.x, old.norm, old.tied

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.tied(self.norm(self.y(batch)))

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        torch.manual_seed(2)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        return model.tied.weight.detach().clone()

    model, optimizer = trained()
    checkpoint = project.path / "run.ckpt"
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    wanted = steps(model, optimizer)
    body = 'for k in ("weight", "bias"):\n    sd[f"{}.{{k}}"] = sd.pop(f"{}.{{k}}")'
    up, down = (f'sd = ckpt["state_dict"]\n{body.format(*names)}' for names in (("y", "x"), ("x", "y")))
    project.script("a1", None, up, down)
    project.ok("upgrade", "head", checkpoint)
    renamed, again = Renamed(), torch.load(checkpoint, weights_only=True)
    renamed.load_state_dict(again["state_dict"], strict=True)
    resumed = torch.optim.AdamW(renamed.parameters())
    resumed.load_state_dict(again["optimizer"])
    assert torch.equal(steps(renamed, resumed), wanted)
    project.ok("downgrade", "-1", checkpoint)
    Model().load_state_dict(load(checkpoint)["state_dict"], strict=True)


def test_reading_does_not_write(project: Folder) -> None:
    checkpoint = project.copy()
    before, times = digest(checkpoint), checkpoint.stat().st_mtime_ns
    project.script("a1", None)
    project.ok("current", checkpoint)
    project.ok("history", checkpoint)
    assert (digest(checkpoint), checkpoint.stat().st_mtime_ns) == (before, times)


@pytest.mark.parametrize("protocol", [2, 4])
def test_other_values_stay_when_one_tensor_is_touched(project: Folder, protocol: int) -> None:
    project.script("a1", None, 'ckpt["half"].mul_(2)')
    old, new = project.path / "values.ckpt", project.path / "new.ckpt"
    torch.save(values(), old, pickle_protocol=protocol)
    project.ok("upgrade", "head", old, "-o", new)
    one, other = torch.load(old, weights_only=False), torch.load(new, weights_only=False)
    del other["ckpt_migrate"]
    one["half"].mul_(2)
    for loaded in (one, other):
        loaded["storage"], loaded["sparse"] = list(loaded["storage"]), loaded["sparse"].to_dense()
    same(other, one)
    assert other["parameter"] is other["again"]
    assert other["base"].data_ptr() == other["strided"].data_ptr() - 4
