"""Every kind of file that torch makes: moved and changed by the command line, then read by plain torch.

What has its test elsewhere is not here a second time:

- ``test_store``: storage alignments, pickle protocols 2 to 5, big-endian payload, Lightning, sharing, training that
  goes on; of kinds of values float8, bf16, complex and other common dtypes, parameters, COO, tensors quantized as a
  whole, meta tensors, attributes, a project's own subclass, scalars, empty tensors, strided views, devices, sizes;
- ``test_mutations``: random changes of views, tied tensors and tensors of many pages;
- ``test_in_place``: what writing in place leaves, and the way back from it;
- ``test_bad_input``: files that are cut off, empty, damaged, or no checkpoints at all.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Folder, backups, digest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
config = pytest.importorskip("torch.utils.serialization").config

from tests.support.tensors import stored  # noqa: E402

# Of prototypes, deprecations and hooks that are not saved, torch warns; that is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")

IN_PLACE = pytest.mark.parametrize("words", [[], ["--in-place"]], ids=["anew", "in place"])


@pytest.fixture
def chain(project: Folder) -> Folder:
    """a1 moves what stands under "old", a2 changes the tensor "w" beside it."""
    project.script("a1", None, 'ckpt["new"] = ckpt.pop("old")', 'ckpt["old"] = ckpt.pop("new")')
    project.script("a2", "a1", 'ckpt["w"].mul_(2)', 'ckpt["w"].div_(2)')
    return project


def saved(folder: Folder, value: Any, name: str = "model.ckpt", **options: Any) -> Path:
    """Have torch save something, under "old", beside a tensor of some pages."""
    path = folder.path / name
    torch.save({"epoch": 1, "w": torch.ones(3000), "old": value}, path, **options)
    return path


def loaded(path: Path, **options: Any) -> Any:
    """Load with plain torch."""
    return torch.load(path, **{"weights_only": False, **options})


def picture(value: Any, seen: dict[int, int] | None = None) -> Any:
    """Return all that can be seen of a value, as something to compare: bytes too, and which storages are the same."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.UntypedStorage):
        number = seen.setdefault(value._cdata, len(seen))
        return number, value.nbytes() if value.device.type == "meta" else stored(value)
    if isinstance(value, torch.storage.TypedStorage):
        return value.dtype, picture(value._untyped_storage, seen)
    if isinstance(value, dict):
        pairs = [(key, picture(item, seen)) for key, item in value.items()]
        return type(value), pairs, [picture(vars(value), seen)] if hasattr(value, "__dict__") else []
    if isinstance(value, (list, tuple)):
        return type(value), [picture(item, seen) for item in value]
    if isinstance(value, (torch.Tensor, torch.nn.Module, torch.Generator, np.ndarray)):
        return type(value), picture(value.__reduce_ex__(2), seen)
    return repr(value)


def same(one: Any, other: Any) -> None:
    """Check that two trees are the same, bit for bit."""
    assert picture(one) == picture(other)


def without_record(tree: Any) -> Any:
    assert tree.pop("ckpt_migrate")["format"] == 1
    return tree


# ---------------------------------------------------------------------------------------------- kinds of values

INDICES = torch.tensor([0, 1, 2])


def hook(gradient: Any) -> Any:
    return gradient


def hooked(parameter: Any) -> Any:
    parameter.register_hook(hook)
    return parameter


