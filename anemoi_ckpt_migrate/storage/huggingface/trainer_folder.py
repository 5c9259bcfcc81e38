"""Folders of a trainer: weights, and the states of its optimizers and schedulers in files of their own beside them.

The tree has the state dict under ``model``, and each of these files under its name: ``optimizer.pt`` is ``optimizer``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, cast

from anemoi_ckpt_migrate.errors import NotACheckpoint, NowhereToKeep, Unpicklable
from anemoi_ckpt_migrate.storage.checkpoint import FOLDER, RECORD_ENTRY, Checkpoint, FolderOptions
from anemoi_ckpt_migrate.storage.huggingface.folder import HuggingFaceFolder
from anemoi_ckpt_migrate.storage.huggingface.layout import key_of_state
from anemoi_ckpt_migrate.storage.huggingface.safetensors_folder import SafetensorsFolder
from anemoi_ckpt_migrate.storage.huggingface.torch_files import TorchFile, damaged, read_torch_file
from anemoi_ckpt_migrate.storage.huggingface.torch_folder import TorchFolder
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, dumped, made_content
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import harmless_names
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler, protocol_of
from anemoi_ckpt_migrate.storage.tensors.refs import ContentNeeded, is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass, field, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.atomic_replace import Written
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.single_file import NewFile
    from anemoi_ckpt_migrate.storage.tensors.materialize import Places, StoragePlace
    from anemoi_ckpt_migrate.storage.url import Location
    from anemoi_ckpt_migrate.storage.zip_archive import Archive

MODEL = "model"
"""The key of the state dict in the tree."""
_RECORD = "ckpt_migrate"  # the key under which a record is put into a dict that holds a state dict
_OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class _Whole(Pickled):
    """A tree, ready to be written in several files.

    Attributes
    ----------
    weights : Pickled
        The state dict.
    states : dict of str to bytes
        The pickles of the other files, by their keys in the tree.
    record : object
        The record of its revisions; None if the tree has none.
    """

    weights: Pickled = field(default_factory=lambda: Pickled(b"", {}))
    states: Mapping[str, bytes] = field(default_factory=dict)
    record: Any = None


class TrainerFolder(HuggingFaceFolder):
    """An open folder of a trainer. The class of its weights is another base of each subclass."""

    _of_weights: ClassVar[type[HuggingFaceFolder]]

    def _read_archive(self) -> Archive:
        """Read the files with weights, and then those with states."""
        archive = self._of_weights._read_archive(self)
        members = self._files.all[-len(self._state_files) :]
        first = len(self._files.all) - len(members)
        self._read_states: dict[str, TorchFile] = {}
        for number, (file, member) in enumerate(zip(self._state_files, members, strict=True), first):
            self._read_states[key_of_state(file.name)] = read_torch_file(file, number, member.begin)
        self._states = self._read_states
        self._unpicklers_of_states: dict[str, TreeUnpickler] = {}
        self._state_places: dict[str, StoragePlace] = {
            key: place for file in self._states.values() for key, place in file.places.items()
        }
        places = ((f"data/{key}", place) for key, place in self._state_places.items())
        loose = {name: (place.start, place.start + place.length) for name, place in places}
        return replace(archive, loose={**archive.loose, **loose})

    def _places(self) -> Places:
        return {**self._of_weights._places(self), **self._state_places}

    def _adopt(self, pickled: Pickled) -> None:
        whole = cast(_Whole, pickled)
        self._of_weights._adopt(self, whole.weights)
        self._states = {key: file.with_data(whole.states[key]) for key, file in self._states.items()}

    def draft(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Checkpoint:
        """Return the result of `write` without writing it. The record is an entry beside the tree."""
        return super().draft(pickled, _with_record(pickled, attachments))

    # The tree

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the pickles of the last tree, and whether they are harmless."""
        found = self._names_of_weights()
        for key, unpickler in self._unpicklers_of_states.items():
            for name, known in harmless_names(unpickler.names, self._states[key].data).items():
                found[name] = found.get(name, True) and known
        return found

    def load(self, trusting: bool = True) -> dict[str, Any]:
        """Return the state dict and the states, with stand-ins for tensors."""
        return {MODEL: self._of_weights.load(self, trusting), **self._loaded_states(TreeUnpickler)}

    def load_content(self) -> dict[str, Any]:
        """Return the state dict and the states, with real tensors over the files."""
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentUnpickler

        def unpickler(data: bytes, touched: list[str]) -> ContentUnpickler:
            return ContentUnpickler(data, self._payloads, touched=touched)

        return {MODEL: self._of_weights.load_content(self), **self._loaded_states(unpickler)}

    def _loaded_states(self, kind: Callable[..., TreeUnpickler]) -> dict[str, Any]:
        places = self._places()
        held = places.keys() | self._unwritten.keys() | self._maker.recipes.keys()
        found, unpicklers = dict[str, Any](), dict[str, TreeUnpickler]()
        for key, file in self._states.items():
            unpicklers[key] = unpickler = kind(file.data, touched=self._touched)
            try:
                found[key] = unpickler.load()
            except Exception as error:  # a damaged pickle raises almost anything
                raise damaged(file.name, error) from error
            file.check(unpickler.keys, held)
            if key.startswith(_OPTIMIZER) and not _is_optimizer(found[key]):
                raise NotACheckpoint(f"{file.name} in it does not hold the state of an optimizer; move it away")
        self._unpicklers_of_states = unpicklers
        return found

    # The tree, to be written

    def pickled(self, tree: Any, copy_shared: bool = False) -> Pickled:
        """Turn a tree into the form of each of its files."""
        if not is_a(tree, dict):
            raise Unpicklable("the checkpoint", f"a folder of a trainer holds a dict, not a {type(tree).__name__}")
        own = {key: value for key, value in tree.items() if key != _RECORD}
        wanted = [MODEL, *self._states]
        missing = [key for key in wanted if key not in own]
        if missing or len(own) > len(wanted):
            key = missing[0] if missing else next(key for key in own if key not in wanted)
            raise Unpicklable(
                f"ckpt[{key!r:.80}]",
                f"the files of the folder stay the same, so its tree has {', '.join(wanted)}, and nothing else",
            )
        weights = self._of_weights.pickled(self, own[MODEL], copy_shared)
        states, keys, names = dict[str, bytes](), dict(weights.keys), set(weights.names)
        new: dict[str, Any] = {}
        # New storages of all files have numbers; those of the weights come first.
        own_numbers = (int(key) + 1 for key in weights.payloads if key.isdigit())
        first = max((self._first_key(), self._maker.next_key, *own_numbers))
        for key, file in self._states.items():
            if key.startswith(_OPTIMIZER) and not _is_optimizer(own[key]):
                raise Unpicklable(f"ckpt[{key!r}]", f"it is no state of an optimizer, which {file.name} has to hold")
            pickler, states[key] = dumped(own[key], partial(self._state_pickler, file, first + len(new)))
            keys |= pickler.keys
            names |= set(pickler.names)
            new |= made_content(pickler)
        payloads = {**weights.payloads, **self._contents_of(keys, new)}
        weights = replace(weights, payloads=payloads)
        return _Whole(b"", keys, payloads, frozenset(names), weights, states, tree.get(_RECORD))

    def _state_pickler(self, file: TorchFile, first: int, stream: BytesIO) -> TreePickler:
        protocol = max(2, protocol_of(file.data))
        if "torch" not in sys.modules:  # then the tree holds no real tensor either
            return TreePickler(stream, protocol)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentPickler

        return ContentPickler(stream, protocol, self._payloads, first)

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        folder: FolderOptions = FOLDER,
    ) -> Written:
        """Write a changed folder, whole or not at all."""
        return super().write(pickled, _with_record(pickled, attachments), output, backup, progress, folder)

    def _laid_out_stash(self, pickled: Pickled, record: bytes | None) -> tuple[bytes | None, NewFile | None]:
        return self._of_weights._laid_out_stash(self, cast(_Whole, pickled).weights, record)

    def _new_shards(self, pickled: Pickled, record: bytes | None, largest: int | None) -> Any:
        return self._of_weights._new_shards(self, cast(_Whole, pickled).weights, record, largest)

    def _new_states(self, pickled: Pickled) -> list[NewFile | None]:
        whole, places = cast(_Whole, pickled), self._places()
        return [
            file.laid_out(whole.states[key], pickled, places, self._files, {})
            for key, file in self._read_states.items()
        ]

    # The files

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the storages that do not match their checksums."""
        found = self._of_weights.damaged(self, progress)
        for file in self._states.values():
            for key, (start, length, crc) in file.places.items():
                if crc and self._files.checksum(start, start + length) != crc:
                    found.append(f"{file.name}/data/{key.partition('/')[2]}")
                if progress is not None:
                    progress(length)
        return found


class SafetensorsTrainerFolder(TrainerFolder, SafetensorsFolder):
    """An open folder of a trainer with weights in files of safetensors."""

    _of_weights = SafetensorsFolder


class TorchTrainerFolder(TrainerFolder, TorchFolder):
    """An open folder of a trainer with weights in files of `torch.save`."""

    _of_weights = TorchFolder

    @property
    def keeps_order(self) -> bool:  # type: ignore[override]
        """Whether all weights are in one file."""
        return self._index is None


def _with_record(pickled: Pickled, attachments: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Return entries beside the tree, with the record that the tree holds."""
    record = cast(_Whole, pickled).record
    if record is None:
        return dict(attachments)
    try:
        return {**attachments, RECORD_ENTRY: json.dumps(record, indent=1).encode()}
    except (TypeError, ValueError, ContentNeeded):
        raise NowhereToKeep from None


def _is_optimizer(value: Any) -> bool:
    """Return whether a value is the state of an optimizer, as ``Optimizer.state_dict()`` returns it."""
    if not is_a(value, dict) or not is_a(value.get("state"), dict) or not is_a(value.get("param_groups"), list):
        return False
    return all(is_a(group, dict) and is_a(group.get("params"), list) for group in value["param_groups"])
