"""Tells which release of Lightning a checkpoint is of: most say so themselves."""

from packaging.version import InvalidVersion, Version

from anemoi_ckpt_migrate import CkptType, items

RELEASES = {
    "0.10.0": "6b1d2f80c3e5",
    "1.6.0": "a84e07c5d219",
    "1.6.5": "c92f5b3e7d06",
    "1.9.0": "d47a19e6b08c",
    "2.0.0": "f3c85d0a7b61",
}
"""The revision of each release that changed the format."""

BEFORE_VERSIONS = {
    "checkpoint_callback_best",
    "early_stop_callback_wait",
    "early_stop_callback_patience",
    "hparams_type",
}
"""Keys that releases wrote before they wrote their version."""


def recognise(ckpt: CkptType) -> "str | None":
    """Return the last revision whose changes the checkpoint has."""
    if not isinstance(ckpt, dict) or "state_dict" not in ckpt:
        raise ValueError("this is no checkpoint of Lightning")
    text = ckpt.get("pytorch-lightning_version")
    if text is None and not BEFORE_VERSIONS.isdisjoint(ckpt):
        return None
    if text is None:
        raise ValueError(
            "it has no pytorch-lightning_version: if it is a checkpoint of Lightning, stamp it with the release that "
            'wrote it, as in `ckpt-migrate --chain lightning stamp "pytorch-lightning==1.9.5" CKPT`'
        )
    try:
        version = Version(text)
    except (InvalidVersion, TypeError):
        raise ValueError(f"its pytorch-lightning_version is {text!r:.60}, which is no version") from None
    check_loops(ckpt, version)
    return next((found for release, found in reversed(RELEASES.items()) if version >= Version(release)), None)


def check_loops(ckpt: CkptType, version: Version) -> None:
    """Refuse a checkpoint whose loops are not those of its version: somebody changed one of the two."""
    names = items.keys(ckpt, "loops.fit_loop")
    old = any(str(name).startswith("epoch_loop.batch_loop.") for name in names)
    new = any(str(name).startswith("epoch_loop.automatic_optimization.") for name in names)
    if (old and version >= Version("2.0.0")) or (new and not old and version < Version("2.0.0.dev0")):
        raise ValueError(
            f"its pytorch-lightning_version is {version}, but its loops are of a release "
            f"{'before 2.0.0' if old else 'from 2.0.0 on'}: stamp it with the release that wrote it, as in "
            f'`ckpt-migrate --chain lightning stamp "pytorch-lightning=={"1.9.5" if old else "2.0.0"}" CKPT`'
        )