class OfTorch17(torch.Tensor):
    """A subclass, pickled as torch 1.7 did it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = self.as_subclass(torch.Tensor)
        function, args = plain.__reduce_ex__(protocol)
        return torch._tensor._rebuild_from_type, (function, OfTorch17, args, {"units": "K"})


def overlapping() -> list[Any]:
    base = torch.arange(12.0)
    return [base.as_strided((3, 3), (1, 1)), base.view(3, 4).t(), base[::3], base.detach(), base.storage()]


def trained(kind: Callable[..., Any], **options: Any) -> Any:
    """Return the state of an optimizer after some steps."""
    layer = torch.nn.Linear(3, 2)
    optimizer = kind(layer.parameters(), **options)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return optimizer.state_dict()


OPENED: dict[str, Callable[[], Any]] = {
    "quantized per channel": lambda: torch.quantize_per_channel(
        torch.ones(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
    ),
    "CSR": lambda: torch.eye(4).to_sparse_csr(),
    "CSC": lambda: torch.eye(4).to_sparse_csc(),
    "BSR": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "BSC": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "coalesced COO": lambda: torch.eye(4).to_sparse().coalesce(),
    "hybrid COO": lambda: torch.sparse_coo_tensor(INDICES[None], torch.ones(3, 2), (4, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(1, 3)]),
    "conjugated view": lambda: torch.tensor([1 + 2j, 3j]).conj(),
    "negated view": lambda: torch.tensor([1 + 2j, 3j]).conj().imag,
    "channels last": lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.ones(1, 3).expand(1000, 3),
    "requires grad": lambda: torch.ones(3, requires_grad=True),
    "buffer": lambda: torch.nn.Buffer(torch.ones(3)),
    "not persistent buffer": lambda: torch.nn.Buffer(torch.ones(3), persistent=False),
    "parameter with a hook": lambda: hooked(torch.nn.Parameter(torch.ones(3))),
}
KINDS: dict[str, Callable[[], Any]] = OPENED | {
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged),
    "uninitialized parameter": torch.nn.UninitializedParameter,
    "uninitialized buffer": torch.nn.UninitializedBuffer,
    "subclass of torch 1.7": lambda: torch.ones(3).as_subclass(OfTorch17),
    "views of one storage": overlapping,
    "typed storage": lambda: torch.ones(3).storage(),
    "generator": lambda: torch.Generator().manual_seed(3),
    "states of generators": lambda: [torch.get_rng_state(), random.getstate(), np.random.get_state()],
    "layouts and schemes": lambda: [torch.strided, torch.sparse_csr, torch.per_tensor_affine],
    "devices": lambda: [torch.device("cuda", 1), torch.device("meta")],
    "numpy": lambda: [np.arange(6.0).reshape(2, 3).T, np.float32(1.5), np.dtype("<f8"), np.datetime64("2026-11-23")],
    "numpy of structures and objects": lambda: [
        np.zeros(2, [("a", "i4"), ("b", "f8")]),
        np.array([1, "a", None], object),
    ],
    "AdamW": lambda: trained(torch.optim.AdamW, amsgrad=True),
    "SGD": lambda: trained(torch.optim.SGD, lr=0.1, momentum=0.9),
    "Adagrad": lambda: trained(torch.optim.Adagrad),
    "LBFGS": lambda: trained(torch.optim.LBFGS),
}


@pytest.mark.parametrize("target", ["a1", "a2"], ids=["moved", "beside a change"])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_values(chain: Folder, kind: str, target: str) -> None:
    checkpoint = saved(chain, KINDS[kind]())
    before, plain = loaded(checkpoint), loads_as_weights_only(checkpoint)
    chain.ok("upgrade", target, checkpoint)
    after = without_record(loaded(checkpoint))
    same(after.pop("new"), before["old"])
    assert after["w"].sum() == (3000 if target == "a1" else 6000)
    assert loads_as_weights_only(checkpoint) == plain
    chain.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), before)


@pytest.mark.parametrize("kind", OPENED)
def test_kinds_of_tensors_that_a_migration_opens(project: Folder, kind: str) -> None:
    """The same function, on what torch.load gives, leaves the same."""
    body = 'ckpt["copy"] = ckpt["old"].clone()\nckpt["seen"] = str(ckpt["old"])'
    project.script("a1", None, body, 'del ckpt["copy"], ckpt["seen"]')
    checkpoint, by_hand = saved(project, OPENED[kind]()), project.path / "hand.ckpt"
    before, ckpt = loaded(checkpoint), loaded(checkpoint)
    exec(body, {"ckpt": ckpt})
    torch.save(ckpt, by_hand)
    project.ok("upgrade", "head", checkpoint)
    same(without_record(loaded(checkpoint)), loaded(by_hand))
    project.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), before)


def test_a_jagged_tensor_can_be_moved_not_opened(project: Folder) -> None:
    project.script("a1", None, 'ckpt["old"] = ckpt["old"] * 2')
    checkpoint = saved(project, KINDS["jagged"]())
    before = digest(checkpoint)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "NestedTensor" in ran.err
    assert digest(checkpoint) == before


def savable_dtypes() -> dict[str, Any]:
    """Make a tensor of each dtype that this torch can save; quantized ones have tests of their own."""
    made = {"torch.bool": torch.tensor([True, False])}
    for dtype in {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)} - {torch.bool}:
        if str(dtype).startswith(("torch.q", "torch.bits")):
            continue
        with contextlib.suppress(RuntimeError, KeyError, AttributeError):
            tensor = torch.arange(64, dtype=torch.uint8).view(dtype)
            torch.save(tensor, io.BytesIO())
            made[str(dtype)] = tensor
    return dict(sorted(made.items()))


@pytest.mark.parametrize(
    "body", ["pass", 'ckpt["new"]["torch.bool"].logical_not_()', 'sd = ckpt["new"]\nfor k in sd: sd[k] = sd[k].clone()']
)
def test_every_dtype(project: Folder, body: str) -> None:
    project.script("a1", None, f'ckpt["new"] = ckpt.pop("old")\n{body}', 'ckpt["old"] = ckpt.pop("new")')
    checkpoint = saved(project, savable_dtypes())
    before = loaded(checkpoint)
    assert {"torch.int8", "torch.uint64", "torch.complex32", "torch.float8_e5m2"} <= set(before["old"])
    project.ok("upgrade", "head", checkpoint)
    if "not" in body:
        before["old"]["torch.bool"].logical_not_()
    same(loaded(checkpoint)["new"], before["old"])
    project.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), before)


def loads_as_weights_only(path: Path) -> bool:
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


# ------------------------------------------------------------------------------------------------ ways of loading


def loads_in_every_way(path: Path) -> Any:
    """Check that plain torch reads a checkpoint of tensors in every mode that it has, and return what it reads."""
    wanted = torch.load(path, weights_only=True)
    for offsets, mapped, only in itertools.product((False, True), (False, True), (False, True)):
        with config.patch({"load.calculate_storage_offsets": offsets}):
            same(torch.load(path, mmap=mapped, weights_only=only), wanted)
            shapes = torch.load(path, mmap=mapped, weights_only=only, map_location="meta")
            assert [(t.shape, t.dtype) for t in tensors(shapes)] == [(t.shape, t.dtype) for t in tensors(wanted)]
            if only and not mapped:
                same_where_it_says(path, wanted)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors(torch.load(path, mmap=True)))
    assert zipfile.ZipFile(path).testzip() is None
    return wanted


def same_where_it_says(path: Path, wanted: Any) -> None:
    """Check where in the file torch looks for each tensor, which it tells under FakeTensorMode."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    content = path.read_bytes()
    with FakeTensorMode():
        fake = torch.load(path)
    for tensor, real in zip(tensors(fake), tensors(wanted), strict=True):
        offset, bytes_of_it = tensor.untyped_storage()._checkpoint_offset, stored(real.untyped_storage())
        assert offset % 64 == 0
        assert content[offset : offset + len(bytes_of_it)] == bytes_of_it


