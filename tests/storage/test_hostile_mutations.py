"""Random changes of tensors, by any means, reach the file as they would through torch.load and torch.save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anemoi_ckpt_migrate as cm
from tests.support.project import Folder, backups

torch = pytest.importorskip("torch")
pytest.importorskip("numpy")

# On `sd`, a state dict in which a, b and c are views of one storage, d is tied to e, and big spans many pages.
CHANGES = [
    'sd["{0}"].mul_(3)',
    'sd["{0}"].data.add_({1})',
    'sd["{0}"].view(-1)[{1}] = -1',
    'sd["{0}"].numpy()[...] = {1}',
    'sd["{0}"].numpy().reshape(-1)[-1] = {1}',
    'sd["{0}"].detach().untyped_storage()[0] = {1}',
    'sd["{0}"] += sd["{0}"].sum()',
    'sd["{0}"][..., 0].zero_()',
    'sd["{0}"] = sd["{0}"].clone() + {1}',
    'sd["{0}"] = sd["{0}"].flip(0).contiguous()',
    'sd["{0}"] = sd["{0}"][:1]',
    'sd["{0}"] = sd["{0}"].double()',
    'sd["new {1}"] = sd["{0}"]',
    'sd["new {1}"] = torch.cat([sd["{0}"].reshape(-1), sd["{2}"].reshape(-1)])',
    'sd["moved"] = sd.pop("{0}"); sd["{0}"] = sd["moved"]',
    'sd["{0}"].copy_(sd["{0}"])',
    'sd["{0}"].requires_grad_(False)',
    'torch.nn.init.constant_(sd["{0}"], {1})',
    'sd["{0}"], sd["{2}"] = sd["{2}"], sd["{0}"]',
]
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "big", "half"])
STEPS = st.lists(
    st.builds(str.format, st.sampled_from(CHANGES), NAMES, st.integers(0, 1), NAMES), min_size=1, max_size=6
)


def checkpoint() -> dict[str, Any]:
    base = torch.arange(24.0)
    tied = torch.ones(2, 3)
    tensors = {"a": base[:12].view(3, 4), "b": base[6:], "c": base.view(4, 6).t(), "d": tied, "e": tied}
    return {
        "state_dict": tensors | {"big": torch.arange(30_000.0), "half": torch.ones(5, dtype=torch.float16)},
        "epoch": 1,
    }


def layout(sd: dict[str, Any]) -> list[int]:
    """Which tensors share memory, as the number of the first that each shares it with."""
    addresses = [tensor.untyped_storage().data_ptr() for tensor in sd.values()]
    return [addresses.index(address) for address in addresses]


@settings(max_examples=150)
@given(STEPS)
def test_random_changes(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    folder = tmp_path_factory.mktemp("mutation")
    (folder / "versions").mkdir()
    (folder / "ckpt-migrate.toml").touch()
    body = "\n    ".join(["import torch", 'sd = ckpt["state_dict"]', *steps, "return ckpt"])
    source = f'"""mutate"""\nrevision = "a"\ndown_revision = None\ndef migrate(ckpt):\n    {body}\n'
    (folder / "versions" / "a.py").write_text(source)
    path, by_hand = folder / "run.ckpt", folder / "hand.ckpt"
    torch.save(checkpoint(), path)
    wanted = run_by_hand(source, path, by_hand)
    if isinstance(wanted, Exception):  # torch refuses it too: what it cannot do, nobody can
        before = path.read_bytes()
        with pytest.raises(cm.MigrateError):
            cm.upgrade(path, "head", project=folder)
        assert path.read_bytes() == before
        return
    cm.upgrade(path, "head", project=folder)
    for mapped in (True, False):
        found = torch.load(path, mmap=mapped, weights_only=True)["state_dict"]
        assert list(found) == list(wanted)
        for name, tensor in wanted.items():
            assert (found[name].dtype, found[name].stride()) == (tensor.dtype, tensor.stride())
            assert torch.equal(found[name], tensor), (name, steps)
        assert layout(found) == layout(wanted)
    assert torch.equal(torch.load(backups(path)[0])["state_dict"]["big"], checkpoint()["state_dict"]["big"])


def run_by_hand(source: str, path: Path, output: Path) -> Any:
    """Run the same function on what torch.load gives, save it, and load it again."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    try:
        torch.save(namespace["migrate"](torch.load(path)), output)
    except Exception as error:
        return error
    return torch.load(output)["state_dict"]


@pytest.mark.parametrize(
    "made",
    [
        "torch.tensor(w)",
        "torch.asarray(w)",
        "torch.Tensor(w)",
        "torch.as_tensor(w)",
        "torch.zeros(1).new_tensor(w)",
        "torch.full((2,), w[0, 0])",
        "torch.nested.nested_tensor([w])[0]",
        "torch.sparse_coo_tensor(torch.zeros(1, 4, dtype=torch.int64), w).to_dense()",
        "torch.from_numpy(__import__('numpy').array(w))",
        "[w][isinstance(w, torch.Tensor) - 1] + 1",
    ],
)
def test_what_takes_a_tensor_gets_one(project: Folder, made: str) -> None:
    """torch's own code must never take a stand-in for a tensor: it would read memory that is none."""
    project.script("a1", None, f'w = ckpt["state_dict"]["x.weight"]\nckpt["made"] = {made}', top="import torch")
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    wanted = eval(made, {"torch": torch, "w": torch.load(project.copy(to="old.ckpt"))["state_dict"]["x.weight"]})
    assert torch.equal(torch.load(checkpoint)["made"], wanted)
