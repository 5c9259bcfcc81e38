"""inner mlp

The perceptrons of graph transformer blocks (``node_dst_mlp``, ``node_src_mlp``) and of transformer blocks (``mlp``,
beside ``attention``) are of the class MLP in anemoi-models 0.16.0, which has its layers under ``mlp``. Message passing
blocks had it before; pointwise blocks have a plain sequence still.

Activations with a gate (GLU and its like) are gone. What came instead (``mlp_implementation``) has one layer where there
were two in a row, so that no weights of one are those of the other: models that have either are refused.

Revision ID: a95c2e71d8b4
Revises: 3b7a1e90c5d8
Create Date: 2026-11-25 00:00:00+00:00
"""

import re

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, op

revision = "a95c2e71d8b4"
down_revision = "3b7a1e90c5d8"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.16.0"})
known_as = {
    "1778688800_glu_mlp_implementation": {
        "3.9": "af3ed4d719d013c01f02335850e371756e7c08a20740a0c7114b072b777f6c96",
        "3.12": "149ff8cf99a6027ca18afbf102d1e682976ed3f172776ca98eed7c0530849438",
        "3.13": "f4c49dd6467e04b876cd0f1da32266c341d34aa464dfed52d43d15e376ec33f2",
    },
}

OUTER = re.compile(r"(model\.model\..+\.(?:node_dst_mlp|node_src_mlp)\.)(\d.*)")
INNER = re.compile(r"(model\.model\..+\.(?:node_dst_mlp|node_src_mlp)\.)mlp\.(\d.*)")
TRANSFORMER = re.compile(r"((model\.model\.(?:.+\.)?)mlp\.)(\d.*)")
INNER_TRANSFORMER = re.compile(r"((model\.model\.(?:.+\.)?)mlp\.)mlp\.(\d.*)")
BESIDE = "attention.lin_q.weight"
GATED = re.compile(r"model\.model\..*(?:\.activation|mlp\.\d+)\.projection\..*")


operations = [
    op.Derive("inside", "outside"),
]


def inside(ckpt: CkptType) -> list[op.Operation]:
    """Put the layers into another one, where there are such blocks."""
    gated = next((key for key in ckpt["state_dict"] if GATED.fullmatch(key)), None)
    if gated is not None:
        raise Refused(
            f"{gated} belongs to an activation with a gate, which releases from 0.16.0 on do not have: go on with it in one "
            "before 0.16.0"
        )
    return renamed(ckpt, OUTER, TRANSFORMER, "mlp.")


def outside(ckpt: CkptType) -> list[op.Operation]:
    """Take them out again."""
    gated = next((key for key in ckpt["state_dict"] if ".gate_proj." in key), None)
    if gated is not None:
        raise Refused(
            f"{gated} belongs to layers with a gate (mlp_implementation), which releases before 0.16.0 do not have: go on "
            "with it in one from 0.16.0 on"
        )
    return renamed(ckpt, INNER, INNER_TRANSFORMER, "")


def renamed(ckpt: CkptType, graph: "re.Pattern[str]", transformer: "re.Pattern[str]", inner: str) -> list[op.Operation]:
    """Rename the layers of blocks of both kinds."""
    names = {}
    for key in ckpt["state_dict"]:
        found = graph.fullmatch(key)
        if found is None:
            found = transformer.fullmatch(key)
            found = found if found is not None and found[2] + BESIDE in ckpt["state_dict"] else None
        if found is not None:
            names[key] = f"{found[1]}{inner}{found[found.lastindex or 0]}"
    return [op.RenameEach(names)]
