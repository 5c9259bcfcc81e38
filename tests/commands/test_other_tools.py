"""A tool from another package that lists its own migrations in checkpoints: the example of the page about such tools.

0001_wind --- 0002_rain --- 0003_snow        imported; each renames a key
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.storage import open_checkpoint
from tests.support.chains import make, script, tree
from tests.support.packages import publish
from tests.support.project import Folder, digest

PAGE = Path(__file__).parents[2] / "docs" / "other-tools.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the sources are not here")

PATCHES = {
    "0001_wind": 'RENAME = ("u10", "wind")\n',
    "0002_rain": 'RENAME = ("tp", "rain")\n',
    "0003_snow": 'RENAME = ("sf", "snow")\n',
}


def publish_tool(site: Path, package: str, code: str, attribute: str) -> None:
    publish(site, package, "other_tools", {"patches": code}, f".patches:{attribute}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "site"
    found.mkdir()
    monkeypatch.syspath_prepend(found)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    publish_tool(found, "weathertool", code[0], "WeatherTool")
    return found


def follow(project: Folder, tool: str) -> None:
    (project.path / "ckpt-migrate.toml").write_text(f'versions = "versions"\nother_tool = "{tool}"\n')


@pytest.fixture
def chain(site: Path, project: Folder) -> Folder:
    follow(project, "weathertool")
    folder = project.path / "patches"
    folder.mkdir()
    for name, text in PATCHES.items():
        (folder / f"{name}.py").write_text(text)
    project.ok("import-scripts", folder)
    return project


def patch(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "sha": hashlib.sha256(PATCHES[name].encode()).hexdigest(), **more}


def test_the_list_is_adopted_and_kept_up_to_date(chain: Folder) -> None:
    before = {"wind": 1, "tp": 2, "sf": 3, "patches": [patch("0001_wind", by="Ada")]}
    path = make(chain, before)
    assert "by its list of migrations it is taken to be at" in chain.ok("upgrade", "0002_rain", path).err
    assert tree(path) == {"wind": 1, "rain": 2, "sf": 3, "patches": [patch("0001_wind", by="Ada"), patch("0002_rain")]}
    chain.ok("upgrade", "head", path)
    assert [each["id"] for each in tree(path)["patches"]] == list(PATCHES)
    chain.ok("downgrade", "base", path)
    assert tree(path) == {"u10": 1, "tp": 2, "sf": 3, "patches": []}
    chain.ok("sync", path)
    chain.ok("downgrade", "0001_wind", path)
    assert tree(path) == before


def test_a_checkpoint_without_a_list_gets_one(chain: Folder) -> None:
    before = {"u10": 1, "tp": 2, "sf": 3}
    path = make(chain, before)
    chain.ok("upgrade", "head", path, "--check-rollback")
    assert tree(path)["patches"] == [patch(name) for name in PATCHES]
    chain.ok("downgrade", "base", path)
    assert tree(path) == before


def test_reading_commands_tell_of_it(chain: Folder) -> None:
    path = make(chain, {"wind": 1, "tp": 2, "sf": 3, "patches": [patch("0001_wind")]})
    assert "migrations 1 noted by weathertool: 0001_wind" in chain.ok("inspect", path).out
    assert chain.ok("current", path, "--json").lines[0]["recognised"]


@pytest.mark.parametrize(
    "list_, says",
    [
        ([patch("0002_rain")], "the checkpoint's list `patches` (0002_rain) contradicts the scripts"),
        ([{"sha": ""}], "the list `patches` in the checkpoint is damaged (something in it has no id)"),
        ({}, "the list `patches` in the checkpoint is damaged (it is a dict)"),
        ([patch("0001_wind")] * 2, "the list `patches` in the checkpoint is damaged (0001_wind is in it twice)"),
    ],
)
def test_what_contradicts_the_chain_is_refused(chain: Folder, list_: Any, says: str) -> None:
    path = make(chain, {"wind": 1, "tp": 2, "sf": 3, "patches": list_})
    before = digest(path)
    ran = chain.run("upgrade", "head", path)
    assert (ran.code, says in ran.err, digest(path)) == (1, True, before), ran.err


def test_a_migration_that_no_script_knows_cannot_be_undone(chain: Folder) -> None:
    unknown = {"id": "0004_hail", "sha": "0"}
    path = make(chain, {"wind": 1, "rain": 2, "snow": 3, "patches": [*map(patch, PATCHES), unknown]})
    before = digest(path)
    ran = chain.run("downgrade", "base", path)
    assert (ran.code, digest(path)) == (3, before)
    assert "has no rollback" in ran.err


@pytest.mark.parametrize(
    "more, says",
    [
        ({"other_lists": []}, "other_lists are no dict by tool"),
        ({"other_lists": {"weathertool": 5}}, "migrations_list is not a dict"),
        ({"lists": ["0009_gone"]}, "it says that 0009_gone was in the list `patches`, and the checkpoint lacks that"),
    ],
)
def test_a_record_that_claims_too_much_is_refused(chain: Folder, more: dict[str, Any], says: str) -> None:
    path = make(chain, {"wind": 1, "tp": 2, "sf": 3, "patches": [patch("0001_wind")]})
    chain.ok("upgrade", "0002_rain", path)
    with open_checkpoint(path) as file:
        content = file.load()
    record = content["ckpt_migrate"]
    assert list(record["other_lists"]) == ["weathertool"]
    record["other_lists"]["weathertool"]["found"] += more.pop("lists", [])
    path = make(chain, content | {"ckpt_migrate": record | more})
    before = digest(path)
    ran = chain.run("upgrade", "head", path)
    assert (ran.code, says in ran.err, digest(path)) == (1, True, before), ran.err


def test_two_tools_in_one_checkpoint(chain: Folder, site: Path) -> None:
    """The project follows one, a chain from a package the built-in one: each list has the migrations of its tool."""
    known = script("cccc00000001", None, "p", "q") + 'known_as = {"1700000001_q": {"all": "5"}}\n'
    publish(site, "quiet", "chains", {"cccc00000001_q": known}, "")
    before = {"u10": 1, "tp": 2, "sf": 3, "p": 4, "patches": [], "migrations": []}
    path = make(chain, before)
    chain.ok("upgrade", "0001_wind", path)
    chain.ok("--chain", "quiet", "upgrade", "head", path)
    chain.ok("upgrade", "0002_rain", path)
    found = tree(path)
    assert found["patches"] == [patch("0001_wind"), patch("0002_rain")]
    assert [each["name"] for each in found["migrations"]] == ["1700000001_q"]
    chain.ok("downgrade", "base", path)
    assert [each["name"] for each in tree(path)["migrations"]] == ["1700000001_q"]
    chain.ok("--chain", "quiet", "downgrade", "base", path)
    assert tree(path) == before


def test_exceptions_of_a_tool_name_it(site: Path, project: Folder) -> None:
    code = """from anemoi_ckpt_migrate.other_tools import OtherTool

