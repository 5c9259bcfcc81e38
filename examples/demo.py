"""The main job, from a training run to the renamed model and back.

    make demo

Everything happens in a folder of its own; each command is printed before it is run.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

BODY = {
    "migrate": ("encoder", "embedding"),
    "rollback": ("embedding", "encoder"),
}
FUNCTION = '''
def {name}(ckpt: CkptType) -> CkptType:
    """Rename {old} to {new}."""
    state_dict = ckpt["state_dict"]
    for key in [key for key in state_dict if key.startswith("{old}.")]:
        state_dict["{new}." + key.removeprefix("{old}.")] = state_dict.pop(key)
    return ckpt
'''


class Model(torch.nn.Module):
    """A small network; what its first layer is called is what changes."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.first = first
        self.add_module(first, torch.nn.Linear(8, 16))
        self.head = torch.nn.Linear(16, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Predict one number for each row."""
        return self.head(torch.relu(self.get_submodule(self.first)(batch)))


def train(path: Path) -> torch.Tensor:
    """Train the model as it was, save a checkpoint, and return what it predicts."""
    torch.manual_seed(0)
    model = Model("encoder")
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(10):
        batch = torch.randn(32, 8)
        loss = (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 10}, path)
    return predict(model)


def predict(model: Model) -> torch.Tensor:
    """Return what a model makes of a fixed batch."""
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 32).reshape(4, 8))


def check(path: Path, first: str, wanted: torch.Tensor) -> None:
    """Load a checkpoint strictly into a model, and check that it predicts what it did."""
    model = Model(first)
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=True)
    if not torch.equal(predict(model), wanted):
        raise SystemExit("the model predicts something else now")
    print(f"# loaded with strict=True into the model whose layer is called {first}: it predicts the same\n")


def run(folder: Path, command: str) -> str:
    """Run a command line in a folder, and show it."""
    print(f"$ {command}")
    done = subprocess.run(shlex.split(command), cwd=folder, check=True, text=True, stdout=subprocess.PIPE)
    print(done.stdout)
    return done.stdout


def fill_in(script: Path) -> None:
    """Do what the author of a migration does: write the two functions into the new script."""
    head = script.read_text().partition("\n\ndef migrate")[0]
    functions = [FUNCTION.format(name=name, old=old, new=new) for name, (old, new) in BODY.items()]
    script.write_text("\n".join([head, *functions]))
    print(f"# the author fills in {script.name}:\n{functions[0]}{functions[1]}")


def main() -> None:
    """Run the demo."""
    folder = Path(tempfile.mkdtemp(prefix="ckpt-migrate-demo-"))
    checkpoint = folder / "last.ckpt"
    print("# a training run writes last.ckpt; the first layer of its model is called encoder\n")
    wanted = train(checkpoint)
    run(folder, "ckpt-migrate init")
    made = run(folder, 'ckpt-migrate revision "rename encoder to embedding"')
    fill_in(folder / made.split()[1])
    run(folder, "ckpt-migrate upgrade head last.ckpt")
    check(checkpoint, "embedding", wanted)
    run(folder, "ckpt-migrate downgrade -1 last.ckpt")
    check(checkpoint, "encoder", wanted)
    print("# what to try next, in this folder:")
    for line in (
        f"source {Path(sys.prefix) / 'bin' / 'activate'}",
        f"cd {folder}",
        "ckpt-migrate upgrade head last.ckpt --dry-run     # the plan, without running it",
        "ckpt-migrate history last.ckpt                    # what there is, and what the checkpoint has of it",
        "ckpt-migrate show head                            # the script",
        'ckpt-migrate revision "the next change" --final   # a barrier: nothing crosses it',
    ):
        print(f"    {line}")


if __name__ == "__main__":
    main()