def tensors(tree: Any) -> list[Any]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


LAYERS = {f"layer{index}.weight": torch.full((100 * index + 3,), float(index)) for index in range(4)}


@IN_PLACE
@pytest.mark.parametrize("target", ["a1", "a2"], ids=["moved", "beside a change"])
def test_every_way_of_loading(chain: Folder, target: str, words: list[str]) -> None:
    checkpoint = saved(chain, LAYERS)
    old = loads_in_every_way(checkpoint)
    chain.ok("upgrade", target, checkpoint, *words)
    same(loads_in_every_way(checkpoint)["new"], LAYERS)
    chain.ok("downgrade", "base", checkpoint, *words)
    back = loads_in_every_way(checkpoint)
    back.pop("ckpt_migrate", None)  # in place, the very bytes of before are back
    same(back, old)


def test_every_way_of_loading_what_was_written_in_place_again_and_again(chain: Folder) -> None:
    checkpoint = saved(chain, LAYERS)
    for step in range(3, 5):
        chain.script(f"a{step}", f"a{step - 1}", f'ckpt["w"].add_({step}); ckpt["new"]["layer0.weight"] += 1')
    for _ in range(4):
        chain.ok("upgrade", "+1", checkpoint, "--in-place")
        loads_in_every_way(checkpoint)
    chain.ok("compact", checkpoint, "--no-backup")
    after = loads_in_every_way(checkpoint)
    assert (after["w"][0], after["new"]["layer0.weight"].tolist()) == (2 + 3 + 4, [2, 2, 2])


