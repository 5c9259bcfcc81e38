"""Outputs before and after an upgrade: `check --outputs`, `upgrade --outputs`, and outputs recorded earlier."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import Refused, check, load, migrate_all, upgrade
from anemoi_ckpt_migrate.errors import OutputsDiffer
from tests.support.attention import CODE, RIGHT, SWAPPED, Attentions
from tests.support.project import digest

torch = pytest.importorskip("torch")


@pytest.fixture
def attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Attentions]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "versions").mkdir()
    (tmp_path / "ckpt-migrate.toml").write_text('package = "pkg"\n')
    found = Attentions(tmp_path, capsys)
    found.code()
    found.operations(*RIGHT)
    found.save()
    yield found
    sys.modules.pop("attention", None)


def test_a_rename_that_is_right(attention: Attentions) -> None:
    before = digest(Path("old.ckpt"))
    ran = attention.ok("check", "--outputs", "attention:outputs", "old.ckpt")
    tolerance = "tolerance 1e-05 + 1.3e-06 of the value (float32), 0 (int64)"
    assert ran.out.splitlines() == [
        f"old.ckpt: outputs of attention:outputs as before: no difference; {tolerance}",
        "1 revision and 1 checkpoint: no problems",
    ]
    assert digest(Path("old.ckpt")) == before
    ran = attention.ok("upgrade", "head", "--outputs", "attention:outputs", "old.ckpt")
    assert f"outputs of attention:outputs as before: no difference; {tolerance}\n" in ran.out
    assert "query.weight" in torch.load("old.ckpt")["state_dict"]


def test_a_migration_that_swaps_q_and_k(attention: Attentions) -> None:
    """Names, shapes and the rollback are in order; the output is not."""
    attention.operations(*SWAPPED)
    before = digest(Path("old.ckpt"))
    attention.ok("upgrade", "head", "old.ckpt", "--dry-run", "--check-rollback")
    ran = attention.run("check", "--outputs", "attention:outputs", "old.ckpt")
    assert ran.code == 1
    assert "old.ckpt: the outputs of attention:outputs differ from those before: logits[" in ran.out
    assert "6 of 8 values differ by more than the tolerance" in ran.out
    assert "two calls" not in ran.out
    ran = attention.run("upgrade", "head", "--outputs", "attention:outputs", "old.ckpt")
    assert ran.code == 3
    assert "; nothing was changed" in ran.err
    assert (digest(Path("old.ckpt")), sorted(Path().glob("*.bak"))) == (before, [])


def test_a_dry_run_compares_too(attention: Attentions) -> None:
    ran = attention.ok("upgrade", "head", "-n", "--outputs", "attention:outputs", "old.ckpt")
    assert "outputs of attention:outputs as before: no difference" in ran.out
    attention.operations(*SWAPPED)
    assert attention.run("upgrade", "head", "-n", "--outputs", "attention:outputs", "old.ckpt").code == 3


def test_the_tolerance(attention: Attentions) -> None:
    attention.operations(*RIGHT, 'op.Run("change", "change")')
    script = Path("versions", "aaa_rename.py")
    script.write_text(
        script.read_text() + '\ndef change(ckpt):\n    ckpt["state_dict"]["top.bias"] += 1e-3\n    return ckpt\n'
    )
    line = ("check", "--outputs", "attention:outputs", "old.ckpt")
    ran = attention.run(*line)
    assert ran.code == 1
    assert "the largest difference is 0.001" in ran.out
    assert attention.run(*line, "--tolerance", "1e-4").code == 1
    ran = attention.ok(*line, "--tolerance", "1e-3")
    assert "as before: they differ by at most 0.001 (relative " in ran.out
    assert "most of all at logits[" in ran.out
    assert "tolerance 0.001 + 0.001 of the value (float32), 0 (int64)" in ran.out
    assert attention.run(*line, "--tolerance", "0").code == 1


def test_the_log_of_the_record(attention: Attentions) -> None:
    line = ("upgrade", "head", "--outputs", "attention:outputs", "old.ckpt", "--tolerance", "1e-6", "--json")
    (printed,) = attention.ok(*line).lines
    facts = {
        "function": "attention:outputs",
        "against": "before",
        "tolerance": {"float32": [1e-6, 1e-6], "int64": [0.0, 0.0]},
        "largest": 0.0,
        "relative": 0.0,
        "where": "",
        "count": 8,
    }
    assert printed["outputs"] == facts
    assert torch.load("old.ckpt")["ckpt_migrate"]["log"][0]["outputs"] == facts
    (shown,) = attention.ok("current", "--json", "old.ckpt").lines
    assert shown["log"][0]["outputs"] == facts
    assert ", outputs compared, by ckpt-migrate" in attention.ok("current", "-v", "old.ckpt").out
    attention.ok("downgrade", "base", "old.ckpt")
    assert torch.load("old.ckpt")["ckpt_migrate"]["log"][0]["outputs"] == facts


def test_outputs_that_were_recorded_with_the_code_of_that_time(attention: Attentions) -> None:
    line = ("check", "--outputs", "attention:current", "old.ckpt")
    ran = attention.run(*line)
    assert ran.code == 1
    (number,) = [n for n, text in enumerate(CODE.splitlines(), 1) if "load_state_dict" in text]
    assert (
        f"attention.py:{number}: `current` on the checkpoint as it is, at base, failed with RuntimeError: Error(s) in loading "
        "state_dict for Attention: Missing key(s) in state_dict"
    ) in ran.out
    assert "record its outputs with the code of that time (check --save-outputs)" in ran.out
    attention.ok("check", "--outputs", "attention:earlier", "--save-outputs", "expected.pt", "old.ckpt")
    ran = attention.ok(*line, "--expect-outputs", "expected.pt")
    assert "old.ckpt: outputs of attention:current as recorded: no difference" in ran.out
    shutil.copy("old.ckpt", "copy.ckpt")
    attention.ok("upgrade", "head", *line[1:], "--expect-outputs", "expected.pt")
    assert torch.load("old.ckpt")["ckpt_migrate"]["log"][0]["outputs"]["against"] == "file"
    assert "as recorded: no difference" in attention.ok(*line, "--expect-outputs", "expected.pt").out
    assert "as recorded" in attention.ok("upgrade", "head", *line[1:], "--expect-outputs", "expected.pt").out
    attention.operations(*SWAPPED)
    ran = attention.run("upgrade", "head", *line[1:-1], "copy.ckpt", "--expect-outputs", "expected.pt")
    assert ran.code == 3
    assert "the outputs of attention:current differ from those in expected.pt: the output[" in ran.err


def test_what_is_recorded_are_tensors_and_nothing_else(attention: Attentions) -> None:
    line = ("check", "--outputs", "attention:outputs", "old.ckpt", "--save-outputs", "expected.pt")
    assert "old.ckpt: outputs of attention:outputs written to expected.pt" in attention.ok(*line).out
    found = torch.load("expected.pt", weights_only=True)
    assert (found["function"], found["heads"]) == ("attention:outputs", [])
    assert (found["outputs"]["steps"], found["outputs"]["more"][1]) == (3, [None, {}])
    before = digest(Path("expected.pt"))
    ran = attention.run(*line)
    assert ran.code == 1
    assert "expected.pt exists already; remove it, or give --save-outputs another name" in ran.out
    assert digest(Path("expected.pt")) == before


def test_a_file_without_outputs(attention: Attentions) -> None:
    line = ("check", "--outputs", "attention:current", "old.ckpt", "--expect-outputs")
    Path("text.pt").write_text("no")
    torch.save({"format": 2}, "newer.pt")
    for path, what in (
        ("text.pt", "text.pt holds no outputs; --save-outputs writes such a file"),
        ("old.ckpt", "old.ckpt holds no outputs"),
        ("versions", "versions is a folder"),
    ):
        ran = attention.run(*line, path)
        assert (ran.code, what in ran.err) == (2, True), ran.err
    ran = attention.run(*line, "gone.pt")
    assert (ran.code, "gone.pt cannot be read (No such file or directory)" in ran.out) == (1, True)
    ran = attention.run(*line, "newer.pt")
    assert (ran.code, "newer.pt was written by a newer version; upgrade ckpt-migrate" in ran.out) == (1, True)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("return None", "`f` returns None; let it return tensors or numbers"),
        ("return {'a': []}", "`f` returns a dict without a tensor or a number in it"),
        ("return {'a': 'text'}", "`f` returns a str at a, which is no tensor and no number"),
        ("return [torch.ones(2), {(1, 2): 3}]", "`f` returns a dict with the key (1, 2); keys are strings or numbers"),
        ("return torch.ones(2, device='meta')", "it has no values, because it is on the device `meta`"),
        ("a = [1]; a.append(a); return a", "`f` returns outputs that are nested more than 100 deep"),
    ],
)
def test_what_is_no_output(attention: Attentions, code: str, what: str) -> None:
    attention.code(f"def f(ckpt):\n    {code}\n")
    line = next(n for n, text in enumerate(Path("attention.py").read_text().splitlines(), 1) if "def f(" in text)
    for words in (("check", "--outputs"), ("upgrade", "head", "--outputs")):
        ran = attention.run(*words, "attention:f", "old.ckpt")
        assert ran.code == 1
        assert f"attention.py:{line}: `f` returns" in ran.out + ran.err
        assert what in ran.out + ran.err


def test_a_function_that_raises(attention: Attentions) -> None:
    attention.code(
        'def f(ckpt):\n    deeper(ckpt)\n\ndef deeper(ckpt):\n    return ckpt["ema"]\n\ndef g(ckpt):\n    raise SystemExit(3)\n'
    )
    line = next(n for n, text in enumerate(Path("attention.py").read_text().splitlines(), 1) if '["ema"]' in text)
    ran = attention.run("upgrade", "head", "--outputs", "attention:f", "old.ckpt")
    assert ran.code == 1
    assert f"attention.py:{line}: `f` on the checkpoint as it is, at base, failed: there is no key 'ema'" in ran.err
    ran = attention.run("upgrade", "head", "--outputs", "attention:g", "old.ckpt")
    assert (ran.code, "failed with SystemExit: 3" in ran.err) == (1, True)


def test_a_function_that_fails_on_the_result(attention: Attentions) -> None:
    ran = attention.run("check", "--outputs", "attention:earlier", "old.ckpt")
    assert ran.code == 1
    assert "`earlier` on the checkpoint upgraded to aaa, failed with RuntimeError" in ran.out
    assert "--save-outputs" not in ran.out


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("attention:gone", "attention has no function gone"),
        ("attention:X", "attention has no function X"),
        ("gone.module:f", "gone.module cannot be imported: ModuleNotFoundError"),
        ("new.ckpt", "--outputs 'new.ckpt' is no function, as package.module:function"),
        ("attention:Attention", "attention:Attention cannot be called with a checkpoint: missing a required argument"),
    ],
)
def test_a_function_that_does_not_exist(attention: Attentions, function: str, what: str) -> None:
    for words in (["check"], ["upgrade", "head"], ["upgrade", "head", "-j", "2"], ["check", "-q"]):
        ran = attention.run(*words, "--outputs", function, "old.ckpt")
        assert (ran.code, what in ran.err) == (2, True), (words, ran)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--tolerance", "1"], "--tolerance needs --outputs"),
        (["--expect-outputs", "o.pt"], "--expect-outputs needs --outputs"),
        (["--save-outputs", "o.pt"], "--save-outputs needs --outputs"),
        (["--outputs", "attention:outputs", "--tolerance", "-1"], "-1.0 is no tolerance"),
        (["--outputs", "attention:outputs", "--tolerance", "nan"], "nan is no tolerance"),
        (["--outputs", "attention:outputs", "--tolerance", "x"], "invalid float value"),
        (
            ["--outputs", "attention:outputs", "--save-outputs", "o.pt", "--tolerance", "1"],
            "--save-outputs compares nothing",
        ),
        (
            ["two.ckpt", "--outputs", "attention:outputs", "--save-outputs", "o.pt"],
            "is about one checkpoint: name just one",
        ),
        (
            ["--outputs", "attention:outputs", "--save-outputs", "o.pt", "-j", "2"],
            "is about one checkpoint: name just one",
        ),
        (["--outputs", "attention:outputs", "--model"], "--model skips all checkpoints: leave out --outputs"),
    ],
)
def test_options_that_make_no_sense(attention: Attentions, words: list[str], what: str) -> None:
    ran = attention.run("check", "old.ckpt", *words)
    assert (ran.code, what in ran.err) == (2, True), ran
    assert not Path("o.pt").exists()


def test_expected_outputs_are_about_one_checkpoint(attention: Attentions) -> None:
    attention.save("two.ckpt")
    for more in ([], ["-j", "2"]):
        ran = attention.run(
            "upgrade", "head", "old.ckpt", "two.ckpt", "--outputs", "attention:outputs", "--expect-outputs", "o", *more
        )
        assert (ran.code, "--expect-outputs o is about one checkpoint: name just one" in ran.err) == (2, True), ran.err


def test_dropout_that_was_left_on_has_the_same_seed(attention: Attentions) -> None:
    attention.code(
        """
        def noisy(ckpt, revisions):
            model = made(ckpt, revisions, dropout=0.5).train()
            return model(torch.randn(3, 4))
        """
    )
    assert "no difference" in attention.ok("check", "--outputs", "attention:noisy", "old.ckpt").out
    before = torch.get_rng_state()
    upgrade("old.ckpt", outputs="attention:noisy", dry_run=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_function_that_is_not_repeatable_is_told(attention: Attentions) -> None:
    attention.code("calls = []\n\ndef f(ckpt):\n    calls.append(1)\n    return float(len(calls))\n")
    ran = attention.run("check", "--outputs", "attention:f", "old.ckpt")
    assert ran.code == 1
    assert "the output is 2 instead of 1, and 1 of 1 values differ by more than the tolerance" in ran.out
    assert "two calls with the same checkpoint differ too, so the function has to fix its inputs and seeds" in ran.out


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("[x, x]", "[x]", "[1] is missing"),
        ("[x]", "{'a': x}", "[0] is missing"),
        ("{'a': x}", "{'a': x, 'b': {'c': x}}", "b.c is left over"),
        ("x", "x.reshape(2, 3)", "the output is float32 [2, 3] instead of float32 [6]"),
        ("x", "x.double()", "the output is float64 [6] instead of float32 [6]"),
        ("{'a': (x, None)}", "{'a': (x, x)}", "a[1] is float32 [6] instead of None"),
        ("x, {}", "x, []", "[1] is an empty list instead of an empty dict"),
    ],
)
def test_another_structure(attention: Attentions, before: str, after: str, what: str) -> None:
    attention.code(
        f"def f(ckpt, revisions):\n    x = torch.ones(6)\n    return ({after}) if revisions else ({before})\n"
    )
    ran = attention.run("check", "--outputs", "attention:f", "--tolerance", "9", "old.ckpt")
    assert ran.code == 1
    assert f"the outputs of attention:f differ from those before: {what}; nothing was changed" in ran.out


def test_at_head_there_is_nothing_to_compare(attention: Attentions) -> None:
    attention.ok("upgrade", "head", "old.ckpt")
    ran = attention.ok("check", "--outputs", "attention:outputs", "old.ckpt")
    assert "old.ckpt: outputs were not compared, because it is at head" in ran.out


def test_json(attention: Attentions) -> None:
    (found,) = attention.ok("check", "--outputs", "attention:outputs", "old.ckpt", "--json").lines
    (proof,) = found["outputs"]
    assert (proof["checkpoint"], proof["start"], proof["end"]) == ("old.ckpt", [], ["aaa"])
    assert (proof["function"], proof["largest"], proof["tolerance"]["float32"]) == (
        "attention:outputs",
        0,
        [1e-5, 1.3e-6],
    )
    attention.operations(*SWAPPED)
    ran = attention.run("check", "--outputs", "attention:outputs", "old.ckpt", "--json")
    (problem,) = ran.lines[0]["problems"]
    assert (ran.code, problem["kind"], problem["pending"]) == (1, "outputs", False)
    ran = attention.run("upgrade", "head", "--outputs", "attention:outputs", "old.ckpt", "--json")
    assert json.loads(ran.out)["error"]["type"] == "OutputsDiffer"


def test_what_the_function_prints_does_not_mix_with_json(attention: Attentions) -> None:
    attention.code("def f(ckpt):\n    print('hello')\n    return 1\n")
    ran = attention.ok("check", "--outputs", "attention:f", "old.ckpt", "--json")
    assert len(ran.lines) == 1
    assert ran.err.count("hello") == 2


def test_many_checkpoints_in_several_processes(attention: Attentions) -> None:
    Path("runs").mkdir()
    for seed in range(3):
        attention.save(f"runs/{seed}.ckpt", seed)
    ran = attention.ok("check", "-r", "runs", "-j", "2", "--outputs", "attention:outputs", "-v")
    assert ran.out.count("outputs of attention:outputs as before: no difference") == 3
    torch.save({"state_dict": {"q.weight": torch.ones(1), **_without_q("runs/1.ckpt")}, "epoch": 1}, "runs/1.ckpt")
    ran = attention.run("upgrade", "head", "-r", "runs", "-j", "2", "--outputs", "attention:outputs")
    assert ran.code == 1
    assert "runs/1.ckpt: attention.py" in ran.err
    logs = {path.name: "ckpt_migrate" in torch.load(path) for path in Path("runs").glob("*.ckpt")}
    assert logs == {"0.ckpt": True, "1.ckpt": False, "2.ckpt": True}


def _without_q(path: str) -> dict[str, Any]:
    return {name: value for name, value in torch.load(path)["state_dict"].items() if name != "q.weight"}


def test_from_python_with_a_function(attention: Attentions) -> None:
    code = {}
    exec(Path("attention.py").read_text(), code)  # type: ignore[arg-type]

    def outputs(ckpt: dict[str, Any], revisions: tuple[str, ...]) -> Any:
        return code["outputs"](ckpt, revisions)  # type: ignore[index]

    checked = check(["old.ckpt"], outputs=outputs)
    assert [proof.where for proof in checked.outputs] == [""]
    name = f"{__name__}:test_from_python_with_a_function.<locals>.outputs"
    assert checked.outputs[0].function == name
    (moved,) = migrate_all(["old.ckpt"], outputs="attention:outputs", dry_run=True)
    assert moved.result.outputs.count == 8
    attention.operations(*SWAPPED)
    with pytest.raises(Refused, match="differ from those before") as raised:
        upgrade("old.ckpt", outputs=outputs)
    assert isinstance(raised.value, OutputsDiffer)
    assert raised.value.function == name


def test_the_function_gets_what_load_returns(attention: Attentions) -> None:
    seen: list[Any] = []

    def outputs(ckpt: Any) -> float:
        seen.append(ckpt)
        return 1.0

    upgrade("old.ckpt", outputs=outputs, dry_run=True)
    for found, loaded in zip(seen, (torch.load("old.ckpt"), load("old.ckpt")), strict=True):
        assert list(found) == list(loaded)
        assert type(found["state_dict"]) is type(loaded["state_dict"])
        assert found["state_dict"]._metadata == loaded["state_dict"]._metadata
        for name, value in loaded["state_dict"].items():
            assert torch.equal(found["state_dict"][name], value)


class Plain:
    """A class that no checkpoint may name without being trusted."""


def test_classes_of_the_checkpoint_stay_untrusted(attention: Attentions) -> None:
    torch.save({**torch.load("old.ckpt"), "hyper_parameters": Plain()}, "old.ckpt")
    line = ("check", "--outputs", "attention:outputs", "old.ckpt")
    ran = attention.run(*line)
    assert ran.code == 1
    name = f"{Plain.__module__}.Plain"
    assert (
        f"torch.load(weights_only=True) refuses it for attention:outputs: it holds {name}; if you trust its classes, "
        "let attention call torch.serialization.add_safe_globals with them"
    ) in ran.out
    attention.code(f"from {Plain.__module__} import Plain\ntorch.serialization.add_safe_globals([Plain])\n")
    try:
        attention.ok(*line)
    finally:
        torch.serialization.clear_safe_globals()


def test_a_file_of_safetensors(attention: Attentions) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = torch.load("old.ckpt")["state_dict"]
    save_file(state, "old.safetensors")
    attention.code(
        """
        def plain(ckpt, revisions):
            return made({"state_dict": ckpt}, revisions)(X)
        """
    )
    line = ("--outputs", "attention:plain", "old.safetensors")
    assert "no difference" in attention.ok("check", *line).out
    attention.ok("upgrade", "head", *line)
    attention.operations(*SWAPPED)
    save_file(state, "old.safetensors")
    assert attention.run("upgrade", "head", *line).code == 3


def test_in_place_and_with_an_output(attention: Attentions) -> None:
    line = ("--outputs", "attention:outputs", "old.ckpt")
    attention.ok("upgrade", "head", *line, "-o", "new.ckpt")
    assert torch.load("new.ckpt")["ckpt_migrate"]["log"][0]["outputs"]["count"] == 8
    attention.ok("upgrade", "head", *line, "--in-place", "--check-rollback")
    assert torch.load("old.ckpt")["ckpt_migrate"]["log"][0]["outputs"]["count"] == 8
    attention.ok("downgrade", "base", "old.ckpt", "--in-place")
    attention.operations(*SWAPPED)
    before = digest(Path("old.ckpt"))
    assert attention.run("upgrade", "head", *line, "--in-place").code == 3
    assert attention.run("upgrade", "head", *line, "-o", "newer.ckpt").code == 3
    assert (digest(Path("old.ckpt")), Path("newer.ckpt").exists()) == (before, False)


def test_no_temporary_copy_is_left(attention: Attentions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    attention.ok("upgrade", "head", "--outputs", "attention:outputs", "old.ckpt", "--dry-run")
    assert list(folder.iterdir()) == []
    folder.rmdir()
    ran = attention.run("upgrade", "head", "--outputs", "attention:outputs", "old.ckpt")
    assert ran.code == 1
    assert "a copy for attention:outputs could not be written (No such file or directory); it goes" in ran.err


def test_the_checkpoint_of_another_file_is_not_touched_when_functions_change_it(attention: Attentions) -> None:
    """The function may change the loaded checkpoint, and not the file."""
    attention.code("def f(ckpt):\n    ckpt['state_dict'].clear()\n    ckpt['epoch'] = 4\n    return 1\n")
    attention.ok("upgrade", "head", "--outputs", "attention:f", "old.ckpt")
    found = torch.load("old.ckpt")
    assert (found["epoch"], len(found["state_dict"])) == (3, 6)