class Hasty(OtherTool):
    name = "hasty"
    key = "patches"

    def entry(self, found):
        return found["id"]

    def entries(self, wanted, found, classes):
        return []
"""
    publish_tool(site, "hasty", code, "Hasty")
    follow(project, "hasty")
    project.script("a", None, top='known_as = {"0001_a": {"all": "5"}}')
    for content, says in (
        ({"patches": [{}]}, "failed with KeyError ('id')"),
        ({"x": 1}, "wrote the list [], not ['0001_a']"),
    ):
        path = make(project, content)
        before = digest(path)
        ran = project.run("upgrade", "head", path)
        assert (ran.code, digest(path)) == (1, before), ran.err
        assert f"the code for the migrations of hasty {says}: report this to the maintainers of" in ran.err
    ran = project.run("import-scripts", site / "hasty")
    assert ran.code == 2
    assert "scripts of hasty cannot be imported" in ran.err


def test_a_tool_that_cannot_be_had(site: Path, project: Folder) -> None:
    publish_tool(site, "broken", "import nothing_of_that_name", "Broken")
    publish_tool(site, "wrong", "class Wrong: pass", "Wrong")
    project.script("a", None, top='known_as = {"0001_a": {"all": "5"}}')
    path = make(project, {"x": 1})
    before = digest(path)
    for tool, says in {
        "absent": "other_tool is 'absent', which no installed package has; the tools are broken, weathertool, wrong",
        "broken": "the tool broken (broken.patches:Broken) cannot be made: ModuleNotFoundError",
        "wrong": "the tool wrong (wrong.patches:Wrong) is not an OtherTool",
    }.items():
        follow(project, tool)
        ran = project.run("upgrade", "head", path)
        assert (ran.code, says in ran.err, digest(path)) == (1, True, before), ran.err