def test_a_bare_state_dict_in_every_way(project: Folder) -> None:
    """The record goes where a strict load does not meet it."""
    project.script("a1", None, 'ckpt["1.weight"] = ckpt.pop("0.weight")', 'ckpt["0.weight"] = ckpt.pop("1.weight")')
    checkpoint = project.path / "state_dict.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict(), checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert list(loads_in_every_way(checkpoint)) == ["0.bias", "1.weight"]
    project.ok("downgrade", "base", checkpoint)
    torch.nn.Sequential(torch.nn.Linear(3, 2)).load_state_dict(loads_in_every_way(checkpoint), strict=True)


# -------------------------------------------------------------------------------------------- settings of torch.save


@IN_PLACE
@pytest.mark.parametrize(
    "setting",
    [{"save.storage_alignment": 4096}, {"save.compute_crc32": False}, {"save.use_pinned_memory_for_d2h": True}],
    ids=str,
)
def test_settings_of_torch_save(chain: Folder, setting: dict[str, Any], words: list[str]) -> None:
    with config.patch(setting):
        checkpoint = saved(chain, LAYERS)
    old = loaded(checkpoint)
    chain.ok("upgrade", "head", checkpoint, "--verify", *words)
    if setting != {"save.compute_crc32": False}:
        loads_in_every_way(checkpoint)
    for mapped in (True, False):
        after = torch.load(checkpoint, mmap=mapped)
        same(after["new"], old["old"])
        assert after["w"].sum() == 6000
    chain.ok("downgrade", "base", checkpoint, *words)
    same({**loaded(checkpoint), "ckpt_migrate": None}, {**old, "ckpt_migrate": None})


@pytest.mark.parametrize("protocol", [2, 3])
def test_what_loads_with_weights_only_still_does(chain: Folder, protocol: int) -> None:
    """Of the pickle protocols that torch.save can be told, torch reads 4 and 5 without `weights_only` only."""
    checkpoint = saved(chain, LAYERS, pickle_protocol=protocol)
    chain.ok("upgrade", "head", checkpoint)
    same(loads_in_every_way(checkpoint)["new"], LAYERS)


def test_a_file_without_payload(chain: Folder) -> None:
    """torch.save under `skip_data` leaves room for the payload, and no CRC: the rest of a program fills it in."""
    checkpoint = chain.path / "skeleton.ckpt"
    with torch.serialization.skip_data():
        saved(chain, LAYERS, "skeleton.ckpt")
    chain.ok("upgrade", "a1", checkpoint, "--verify")
    assert [(name, tensor.shape) for name, tensor in loaded(checkpoint)["new"].items()] == [
        (name, tensor.shape) for name, tensor in LAYERS.items()
    ]


def test_a_file_as_torch_16_laid_it_out(chain: Folder) -> None:
    """Without the records that came later: the byte order, the alignment, the version of the layout, the hash."""
    checkpoint = saved(chain, LAYERS)
    with zipfile.ZipFile(checkpoint) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for name in content:
            if name.startswith("model/data") or name == "model/version":
                archive.writestr(name, content[name])
    old = loaded(checkpoint)
    chain.ok("upgrade", "head", checkpoint)
    same(loaded(checkpoint)["new"], LAYERS)
    chain.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), old)


