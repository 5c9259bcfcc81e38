"""Post-write hooks, with real programs."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.support.project import Folder

STAMP = "import sys\nopen(sys.argv[-1], 'a').write(f'# {sys.argv[1:-1]}\\n')\nprint('stamped')\n"


def configured(project: Folder, *tables: str) -> None:
    rows = "\n".join(f"[[hooks]]\n{table}" for table in tables)
    (project.path / "ckpt-migrate.toml").write_text(rows)


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def installed(project: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A package with a module that can be run, and a console script, as an installer leaves them."""
    site = project.path / "site"
    (site / "stamper-1.dist-info").mkdir(parents=True)
    (site / "stamper.py").write_text(
        f"def main():\n{''.join(f'    {line}{chr(10)}' for line in STAMP.splitlines())}    return 0\n\nif __name__ == '__main__':\n    main()\n"
    )
    (site / "stamper-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: stamper\nVersion: 1\n")
    (site / "stamper-1.dist-info" / "entry_points.txt").write_text("[console_scripts]\nstamp-it = stamper:main\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    return project


def test_all_kinds_in_their_order(installed: Folder) -> None:
    executable(installed.path / "own.py", STAMP)
    configured(
        installed,
        'type = "console_script"\nentrypoint = "stamp-it"\noptions = "--one \'two words\' REVISION_SCRIPT_FILENAME"',
        'type = "module"\nmodule = "stamper"\noptions = ["three", "REVISION_SCRIPT_FILENAME"]\ncwd = "."',
        'type = "executable"\nexecutable = "./own.py"',
    )
    ran = installed.ok("revision", "first", "--json")
    text = Path(ran.lines[0]["path"]).read_text()
    assert text.endswith("# ['--one', 'two words']\n# ['three']\n# []\n")
    assert ran.err == "stamped\n" * 3  # so that --json stays JSON


def test_they_run_on_merges_and_squashed_scripts_too(installed: Folder) -> None:
    configured(installed, 'type = "module"\nmodule = "stamper"')
    for rev in ("a", "b"):
        installed.script(rev)
    assert "# []\n" in Path(installed.ok("merge", "join", "--rev-id", "m", "--json").lines[0]["path"]).read_text()
    installed.script("c", "m")
    made = installed.ok("squash", "m:c", "squashed", "--json").lines[0]["path"]
    assert Path(made).read_text().endswith("# []\n")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('type = "module"\nmodule = "nobody.has.this"', "the hook nobody.has.this (module) is not installed here"),
        ('type = "console_script"\nentrypoint = "nobody-has-this"', "(console script) is not installed here"),
        ('type = "executable"\nexecutable = "nobody-has-this"', "(executable) is not a program on this machine"),
        ('type = "executable"\nexecutable = "./fails.py"', "ended with exit code 3: and this is why"),
        (
            'type = "executable"\nexecutable = "./fails.py"\ncwd = "nowhere"',
            "could not be started (No such file or directory)",
        ),
        ('type = "module"\nmodule = "json.tool"\ncwd = "nowhere"', "could not be started (No such file or directory)"),
    ],
)
def test_one_that_fails_leaves_the_script(project: Folder, table: str, says: str) -> None:
    executable(
        project.path / "fails.py", "import sys\nsys.stderr.write('something\\nand this is why\\n')\nsys.exit(3)\n"
    )
    configured(project, table)
    refused = project.run("revision", "first", "--rev-id", "a")
    assert refused.code == 1
    assert says in refused.err
    assert "the script was written anyway: " in refused.err
    assert [path.name for path in (project.path / "versions").iterdir()] == ["a_first.py"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hooks = 'ruff'", "hooks must be a list of tables, not 'ruff'"),
        ("hooks = ['ruff']", "hook 1 must be a table, not 'ruff'"),
        ("hooks = [{}]", "hook 1 must have a type: console_script, module, executable"),
        ("hooks = [{ type = 'exec' }]", "hook 1 must have a type"),
        ("hooks = [{ type = ['exec'] }]", "hook 1 must have a type"),
        ("hooks = [{ type = 'module' }]", "hook 1 must name the program to run as `module`"),
        ("hooks = [{ type = 'module', module = '' }]", "hook 1 must name the program to run as `module`"),
        (
            "hooks = [{ type = 'module', entrypoint = 'x' }]",
            "hook 1 has an unknown key 'entrypoint'; a module has type, module",
        ),
        ("hooks = [{ type = 'module', module = 'x', options = 3 }]", "hook 1 must have a string or a list of strings"),
        ("hooks = [{ type = 'module', module = 'x', options = \"'\" }]", "hook 1 has options that cannot be split"),
        ("hooks = [{ type = 'module', module = 'x', cwd = 3 }]", "hook 1 must name a folder with cwd, not 3"),
    ],
)
def test_faulty_configurations(project: Folder, text: str, says: str) -> None:
    (project.path / "ckpt-migrate.toml").write_text(text)
    refused = project.run("heads")
    assert (refused.code, f"ckpt-migrate.toml: {says}" in refused.err) == (1, True), refused.err


def test_where_things_are_found(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs from the configuration's folder, modules from where the hook runs, whatever the current folder."""
    for folder in ("bin", "tools", "elsewhere"):
        (project.path / folder).mkdir()
    executable(project.path / "bin" / "own", STAMP)
    (project.path / "tools" / "own_module.py").write_text(STAMP)
    configured(
        project,
        'type = "executable"\nexecutable = "bin/own"\ncwd = "tools"',
        'type = "module"\nmodule = "own_module"\ncwd = "tools"',
    )
    monkeypatch.chdir(project.path / "elsewhere")
    made = project.ok("revision", "first", "--json").lines[0]["path"]
    assert Path(made).read_text().endswith("# []\n# []\n")


def test_a_console_script_does_not_find_the_current_folder(installed: Folder) -> None:
    """As when it is started by its name: a module of the project may be called as one of Python's own."""
    (installed.path / "typing.py").write_text("raise SystemExit('this is not it')\n")
    configured(installed, 'type = "console_script"\nentrypoint = "stamp-it"')
    installed.ok("revision", "first")


def test_a_package_that_cannot_be_imported(installed: Folder) -> None:
    (installed.path / "site" / "broken").mkdir()
    (installed.path / "site" / "broken" / "__init__.py").write_text("raise SystemExit('\\x1b[31mbroken')\n")
    configured(installed, 'type = "module"\nmodule = "broken.part"')
    refused = installed.run("revision", "first")
    assert refused.code == 1
    assert "(module) ended with exit code 1: \\x1b[31mbroken; the script was written" in refused.err


@pytest.mark.parametrize("row", ['options = ["\\u0000"]', 'cwd = "\\u0000"', 'cwd = " "', 'options = "\\u0000"'])
def test_what_no_system_takes(project: Folder, row: str) -> None:
    configured(project, f'type = "module"\nmodule = "json.tool"\n{row}')
    refused = project.run("heads")
    assert (refused.code, "ckpt-migrate.toml: hook 1 must" in refused.err) == (1, True), refused.err
