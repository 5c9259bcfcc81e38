"""How many operations explain real refactorings, with the same weights and with others. Writes REFACTORINGS.md.

    python benchmarks/refactorings.py

The refactorings are those of `tests/support/refactorings.py`. Each is proven on a checkpoint with an average of the
parameters and the state of AdamW, by `tests/support/refactoring_proof.py`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from anemoi_ckpt_migrate import init  # noqa: E402
from tests.support.refactoring_proof import Proof, prove  # noqa: E402
from tests.support.refactorings import REFACTORINGS, Make  # noqa: E402

TEXT = """# Refactorings, explained

`python benchmarks/refactorings.py`: {same} of {count} are explained fully with the same weights, {other} with other
weights.

For each refactoring, `--autogenerate` writes a script from OLD and NEW. It runs on OLD: parameters, an average of them,
and the state of AdamW. The table says how many operations it has, how many of these are guesses, and whether

- the result has NEW's names, shapes, dtypes and order, in the parameters and the average (**explained**);
- all values are those of the refactoring by hand, but for parameters that were added (**values**);
- the optimizer loads, and two steps of training are bit for bit those by hand (**trains**);
- `downgrade base` restores OLD bit for bit (**back**). Where a script loses values, `keep=True` was written there.

With the same weights, contents decide. With other weights, only names, shapes, dtypes and order do, so the values may
be those of another parameter of the same shape: review the guesses.

| refactoring | parameters | same weights | guesses | holds | other weights | guesses | holds |
|---|---|---|---|---|---|---|---|
{rows}
"""


def proof_of(make: Make, other: bool) -> Proof:
    """Prove a refactoring in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            init(folder)
            return prove(make, other)
        finally:
            os.chdir(HERE)


def held(proof: Proof) -> str:
    """Say what does not hold."""
    names = ("explained", "values", "trains", "back")
    return ", ".join(f"not {name}" for name in names if not getattr(proof, name)) or "all"


def main() -> None:
    """Measure, and write the table."""
    rows, full = [], [0, 0]
    for name, make in REFACTORINGS.items():
        old, new = make()
        proofs = [proof_of(make, other) for other in (False, True)]
        full = [count + proof.explained for count, proof in zip(full, proofs, strict=True)]
        told = " | ".join(f"{proof.operations} | {proof.guesses} | {held(proof)}" for proof in proofs)
        rows.append(f"| {name} | {len(old)} -> {len(new)} | {told} |")
    text = TEXT.format(same=full[0], other=full[1], count=len(rows), rows="\n".join(rows))
    (HERE / "REFACTORINGS.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
