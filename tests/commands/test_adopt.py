"""adopt: a history that was never written down is derived from an example of each state, and all files are stamped."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.batch.select import Selection  # noqa: E402
from anemoi_ckpt_migrate.commands import adopt_steps, manifest, revision  # noqa: E402
from anemoi_ckpt_migrate.errors import UsageError  # noqa: E402
from tests.support.forks import Forks  # noqa: E402
from tests.support.models import Models  # noqa: E402
from tests.support.old_runs import MODELS, STRANGERS, YEARS, first, save, save_all, save_strangers, step, third  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

IDS = ("--rev-id", "a1", "--rev-id", "b2")
EXAMPLES = tuple(f"runs/{year}/run0/last.ckpt" for year in YEARS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "runs"
    save_all(folder)
    save_strangers(folder)
    return folder


@pytest.fixture
def old(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """A folder with two checkpoints of each state and three strangers, and no project."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "runs", ignore=shutil.ignore_patterns("run[2-9]"))
    return Models(tmp_path, capsys)


@pytest.fixture
def thirty(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """The same with ten checkpoints of each state."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "runs")
    return Models(tmp_path, capsys)


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def heads(folder: Folder, year: str) -> list[list[str]]:
    """Return the revisions in the records of the checkpoints of a year, each kind once."""
    found = [cm.current(path).heads for path in sorted((folder.path / "runs" / year).glob("run*/last.ckpt"))]
    return [list(one) for one in dict.fromkeys(tuple(head.revision for head in each) for each in found)]


def review(folder: Folder) -> None:
    """Do what the doubts ask for: remove the comments of guesses."""
    for script in folder.path.glob("versions/*.py"):
        lines = script.read_text().splitlines(keepends=True)
        script.write_text("".join(line for line in lines if not line.startswith("    #")))


def test_the_whole_journey(thirty: Models) -> None:
    """Scripts first; then, once somebody has read them, stamps; then everything goes to head, and trains on."""
    before = digests(thirty.path / "runs")
    command = ["adopt", *EXAMPLES, "--init", *IDS, "--stamp", "runs", "-r", "--no-backup"]
    ran = thirty.run(*command)
    assert ran.code == 4
    assert "  created versions/b2_2024_to_2025.py: 3 operations, 2 to check; it leads to the next example" in ran.out
    assert "2 operations to check, which are guesses or add zeros: correct the wrong ones, and remove the" in ran.err
    assert digests(thirty.path / "runs") == before
    assert thirty.run(*command).code == 4  # to run it again is no review
    review(thirty)
    ran = thirty.run(*command)
    assert ran.code == 3  # one file fits no state
    assert ran.out.splitlines()[-9:] == [
        "base: 10 checkpoints",
        "a1: 10 checkpoints",
        "b2: 10 checkpoints",
        "unrelated: 2",
        "  runs/2024/rng_state.pth",
        "  runs/notes.bin",
        "fit no single state: 1",
        "  runs/2025/wide.ckpt",
        "30 checkpoints at a known state, 3 left alone",
    ]
    assert "the closest is model at b2" in ran.err
    assert "head.weight is [5, 8], not [2, 8]" in ran.err
    assert [heads(thirty, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]
    after = digests(thirty.path / "runs")
    assert {name for name in after if after[name] == before[name]} >= {*STRANGERS}
    upgraded = thirty.ok("upgrade", "head", "-r", "runs", "--no-backup")
    assert upgraded.out.splitlines()[-1].startswith("20 upgraded, 10 already there, 3 unrelated")
    for year in YEARS:
        for path in (thirty.path / "runs" / year).glob("run*/last.ckpt"):
            checkpoint = torch.load(path, weights_only=True)
            model = third()
            model.load_state_dict(checkpoint["state_dict"], strict=True)
            optimizer = torch.optim.AdamW(model.parameters())
            optimizer.load_state_dict(checkpoint["optimizer"])
            step(model, optimizer)
    assert {name: digest(thirty.path / "runs" / name) for name in STRANGERS} == {
        name: before[name] for name in STRANGERS
    }
    assert thirty.ok("check").out == "2 revisions: no problems\n"


def test_the_weights_are_those_of_before_and_come_back(old: Models) -> None:
    oldest = old.path / EXAMPLES[0]
    before = torch.load(oldest, weights_only=True)
    old.ok("adopt", *EXAMPLES, "--init", *IDS, "--accept-guesses", "--stamp", "runs/2023", "-r")
    old.ok("upgrade", "head", oldest)
    after = torch.load(oldest, weights_only=True)
    q, k, v = after["state_dict"]["qkv.weight"].chunk(3)
    for name, part in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(part, before["state_dict"][f"{name}.weight"])
    assert torch.equal(after["state_dict"]["embedding.weight"], before["state_dict"]["encoder.weight"])
    old.ok("downgrade", "base", oldest)
    again = torch.load(oldest, weights_only=True)
    assert all(torch.equal(again["state_dict"][name], value) for name, value in before["state_dict"].items())
    assert list(again["state_dict"]) == list(before["state_dict"])


def test_what_training_saves_beside_the_weights(tmp_path: Path, old: Models) -> None:
    """Optimizer and averages follow, and are in the way of nothing."""
    save_all(tmp_path / "averaged", each=2, averaged=True)
    examples = [f"averaged/{year}/run0/last.ckpt" for year in YEARS]
    ran = old.ok("adopt", *examples, "--init", *IDS, "--accept-guesses", "--stamp", "averaged", "-r")
    assert ran.out.splitlines()[-1] == "6 checkpoints at a known state, 0 left alone"
    old.ok("upgrade", "head", "-r", "averaged")
    for path in (tmp_path / "averaged").glob("**/last.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        for states in (checkpoint["state_dict"], checkpoint["ema"]):
            third().load_state_dict(states, strict=True)
        model = third()
        model.load_state_dict(checkpoint["state_dict"])
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.load_state_dict(checkpoint["optimizer"])
        step(model, optimizer)


def test_every_question_has_an_option(old: Models) -> None:
    options = ["--name", "a better name", "--name", "one projection", "--model", "net", "--accept-guesses"]
    (found,) = old.ok("adopt", *EXAMPLES, "--init", *IDS, *options, "--json").lines
    assert found["model"] == "net"
    assert [state["revisions"] for state in found["states"]] == [[], ["a1"], ["b2"]]
    assert [state["parameters"] for state in found["states"]] == [7, 7, 7]
    assert [(each["name"], each["done"], each["revisions"], each["unchecked"]) for each in found["steps"]] == [
        ("a better name", "created", ["a1"], 0),
        ("one projection", "created", ["b2"], 2),
    ]
    assert found["steps"][0]["operations"] == ['op.RenamePrefix("encoder.", "embedding.")']
    assert (found["written"], found["doubts"]) == (True, [])
    assert list(cm.manifest(["net"], at="a1")[0].snapshot.revisions) == ["a1"]
    again = old.ok("adopt", *EXAMPLES, "--accept-guesses", "--json", "--stamp", "runs/2024/run1/last.ckpt").lines
    assert [each["done"] for each in again[0]["steps"]] == ["kept", "kept"]
    assert (again[1]["checkpoint"], again[1]["to"]) == ("runs/2024/run1/last.ckpt", ["a1"])


def test_from_python(old: Models) -> None:
    cm.init()
    examples = [Path(path) for path in EXAMPLES]
    first_call = cm.adopt(examples, "runs/2024/run1/last.ckpt", rev_ids=["a1", "b2"])
    assert isinstance(first_call, cm.Adoption)
    assert (len(first_call.history.doubts), first_call.stamped) == (1, ())
    (one,) = cm.adopt(examples, "runs/2024/run1/last.ckpt", accept_guesses=True, dry_run=True).stamped
    assert (one.checkpoint, one.result.end, one.result.dry_run) == ("runs/2024/run1/last.ckpt", ("a1",), True)
    adopted = cm.adopt(examples, Selection(("runs",), recursive=True), accept_guesses=True, backup=False)
    assert [state.revisions for state in adopted.history.states] == [(), ("a1",), ("b2",)]
    ends = [result.result.end for result in adopted.stamped if result.result is not None]
    assert {end: ends.count(end) for end in ends} == {(): 2, ("a1",): 2, ("b2",): 2}
    assert len(adopted.stamped) == 9


def test_the_rest_may_be_stamped_later(old: Models) -> None:
    """The command that it names; and again, when nothing is left to do."""
    ran = old.ok("adopt", *EXAMPLES, "--init", *IDS, "--accept-guesses")
    assert ran.out.splitlines()[-1] == "next: `ckpt-migrate stamp auto -r FOLDER`, or --stamp FOLDER -r"
    for _ in range(2):
        old.ok("stamp", "auto", "-r", "runs", "--exclude", "wide.ckpt")
        assert [heads(old, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]
    before = digests(old.path)
    named = [word for path in EXAMPLES for word in ("--stamp", path)]
    assert old.ok("adopt", *EXAMPLES, "--accept-guesses", *named).out.splitlines()[-1].startswith("3 checkpoints")
    assert digests(old.path) == before


def test_a_dry_run_writes_nothing(old: Models) -> None:
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES, "--init", "--dry-run", "--stamp", "runs", "-r")
    assert ran.code == 4
    assert '    op.RenamePrefix("encoder.", "embedding.")' in ran.out.splitlines()
    assert digests(old.path) == before
    ran = old.ok("adopt", *EXAMPLES, "--init", "--dry-run", "--accept-guesses", "--stamp", "runs", "-r")
    assert "compared with the states once these are written" in ran.err
    assert digests(old.path) == before
    old.ok("adopt", *EXAMPLES, "--init", "--accept-guesses")
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES, "--accept-guesses", "--dry-run", "--stamp", "runs", "-r")
    assert ran.out.splitlines()[-1] == "6 checkpoints at a known state, 3 left alone (dry run, nothing written)"
    assert digests(old.path) == before


def test_a_report_and_processes(old: Models) -> None:
    words = ["--accept-guesses", "--stamp", "runs", "-r", "--exclude", "wide.ckpt", "--no-backup"]
    old.ok("adopt", *EXAMPLES, "--init", *IDS, *words, "-j", "2", "--report", "adopted.jsonl", "-q")
    assert [heads(old, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]
    assert old.ok("report", "adopted.jsonl", "--json").lines[0]["summary"]["moved"] == 4


class Terminal(io.StringIO):
    """A standard input with somebody before it."""

    def isatty(self) -> bool:
        return True


def answer(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))


def test_at_a_terminal_it_asks(old: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "yes", "encoder is embedding", "", "y", "runs/2024")
    ran = old.run("adopt", *EXAMPLES)
    assert ran.code == 0, ran.err
    questions = [
        "There is no project here. Make the current folder one? [Y/n] ",
        "The change from runs/2023/run0/last.ckpt to runs/2024/run0/last.ckpt [",
        "The change from runs/2024/run0/last.ckpt to runs/2025/run0/last.ckpt [",
        'op.Fuse(["q.weight", "k.weight", "v.weight"], "qkv.weight")',
        "Are all of these operations right? [y/N] ",
        "A folder with checkpoints to stamp, with all below it (Enter for none): ",
    ]
    places = [ran.err.index(question) for question in questions]
    assert places == sorted(places)
    assert "values may be lost" not in ran.err  # a question that does not arise
    assert [script.name for script in old.path.glob("versions/*_encoder_is_embedding.py")]
    assert len(heads(old, "2024")[0]) == 1


def test_a_terminal_that_says_no_or_closes(old: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "n")
    assert old.run("adopt", *EXAMPLES).code == 2
    assert not (old.path / "versions").exists()
    before = digests(old.path / "runs")
    answer(monkeypatch, "", "", "", "")
    assert old.run("adopt", *EXAMPLES, "--stamp", "runs", "-r").code == 4
    answer(monkeypatch)
    assert old.run("adopt", *EXAMPLES).code == 130
    assert digests(old.path / "runs") == before


class Stop(KeyboardInterrupt):
    """Ctrl-C at a place of the test's choice."""


def after(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that does the same, and is interrupted after so many calls."""
    calls = iter(range(1, 100))

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        if next(calls) == count:
            raise Stop
        return found

    return interrupted


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("the project is made", 1),
        ("a revision is written", 1),
        ("a revision is written", 2),
        ("a manifest is written", 1),
        ("a manifest is written", 2),
        ("a manifest is written", 3),
    ],
)
def test_the_same_command_goes_on_after_ctrl_c(
    old: Models, place: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anemoi_ckpt_migrate.cli import adopt as command_line

    home, name, function = {
        "the project is made": (command_line, "init", command_line.init),
        "a revision is written": (adopt_steps, "revision", revision.revision),
        "a manifest is written": (adopt_steps, "update_manifest", manifest.update_manifest),
    }[place]
    command = [
        "adopt",
        *EXAMPLES,
        "--init",
        *IDS,
        "--accept-guesses",
        "--stamp",
        "runs",
        "-r",
        "--exclude",
        "wide.ckpt",
    ]
    with monkeypatch.context() as patched:
        patched.setattr(home, name, after(function, count))
        assert old.run(*command).code == 130
    old.ok(*command)
    assert [heads(old, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]
    assert len(list(old.path.glob("versions/*.py"))) == 2


def test_the_same_command_goes_on_after_a_kill_anywhere(tmp_path: Path, forks: Forks) -> None:
    """Each thing that becomes visible does so by a rename: the process is killed before the first, the second, ..."""
    save_all(tmp_path / "saved", each=1)
    examples = [f"runs/{year}/run0/last.ckpt" for year in YEARS]
    command = ["adopt", *examples, "--init", *IDS, "--accept-guesses", "--stamp", "runs", "-r", "--no-backup"]
    shutil.copytree(tmp_path / "saved", tmp_path / "rehearsal" / "runs")
    forks.rehearse(tmp_path / "rehearsal", *command)
    killed = 0
    for number in range(1, 40):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copytree(tmp_path / "saved", folder / "runs")
        calls = "rename,renameat,renameat2"
        try:
            ran = forks.traced(calls, ("-e", f"inject={calls}:signal=KILL:when={number}"), folder, *command)
        except FileNotFoundError:
            pytest.skip("there is no strace here")
        if "ptrace" in ran.strace:
            pytest.skip("strace may not trace here")
        if ran.code == 0:
            break
        killed += 1
        done = forks.run(folder, *command)
        assert done.code == 0, (number, done.err)
        assert (
            "3 checkpoints at a known state, 0 left alone"
            in done.out.replace("recorded before", "").replace(", 1 ,", ",")
            or "recorded before" in done.out
        )
        for year, wanted in zip(YEARS, ([], ["a1"], ["b2"]), strict=True):
            for path in (folder / "runs" / year).glob("*/last.ckpt"):
                assert [head.revision for head in cm.current(path, project=folder).heads] == wanted, (number, path)
                MODELS[year]().load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        assert not list((folder / "runs").rglob(".*"))
    assert killed >= 7  # two scripts, three manifests, two stamps


def test_one_example_is_nothing_to_derive_from(old: Models) -> None:
    ran = old.run("adopt", EXAMPLES[0], "--init")
    assert ran.code == 2
    assert "adopt needs at least two examples: give one checkpoint of each state, the oldest first" in ran.err
    old.ok("init")
    old.ok("manifest", "net", "--update", "--from", EXAMPLES[0], "--at", "base")  # the way out that it names


def test_two_examples_of_one_state(old: Models) -> None:
    same = "runs/2024/run1/last.ckpt"
    before = digests(old.path / "runs")
    ran = old.run("adopt", EXAMPLES[0], EXAMPLES[1], same, EXAMPLES[2], "--init")
    assert ran.code == 2
    assert f"{EXAMPLES[1]} and {same} are in the same state" in ran.err
    assert digests(old.path / "runs") == before
    assert not (old.path / "versions").exists()


@pytest.mark.parametrize(
    ("bad", "code", "says"),
    [
        ("text.ckpt", 1, "text.ckpt: it is not a checkpoint"),
        ("none.ckpt", 1, "none.ckpt"),
        ("runs/2024", 2, "runs/2024: it is a directory, not a checkpoint"),
        ("runs/2024/rng_state.pth", 3, "rng_state.pth: the parameters of the model cannot be found in it"),
        ("net:build", 2, "net:build is a model, and the examples must be checkpoints"),
    ],
)
def test_an_example_that_is_none(old: Models, bad: str, code: int, says: str) -> None:
    (old.path / "text.ckpt").write_text("text")
    before = digests(old.path)
    ran = old.run("adopt", EXAMPLES[0], bad, EXAMPLES[2], "--init")
    assert (ran.code, says in ran.err) == (code, True), ran.err
    assert digests(old.path) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "there is no project here or above: --init makes the current folder one"),
        (["--init", "--name", "a", "--name", "b", "--name", "c"], "--name is given 3 times"),
        (["--init", "-r"], "--recursive is about the checkpoints to stamp: name them with --stamp"),
        (["--init", "--exclude", "x"], "--exclude is about the checkpoints to stamp"),
        (["--init", "--rev-id", "head"], "'head' cannot be a revision id"),
        (["--init", "--name", ""], "the name of a revision must be one line of text"),
    ],
)
def test_wrong_usage(old: Models, words: list[str], says: str) -> None:
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES, *words)
    assert (ran.code, says in ran.err) == (2, True), ran.err
    assert digests(old.path) == before


def test_several_models(old: Models) -> None:
    old.ok("init")
    old.configure(net="net:build", other="net:build")
    ran = old.run("adopt", *EXAMPLES)
    assert (ran.code, "several models (net, other): name that of the examples with --model" in ran.err) == (2, True)
    ran = old.run("adopt", *EXAMPLES, "--model", "nets")
    assert (ran.code, "the project has no model 'nets', only net, other" in ran.err) == (2, True)


def coded(old: Models, build: str) -> None:
    """Let the code of the project build one of the models."""
    old.ok("init")
    old.configure(net="net:build")
    sys.modules.pop("net", None)
    (old.path / "net.py").write_text(f"from tests.support.old_runs import {build} as build\n")


def test_the_last_example_is_compared_with_the_code(old: Models) -> None:
    """Nothing tells the order of examples, but the code has the newest state."""
    coded(old, "third")
    turned = old.ok("adopt", *EXAMPLES[1::-1], "--accept-guesses")
    assert f"{EXAMPLES[0]}, the last example, differs from the model net of the code: if the order of the" in turned.err
    shutil.rmtree(old.path / "versions")
    old.ok("init")
    assert "differs from the model" not in old.ok("adopt", *EXAMPLES, *IDS, "--accept-guesses").err
    assert old.ok("check").out == "2 revisions, 1 model: no problems\n"


def test_the_last_step_may_lead_to_the_code(old: Models) -> None:
    """The way out that the hint names."""
    coded(old, "third")
    ran = old.ok("adopt", *EXAMPLES[:2], "--rev-id", "a1")
    assert "`ckpt-migrate revision NAME --autogenerate --model net` writes the last step" in ran.err
    old.ok("revision", "the last step", "--autogenerate", "--model", "net", "--rev-id", "b2")
    old.ok("stamp", "auto", "-r", "runs", "--exclude", "wide.ckpt")
    assert [heads(old, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]


def test_code_that_cannot_be_built_is_a_warning(old: Models) -> None:
    coded(old, "nothing")
    ran = old.ok("adopt", *EXAMPLES, "--accept-guesses")
    assert "the last example was not compared with the model net of the code" in ran.err


def test_a_manifest_of_the_code_was_there_before(old: Models) -> None:
    """Who ran `manifest --update` first has the newest state at base, where the oldest belongs."""
    coded(old, "third")
    old.ok("manifest", "--update")
    old.ok("adopt", *EXAMPLES, *IDS, "--accept-guesses", "--stamp", "runs", "-r", "--exclude", "wide.ckpt")
    assert [heads(old, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]


def test_a_manifest_of_something_else_stays(old: Models) -> None:
    wide = "runs/2025/wide.ckpt"
    old.ok("init")
    old.ok("manifest", "net", "--update", "--from", wide, "--at", "base")
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES)
    assert ran.code == 3
    assert "the manifest has another state of net at base" in ran.err
    assert digests(old.path) == before
    (way,) = [part for part in ran.err.split("`") if part.startswith("ckpt-migrate manifest")]
    old.ok(*way.split()[1:])
    old.ok("adopt", *EXAMPLES, "--accept-guesses")


def test_a_project_with_revisions_goes_on_from_its_head(old: Models) -> None:
    old.ok("adopt", *EXAMPLES[:2], "--init", "--rev-id", "a1")
    ran = old.ok("adopt", *EXAMPLES[1:], "--rev-id", "b2", "--accept-guesses", "--json")
    assert [state["revisions"] for state in ran.lines[0]["states"]] == [["a1"], ["b2"]]
    ran = old.ok("adopt", *EXAMPLES, "--accept-guesses", "--json")
    assert [each["done"] for each in ran.lines[0]["steps"]] == ["kept", "kept"]


def test_a_project_with_revisions_of_something_else(old: Models) -> None:
    """The first example fits no revision: no script is added."""
    old.ok("adopt", *EXAMPLES[:2], "--init", "--rev-id", "a1")
    before = digests(old.path)
    wide = "runs/2025/wide.ckpt"
    ran = old.run("adopt", wide, EXAMPLES[2])
    assert ran.code == 3
    assert "the first example has to be at a revision of this project; name that with --at" in ran.err
    assert digests(old.path) == before
    ran = old.run("adopt", EXAMPLES[0], EXAMPLES[2])  # at base, where a1 follows, which leads elsewhere
    assert ran.code == 3
    assert "a1_" in ran.err
    assert "follows base, but does not turn" in ran.err
    assert digests(old.path) == before


def test_revisions_without_a_manifest(old: Models) -> None:
    """Without a record and a manifest, an example is at base; `--at` says otherwise."""
    old.ok("init")
    old.script("s1")
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES)
    assert ran.code == 3
    assert f"if {EXAMPLES[0]} is not at base, name its revision with --at" in ran.err
    assert digests(old.path) == before
    old.ok("adopt", *EXAMPLES, "--at", "s1", *IDS, "--accept-guesses")
    assert [one["revision"] for one in old.ok("history", "--json").lines[0]] == ["b2", "a1", "s1"]


def test_a_barrier(old: Models) -> None:
    """No step leads across it; new ones may begin above it."""
    old.ok("init")
    old.script("F", final=True, version="2.0")
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES)
    assert (ran.code, f"F follows base, and is a barrier; if {EXAMPLES[0]} is above it, give --at F" in ran.err) == (
        3,
        True,
    )
    assert digests(old.path) == before
    old.ok("adopt", *EXAMPLES, "--at", "F", *IDS, "--accept-guesses")
    assert [one["revision"] for one in old.ok("history", "--json").lines[0]] == ["b2", "a1", "F"]


def test_several_folders_of_scripts(old: Models) -> None:
    (old.path / "ckpt-migrate.toml").write_text('versions = ["ours", "theirs"]\n')
    for name in ("ours", "theirs"):
        (old.path / name).mkdir()
    ran = old.run("adopt", *EXAMPLES)
    assert (ran.code, "choose one with --version-path" in ran.err) == (2, True)
    old.ok("adopt", *EXAMPLES, *IDS, "--accept-guesses", "--version-path", "theirs")
    assert [path.name for path in sorted(old.path.glob("theirs/*.py"))] == ["a1_2023_to_2024.py", "b2_2024_to_2025.py"]


def test_sizes_that_come_from_hyper_parameters(old: Models) -> None:
    """The code builds the model of each file, so files of all sizes fit."""
    old.ok("init")
    old.configure(net="net:build")
    size = "(hyper_parameters or {}).get('width', 4)"
    encoder, head = f"nn.Linear(3, {size})", f"nn.Linear({size}, 2)"
    (old.path / "sizes").mkdir()
    for name, layers in (("old", {"encoder": encoder, "head": head}), ("new", {"embedding": encoder, "head": head})):
        old.code(layers, arguments="hyper_parameters=None")
        for width in (4, 6, 8):
            old.save(f"sizes/{name}{width}.ckpt", width=width)
    examples = ["sizes/old6.ckpt", "sizes/new6.ckpt"]
    ran = old.ok("adopt", *examples, "--rev-id", "a1", "--accept-guesses", "--stamp", "sizes", "-r")
    assert ran.out.splitlines()[-3:-1] == ["base: 3 checkpoints", "a1: 3 checkpoints"]
    assert old.ok("check").out == "1 revision, 1 model: no problems\n"


def test_scripts_by_hand_count(old: Models) -> None:
    """Somebody does a step in two scripts, one of functions: they are tried, and kept."""
    old.ok("init")
    fuse = 'op.Fuse(["q.weight", "k.weight", "v.weight"], "qkv.weight")'
    old.operations("r1", None, 'op.RenamePrefix("encoder.", "embedding.")')
    old.operations("r2", "r1", fuse)
    norm = "import torch\nfor name in ('weight', 'bias'):\n    ckpt['state_dict'][f'norm.{name}'] = torch.ones(8)"
    back = "for name in ('weight', 'bias'):\n    del ckpt['state_dict'][f'norm.{name}']"
    old.script("r3", "r2", norm, back)
    (found,) = old.ok("adopt", *EXAMPLES, "--json").lines
    assert [each["revisions"] for each in found["steps"]] == [["r1"], ["r2", "r3"]]
    assert found["doubts"] == []


def test_a_script_that_was_corrected_wrongly(old: Models) -> None:
    old.run("adopt", *EXAMPLES, "--init", *IDS)
    (script,) = old.path.glob("versions/b2_*.py")
    right = script.read_text()
    script.write_text(right.replace("norm.bias", "norm.offset"))
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES, "--accept-guesses", "--stamp", "runs", "-r")
    assert ran.code == 3
    assert "b2_" in ran.err
    assert "norm.bias is missing; norm.offset is left over" in ran.err
    assert digests(old.path) == before
    script.write_text(right)
    old.ok("adopt", *EXAMPLES, "--accept-guesses")
    script.unlink()  # or it is removed, and written again
    old.ok("adopt", *EXAMPLES, "--accept-guesses", *IDS)


def test_a_rollback_that_is_none_is_found(old: Models) -> None:
    old.ok("init")
    wrong = "ckpt['state_dict'].pop('embedding.weight')"
    move = "for end in ('weight', 'bias'):\n    ckpt['state_dict'][f'embedding.{end}'] = ckpt['state_dict'].pop(f'encoder.{end}')"
    old.script("r1", None, move, wrong)
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES[:2], "--stamp", "runs", "-r")
    assert ran.code == 3
    assert f"{EXAMPLES[0]}: " in ran.err
    assert "r1" in ran.err
    assert digests(old.path) == before


def test_values_that_are_lost_are_a_doubt(old: Models) -> None:
    """The other way round, a layer vanishes: somebody decides whether its values are kept."""
    turned = [EXAMPLES[2], EXAMPLES[1]]
    ran = old.run("adopt", *turned, "--init", "--accept-guesses", "--rev-id", "a1")
    assert ran.code == 4
    assert "it cannot be undone, because it loses values: set keep=True" in ran.err
    old.ok("adopt", *turned, "--accept-guesses", "--accept-losses")
    (script,) = old.path.glob("versions/a1_*.py")
    text = script.read_text()
    assert '"norm.' in text
    script.write_text(text + "\nrollback = None\n")
    old.ok("adopt", *turned, "--accept-guesses")


def test_examples_that_were_stamped(old: Models) -> None:
    """The record counts, and a contradiction is refused."""
    old.ok("adopt", *EXAMPLES, "--init", *IDS, "--accept-guesses", "--stamp", "runs", "-r", "--exclude", "wide.ckpt")
    old.ok("adopt", *EXAMPLES[1:], "--accept-guesses")
    old.ok("stamp", "b2", EXAMPLES[1])
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES, "--accept-guesses")
    assert ran.code == 3
    assert "its record has b2, but its place here is a1" in ran.err
    assert digests(old.path) == before


def test_a_record_of_the_last_example_counts_too(old: Models) -> None:
    last = EXAMPLES[2]
    old.ok("adopt", *EXAMPLES[:2], "--init", "--rev-id", "a1")
    old.ok("stamp", "a1", last)
    before = digests(old.path)
    ran = old.run("adopt", *EXAMPLES, "--accept-guesses")
    assert (ran.code, f"{last}: its record has a1, but its place here is a new revision" in ran.err) == (3, True)
    assert digests(old.path) == before
    old.ok("stamp", "--purge", "base", last)  # the way out that it names
    old.ok("adopt", *EXAMPLES, "--accept-guesses", "--rev-id", "a1", "--rev-id", "b2")
    old.ok("stamp", "a1", last)
    ran = old.run("adopt", *EXAMPLES, "--accept-guesses")
    assert (ran.code, f"{last}: its record has a1, but its place here is b2" in ran.err) == (3, True)


def test_a_script_that_became_functions_later(old: Models) -> None:
    """Nothing leads from the manifest back through functions, but the examples tell where they are."""
    old.ok("adopt", *EXAMPLES, "--init", *IDS, "--accept-guesses")
    (script,) = old.path.glob("versions/a1_*.py")
    script.unlink()
    rename = (
        "state = ckpt['state_dict']\nfor name in list(state):\n    state[name.replace('{}', '{}')] = state.pop(name)"
    )
    old.script("a1", None, rename.format("encoder", "embedding"), rename.format("embedding", "encoder"))
    old.ok("adopt", *EXAMPLES, "--accept-guesses", "--stamp", "runs", "-r", "--exclude", "wide.ckpt")
    assert [heads(old, year) for year in YEARS] == [[[]], [["a1"]], [["b2"]]]
    assert (old.path / "versions" / "manifests" / "base.json").exists()


def test_part_of_the_history(old: Models) -> None:
    """The code is newer than the last example, as it should be."""
    coded(old, "third")
    old.ok("adopt", *EXAMPLES, *IDS, "--accept-guesses")
    assert old.ok("adopt", *EXAMPLES[:2]).err == ""


def test_a_wrong_correction_of_the_first_of_two_scripts(old: Models) -> None:
    turned = EXAMPLES[::-1]
    assert old.run("adopt", *turned, "--init", *IDS).code == 4
    (script,) = old.path.glob("versions/a1_*.py")
    old.operations("a1", None, 'op.Drop("qkv.weight")')
    script.unlink()
    ran = old.run("adopt", *turned)
    assert ran.code == 3
    assert "versions/a1_change.py follows base, but does not turn" in ran.err


def test_after_everything_was_upgraded(old: Models) -> None:
    old.ok("adopt", *EXAMPLES, "--init", *IDS, "--accept-guesses", "--stamp", "runs", "-r", "--exclude", "wide.ckpt")
    old.ok("upgrade", "head", "-r", "runs", "--no-backup")
    ran = old.run("adopt", *EXAMPLES)
    assert (ran.code, "are in the same state" in ran.err) == (2, True)


def test_files_of_safetensors(old: Models) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    for year, build in MODELS.items():
        for number in range(2):
            safetensors.save_file(build().state_dict(), old.path / f"{year}-{number}.safetensors")
    examples = [f"{year}-0.safetensors" for year in YEARS]
    others = [word for year in YEARS for word in ("--stamp", f"{year}-1.safetensors")]
    ran = old.ok("adopt", *examples, "--init", *IDS, "--accept-guesses", *others)
    assert ran.out.splitlines()[-1] == "3 checkpoints at a known state, 0 left alone"
    assert [script.name for script in sorted(old.path.glob("versions/*.py"))] == [
        "a1_2023_0_to_2024_0.py",
        "b2_2024_0_to_2025_0.py",
    ]
    safetensors.save_file(torch.load(old.path / EXAMPLES[0])["state_dict"], old.path / "sorted.safetensors")
    for pair in ((EXAMPLES[0], "sorted.safetensors"), ("sorted.safetensors", EXAMPLES[0])):  # which has no order
        ran = old.run("adopt", *pair)
        assert (ran.code, f"{pair[0]} and {pair[1]} are in the same state" in ran.err) == (2, True)


def test_a_chain_of_a_package_is_not_written(old: Models) -> None:
    ran = old.run("--chain", "anemoi", "adopt", *EXAMPLES)
    assert (ran.code, "a published chain is read-only" in ran.err) == (2, True)


def test_buffers_of_the_code_are_known_in_the_end(old: Models) -> None:
    """A checkpoint does not tell which tensors are buffers, but the code does."""
    old.ok("init")
    layers = {"embed": "nn.Linear(3, 4)", "norm": "nn.BatchNorm1d(4)"}
    old.configure(net="net:build")
    old.code(layers)
    old.save("old.ckpt")
    old.code({"embedding": layers["embed"], "norm": layers["norm"]})
    old.save("new.ckpt")
    old.ok("adopt", "old.ckpt", "new.ckpt", "--accept-guesses")
    found = json.loads((old.path / "versions" / "manifest.json").read_text())["models"]["net"]["parameters"]
    assert found["norm.running_mean"]["buffer"] is True
    assert old.ok("check").out == "1 revision, 1 model: no problems\n"


def test_errors_from_python(old: Models) -> None:
    cm.init()
    with pytest.raises(UsageError, match="at least two examples"):
        cm.adopt([EXAMPLES[0]])
    save(old.path / "again.ckpt", first())
    with pytest.raises(UsageError, match="are in the same state"):
        cm.adopt([EXAMPLES[0], "again.ckpt"])