def test_a_file_like_object(chain: Folder) -> None:
    """What torch.save writes to a stream has "archive" for a root, and is renamed by nothing."""
    checkpoint = chain.path / "other name.ckpt"
    with checkpoint.open("wb") as stream:
        torch.save({"epoch": 1, "w": torch.ones(3), "old": LAYERS}, stream)
    chain.ok("upgrade", "head", checkpoint)
    assert zipfile.ZipFile(checkpoint).namelist()[0].startswith("archive/")
    same(loads_in_every_way(checkpoint)["new"], LAYERS)


# ------------------------------------------------------------------------------------------------- other devices


@pytest.fixture
def cuda(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a machine with two GPUs, which the one that runs the tests may not have."""
    devices = iter(["cuda:0", "cuda:0", "cuda:1"])
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: next(devices))
        return saved(chain, {"a": torch.ones(3), "b": torch.zeros(4)})


def locations(path: Path) -> list[str]:
    found: list[str] = []
    torch.load(path, map_location=lambda storage, location: found.append(location) or storage)
    return found


@IN_PLACE
@pytest.mark.parametrize("target", ["a1", "a2"], ids=["moved", "beside a change"])
def test_files_of_a_machine_with_gpus(chain: Folder, cuda: Path, target: str, words: list[str]) -> None:
    before = locations(cuda)
    assert before == ["cuda:0", "cuda:0", "cuda:1"]
    chain.ok("upgrade", target, cuda, *words)
    assert locations(cuda) == before
    for place in ("cpu", "meta", {"cuda:0": "cpu", "cuda:1": "cpu"}):
        assert torch.load(cuda, map_location=place)["new"]["b"].shape == (4,)
    chain.ok("downgrade", "base", cuda, *words)
    assert locations(cuda) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it does load")
def test_files_of_gpus_still_ask_for_them(chain: Folder, cuda: Path) -> None:
    chain.ok("upgrade", "head", cuda)
    with pytest.raises(RuntimeError, match="map_location"):
        torch.load(cuda)


# ----------------------------------------------------------------------------------------- whole modules, and code


class Net(torch.nn.Module):
    """Pickled by its class, which nothing but a real unpickler imports."""

    def __init__(self) -> None:
        super().__init__()
        self.old = torch.nn.Linear(3, 3)
        self.register_buffer("scale", torch.full((3,), 2.0))
        self.old.register_forward_hook(double)

    def forward(self, x: Any) -> Any:
        return self._modules.get("new", self._modules.get("old"))(x) * self.scale


def double(module: Any, args: Any, result: Any) -> Any:
    return result * 2


RENAME_LAYER = 'layers = ckpt["model"]._modules\nlayers["{}"] = layers.pop("{}")'


@pytest.mark.parametrize("body", ["pass", 'ckpt["model"]._buffers["scale"].mul_(2)'], ids=["moved", "changed"])
def test_a_module_pickled_by_its_class(project: Folder, body: str) -> None:
    back = body.replace("mul_", "div_")
    project.script(
        "a1", None, f"{RENAME_LAYER.format('new', 'old')}\n{body}", f"{RENAME_LAYER.format('old', 'new')}\n{back}"
    )
    checkpoint, net = project.path / "net.ckpt", Net()
    torch.save({"model": net, "epoch": 1}, checkpoint)
    before = loaded(checkpoint)
    wanted = net(torch.ones(3)) * (1 if body == "pass" else 2)
    project.ok("upgrade", "head", checkpoint)
    after = loaded(checkpoint)["model"]
    assert [name for name, _ in after.named_children()] == ["new"]
    assert torch.equal(after(torch.ones(3)), wanted)
    project.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), before)


@IN_PLACE
def test_a_module_that_is_the_whole_file(project: Folder, words: list[str]) -> None:
    project.script(
        "a1", None, 'ckpt._modules["1"] = ckpt._modules.pop("0")', 'ckpt._modules["0"] = ckpt._modules.pop("1")'
    )
    checkpoint = project.path / "net.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)), checkpoint)
    before = loaded(checkpoint)
    project.ok("upgrade", "head", checkpoint, *words)
    assert [name for name, _ in loaded(checkpoint).named_children()] == ["1"]
    assert "a1" in project.ok("current", checkpoint).out
    project.ok("downgrade", "base", checkpoint, *words)
    same(loaded(checkpoint), before)


@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript_is_refused(chain: Folder, make: str) -> None:
    layer = torch.nn.Linear(3, 2)
    compiled = torch.jit.script(layer) if make == "script" else torch.jit.trace(layer, torch.ones(3))
    checkpoint = chain.path / "compiled.pt"
    torch.jit.save(compiled, checkpoint)
    refused(chain, checkpoint, says="it is a TorchScript archive")
    assert "torch.jit.load" in chain.run("current", checkpoint).err


def test_an_exported_program_is_refused(chain: Folder) -> None:
    checkpoint = chain.path / "program.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.ones(3),)), checkpoint)
    refused(chain, checkpoint, says="no torch.save wrote")


def test_a_package_is_refused(chain: Folder) -> None:
    checkpoint = chain.path / "package.pt"
    with torch.package.PackageExporter(checkpoint) as exporter:
        exporter.save_pickle("model", "model.pkl", {"a": torch.ones(2)})
    refused(chain, checkpoint, says="no torch.save wrote")


def refused(folder: Folder, checkpoint: Path, says: str) -> None:
    """Check that every command refuses a file, in one sentence, and leaves it as it is."""
    before = digest(checkpoint)
    for words in (
        ["upgrade", "head"],
        ["upgrade", "head", "--in-place"],
        ["downgrade", "base"],
        ["stamp", "head"],
        ["current"],
    ):
        ran = folder.run(*words, checkpoint)
        assert ran.code == 1
        assert says in ran.err
        assert ran.err.count("\n") == 1
    assert digest(checkpoint) == before


# ------------------------------------------------------------------------------------------- files before torch 1.6

OLD = {"_use_new_zipfile_serialization": False}
LEGACY: dict[str, Callable[[], Any]] = {
    "tensors": lambda: dict(LAYERS),
    "views of one storage": lambda: overlapping()[:4],
    "empty and scalar": lambda: [torch.empty(0, 3), torch.tensor(3)],
    "parameter": lambda: torch.nn.Parameter(torch.ones(3)),
    "half": lambda: torch.ones(3, dtype=torch.float16),
    "complex": lambda: torch.tensor([1 + 2j]),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "state dict": lambda: torch.nn.Linear(3, 2).state_dict(),
    "numpy": lambda: np.arange(6.0).reshape(2, 3),
    "AdamW": lambda: trained(torch.optim.AdamW),
    "without tensors": lambda: OrderedDict(a=[1, 2.5, "x"]),
}


@pytest.mark.parametrize("target", ["a1", "a2"], ids=["moved", "beside a change"])
@pytest.mark.parametrize("kind", LEGACY)
def test_legacy_files_become_zip_files(chain: Folder, kind: str, target: str) -> None:
    checkpoint = saved(chain, LEGACY[kind](), **OLD)
    before, old = loaded(checkpoint), digest(checkpoint)
    assert not zipfile.is_zipfile(checkpoint)
    chain.ok("upgrade", target, checkpoint)
    assert zipfile.is_zipfile(checkpoint)
    assert [digest(backup) for backup in backups(checkpoint)] == [old]
    for mapped in (True, False):
        after = without_record(loaded(checkpoint, mmap=mapped))
        same(after.pop("new"), before["old"])
        assert after["w"].sum() == (3000 if target == "a1" else 6000)
    chain.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), before)


@pytest.mark.parametrize("target", ["a1", "a2"], ids=["moved", "beside a change"])
def test_legacy_files_load_in_every_way_afterwards(chain: Folder, target: str) -> None:
    checkpoint = saved(chain, LAYERS, **OLD)
    chain.ok("upgrade", target, checkpoint)
    same(loads_in_every_way(checkpoint)["new"], LAYERS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_legacy_files_of_every_pickle_protocol(chain: Folder, protocol: int) -> None:
    checkpoint = saved(chain, LAYERS, pickle_protocol=protocol, **OLD)
    chain.ok("upgrade", "head", checkpoint)
    same(loaded(checkpoint)["new"], LAYERS)


def test_a_legacy_file_is_read_as_any_other(chain: Folder) -> None:
    checkpoint = saved(chain, LAYERS, **OLD)
    before = digest(checkpoint)
    assert "base" in chain.ok("current", checkpoint).out
    chain.ok("upgrade", "head", checkpoint, "--dry-run")
    assert digest(checkpoint) == before
    chain.ok("stamp", "head", checkpoint)
    assert "a2" in chain.ok("current", checkpoint).out
    same(loaded(checkpoint)["old"], LAYERS)


def test_a_legacy_file_written_elsewhere_stays(chain: Folder) -> None:
    checkpoint, elsewhere = saved(chain, LAYERS, **OLD), chain.path / "new.ckpt"
    before = digest(checkpoint)
    chain.ok("upgrade", "head", checkpoint, "-o", elsewhere)
    assert digest(checkpoint) == before
    same(loaded(elsewhere)["new"], LAYERS)


def test_a_legacy_file_cannot_grow(chain: Folder) -> None:
    checkpoint = saved(chain, LAYERS, **OLD)
    before = digest(checkpoint)
    ran = chain.run("upgrade", "head", "--in-place", checkpoint)
    assert ran.code == 3
    assert "leave out --in-place" in ran.err
    assert digest(checkpoint) == before


def test_a_legacy_module_keeps_its_class_and_loses_its_source(project: Folder) -> None:
    """The format held the source text of each module, for warnings only; the zip format does not."""
    project.script("a1", None, RENAME_LAYER.format("new", "old"), RENAME_LAYER.format("old", "new"))
    checkpoint, net = project.path / "net.ckpt", Net()
    torch.save({"model": net, "epoch": 1}, checkpoint, **OLD)
    assert b"class Net" in checkpoint.read_bytes()
    before = loaded(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert torch.equal(loaded(checkpoint)["model"](torch.ones(3)), net(torch.ones(3)))
    project.ok("downgrade", "base", checkpoint)
    same(without_record(loaded(checkpoint)), before)


def test_what_a_legacy_file_says_of_its_machine_does_not_count(chain: Folder) -> None:
    """Whatever the byte order there, torch wrote the payload of this format in the little-endian one."""
    checkpoint = saved(chain, LAYERS, **OLD)
    content = checkpoint.read_bytes()
    at = content.index(b"\x88", content.index(b"little_endian"))  # True
    checkpoint.write_bytes(content[:at] + b"\x89" + content[at + 1 :])
    same(loaded(checkpoint)["old"], LAYERS)
    chain.ok("upgrade", "head", checkpoint)
    same(loaded(checkpoint)["new"], LAYERS)


@pytest.mark.parametrize("behind", [b"x", bytes(64), None], ids=["text", "zeros", "another"])
def test_a_legacy_file_with_something_behind_it(chain: Folder, behind: bytes | None) -> None:
    """torch.load reads what comes first, and a new file would not hold the rest."""
    checkpoint = saved(chain, LAYERS, **OLD)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content + (content if behind is None else behind))
    before = digest(checkpoint)
    for words in (["upgrade", "head"], ["stamp", "a1"], ["downgrade", "base"], ["inspect"]):
        ran = chain.run(*words, checkpoint)
        assert (ran.code, "bytes follow its end" in ran.err, ran.err.count("\n")) == (1, True, 1), ran.err
    assert digest(checkpoint) == before


@pytest.mark.parametrize("keep", [10, 300, -100, -1], ids="cut at {}".format)
def test_a_legacy_file_that_was_cut_off(chain: Folder, keep: int) -> None:
    checkpoint = saved(chain, LAYERS, **OLD)
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    before = digest(checkpoint)
    for words in (["upgrade", "head"], ["upgrade", "a1"]):
        ran = chain.run(*words, checkpoint)
        assert ran.code == 1
        assert ran.err.count("\n") == 1
    assert digest(checkpoint) == before
