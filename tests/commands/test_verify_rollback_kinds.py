"""The proof of a way back, with each kind of tensor that torch can save beside what is migrated.

v stays --(w is renamed, or doubled)--> v stays --(and back)--> v as it was
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*(deprecated|beta state|prototype)")

from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402


class Own(torch.Tensor):
    """A subclass."""


def weight() -> Any:
    return torch.arange(12.0).reshape(4, 3)


def per_channel(dtype: Any, width: int = 3) -> Any:
    return torch.quantize_per_channel(torch.ones(4, width), torch.full((4,), 0.1), torch.zeros(4), 0, dtype)


def with_attribute(tensor: Any) -> Any:
    tensor.scales = torch.ones(2)
    return tensor


def shared() -> Any:
    quantised = torch.quantize_per_tensor(weight(), 0.1, 0, torch.qint8)
    return [quantised, quantised, quantised[1:]]


KINDS: dict[str, Callable[[], Any]] = {
    "quantised": lambda: torch.quantize_per_tensor(weight(), 0.1, 0, torch.qint8),
    "quantised view": lambda: torch.quantize_per_tensor(weight(), 0.1, 0, torch.quint8)[1:3],
    "quantised per channel": lambda: per_channel(torch.qint8),
    "quantised, four bits": lambda: per_channel(torch.quint4x2, 4),
    "quantised and shared": shared,
    "packed for a quantised layer": lambda: torch.ops.quantized.linear_prepack(
        torch.quantize_per_tensor(weight(), 0.1, 0, torch.qint8), None
    ),
    "quantised model": lambda: torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(3, 4))),
    "coordinates": lambda: weight().to_sparse(),
    "rows": lambda: weight().to_sparse_csr(),
    "columns": lambda: weight().to_sparse_csc(),
    "blocks": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 2), torch.ones(3, 2)], layout=torch.jagged),
    "conjugate": lambda: torch.ones(2, dtype=torch.cfloat).conj(),
    "negative": lambda: torch.ones(2, dtype=torch.cfloat).conj().imag,
    "subclass": lambda: weight().as_subclass(Own),
    "parameter": lambda: torch.nn.Parameter(weight()),
    "parameter with an attribute": lambda: with_attribute(torch.nn.Parameter(weight())),
    "tensor with an attribute": lambda: with_attribute(weight()),
    "buffer": lambda: getattr(torch.nn, "Buffer", torch.nn.Parameter)(weight()),
    "not made yet": lambda: torch.nn.UninitializedParameter(),
    "meta": lambda: torch.empty(3, device="meta"),
    "bool": lambda: torch.tensor([True, False]),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "bits": lambda: torch.ones(3, dtype=torch.uint8).view(torch.bits8),
    "empty": lambda: torch.empty(0, 3),
    "storage": lambda: torch.FloatStorage([1, 2]),
    "untyped storage": lambda: torch.UntypedStorage([1, 2]),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, project: Folder) -> str:
    """Save a checkpoint with one of them."""
    try:
        torch.save({"state_dict": {"w": torch.ones(3)}, "v": KINDS[request.param]()}, project.path / "x.pt")
    except (AttributeError, RuntimeError) as error:  # another torch, without this kind or the means to make it
        pytest.skip(str(error))
    return str(request.param)


def test_it_stays_when_another_is_renamed(project: Folder, kind: str) -> None:
    declare(project, "a1", 'op.Rename("w", "x")')
    project.ok("upgrade", "head", "x.pt", "--check-rollback", "--output", "y.pt")


def test_it_stays_when_a_function_changes_another(project: Folder, kind: str) -> None:
    project.script("a1", None, 'ckpt["state_dict"]["w"].mul_(2)', 'ckpt["state_dict"]["w"].div_(2)')
    project.ok("upgrade", "head", "x.pt", "--check-rollback", "--output", "y.pt")


REMADE = """
import torch

def remade(quantised, change, scale):
    numbers = (quantised.int_repr() + change).to(torch.int8)
    return torch._make_per_tensor_quantized_tensor(numbers, scale, 0)
"""


@pytest.mark.parametrize(
    ("back", "says"),
    [
        ('ckpt["v"] = remade(ckpt["v"], 1, 0.1)', "v: its values differ"),
        ('ckpt["v"] = remade(ckpt["v"], 0, 0.2)', "v.1: it was 0.1, and is 0.2"),
        ('ckpt["v"] = ckpt["v"].dequantize()', "v: it was a qtensor, and is a tensor"),
        ('ckpt["u"] = ckpt["v"].clone()', "v: it shares its memory with another tensor"),
    ],
)
def test_a_quantised_tensor_that_does_not_come_back(project: Folder, back: str, says: str) -> None:
    quantised = torch.quantize_per_tensor(weight(), 0.1, 0, torch.qint8)
    tree = {"u": quantised, "v": quantised} if "clone" in back else {"v": quantised}
    torch.save(tree, project.path / "x.pt")
    project.script("a1", None, "pass", back, top=REMADE)
    ran = project.run("upgrade", "head", "x.pt", "--check-rollback")
    assert ran.code == 3
    assert says in ran.err


def test_a_tensor_with_an_attribute_that_does_not_come_back(project: Folder) -> None:
    torch.save({"v": with_attribute(weight())}, project.path / "x.pt")
    project.script("a1", None, "pass", 'ckpt["v"].scales += 1')
    ran = project.run("upgrade", "head", "x.pt", "--check-rollback")
    assert ran.code == 3
    assert "scales: its values differ" in ran.err
