"""Each recipe of the manual, on a checkpoint of a model that was trained.

OLD, trained --> checkpoint --> upgrade --> loaded strictly into NEW --> the same output; trains on
                     ^------------------ downgrade, bit for bit <-----------|
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.project import Folder  # noqa: E402
from tests.support.recipes import RECIPES, WIDTH, Config, Recipe  # noqa: E402
from tests.support.same_trees import same  # noqa: E402

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the sources are not here")

SCRIPT = '''"""{title}"""

from anemoi_ckpt_migrate import op

revision = "a1"
down_revision = None
{body}'''


def recipes() -> dict[str, str]:
    """Return the scripts of the page, by title."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]
    return {
        section.partition("\n")[0]: "".join(re.findall(r"```python\n(.*?)```", section, re.S)) for section in sections
    }


def trained(model: Any, x: Any, steps: int = 2) -> Any:
    """Train a model, and return its optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).float().square().mean().backward()
        optimizer.step()
    return optimizer


def saved(recipe: Recipe, model: Any, x: Any) -> Path:
    optimizer = trained(model, x)
    states = model.state_dict()
    states = type(states)((recipe.wrap + name, value) for name, value in states.items())
    found = {
        "state_dict": states,
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": recipe.hyper_parameters,
    }
    torch.save(found, "old.ckpt")
    return Path("old.ckpt")


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class of the recipe about classes, at its old and its new place."""
    for name in ("config", "settings", "settings.base"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(Config, "__module__", "config")
    monkeypatch.setattr(sys.modules["config"], "Config", Config, raising=False)
    monkeypatch.setattr(sys.modules["settings.base"], "Config", type("Config", (), {}), raising=False)


def test_each_recipe_has_a_model() -> None:
    assert list(recipes()) == list(RECIPES)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe(project: Folder, title: str) -> None:
    recipe = RECIPES[title]
    torch.manual_seed(0)
    x = torch.randn(5, WIDTH) if recipe.x is None else recipe.x
    old, new = recipe.old(), recipe.new()
    (project.path / "versions" / "a1_recipe.py").write_text(SCRIPT.format(title=title, body=recipes()[title]))
    checkpoint = saved(recipe, old, x)
    before = torch.load(checkpoint, weights_only=False)
    assert project.run("check").code == 0
    project.ok("upgrade", "head", checkpoint, "--check-rollback" if "keep" in recipes()[title] else "--verify")
    after = torch.load(checkpoint, weights_only=False)
    new.load_state_dict(after["state_dict"])
    if recipe.same:
        torch.testing.assert_close(new(x), old(x))
    optimizer = recipe.optimizer(new)
    optimizer.load_state_dict(after["optimizer_states"][0])
    assert {key for group in optimizer.param_groups for key in group} == set(optimizer.defaults) | {"params"}
    optimizer.zero_grad()
    new(x.to(next(new.parameters()).dtype) if x.is_floating_point() else x).float().square().mean().backward()
    optimizer.step()
    if title != "Weights in half precision":
        project.ok("downgrade", "base", checkpoint)
        back = torch.load(checkpoint, weights_only=False)
        assert all(same(before[part], back[part]) for part in before)
