"""Find the parameters in a tree: the state dict, its copies, and the optimizers."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.pickled_module import Pickled, held, identity, is_module
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.tree.optimizer_formats import is_optimizer
from anemoi_ckpt_migrate.tree.walk import Path, walk
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

USUAL = ("state_dict", "model_state_dict", "model")
"""The usual keys of the state dict of a model."""
AVERAGED = "module."
NotedLocation = tuple[str, str, str]
"""A dict of parameters in a record: its path, the extra prefix of the names there, and the missing_prefix prefix."""

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Names that torch and Lightning give to a wrapped model: DistributedDataParallel, torch.compile, FSDP, and so on."""

_COUNTER = "n_averaged"  # torch.optim.swa_utils.AveragedModel counts there
_DEEPEST = 6
_TRIED = 8  # names from which the prefix of a copy is guessed


@dataclass
class ParameterLocation:
    """A dict of parameters.

    Attributes
    ----------
    path : str
        Its path in the tree.
    content : dict
        The dict.
    extra_prefix : str
        The prefix of names here that the state dict does not have.
    missing_prefix : str
        The prefix of names in the state dict that is missing_prefix here.
    """

    path: str
    content: dict[Any, Any] = field(compare=False)
    extra_prefix: str = ""
    missing_prefix: str = ""

    def __post_init__(self) -> None:
        self._then = self.extra_prefix, self.missing_prefix

    def table(self) -> Table:
        """Return its contents under the names of the state dict."""
        if not self.extra_prefix and all(type(key) is str and is_stored(value) for key, value in self.content.items()):
            return Table((self.missing_prefix + key, value) for key, value in self.content.items())
        named = ((self._own(key, value), key, value) for key, value in self.content.items())
        return Table((name, (key, value) if name is None else value) for name, key, value in named)

    def _own(self, key: Any, value: Any) -> str | None:
        if not is_a(key, str) or not key.startswith(self.extra_prefix) or (is_a(value, dict) and not is_extra(key)):
            return None
        return self.missing_prefix + key[len(self.extra_prefix) :]

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The ``_metadata`` of the state dict, versions by module name; None if there is none."""
        found = getattr(self.content, "_metadata", None)
        return found if is_a(found, dict) else None

    def set_prefixes(self, extra_prefix: str, missing_prefix: str) -> None:
        """Set the prefixes; the keys change when the table is written."""
        self.extra_prefix, self.missing_prefix = extra_prefix, missing_prefix

    def key(self, name: str) -> str:
        """Return the key here of a name of the state dict."""
        return self.extra_prefix + name.removeprefix(self.missing_prefix)

    def moves(self, moves: Iterable[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
        """Return moves of names as moves of keys here, with old keys as of the last call."""
        (extra_prefix, missing_prefix), self._then = self._then, (self.extra_prefix, self.missing_prefix)
        return [
            (extra_prefix + old.removeprefix(missing_prefix), None if new is None else self.key(new))
            for old, new in moves
        ]

    def items(self, table: Table) -> list[tuple[Any, Any]]:
        """Return the items of a table, with the keys used here."""
        return [value if name is None else (self.key(name), value) for name, value in table.everything()]

    def noted(self) -> NotedLocation:
        """Return its description for the record."""
        return self.path, self.extra_prefix, self.missing_prefix

    def is_found(self, table: Table, main: Table) -> bool:
        """Return whether the search for copies would find it in the same form, with the names of a table."""
        found = _like(self.path, dict(self.items(table)), main)
        return found is not None and found.noted() == self.noted()

    def write(self, table: Table) -> None:
        """Replace the contents of the dict by those of a table, in its order."""
        items = self.items(table)
        self.content.clear()
        for key, value in items:
            self.content[key] = value
        if is_a(self.content, Pickled):
            self.content.put_back()

    def misfits(self, table: Table, ordered: bool) -> Iterable[str]:
        """Return sentences about names in a table that a pickled model cannot hold, or not in the optimizer's order."""
        return self.content.misfits(dict(self.items(table)), ordered) if is_a(self.content, Pickled) else ()


def is_pickled(place: ParameterLocation) -> bool:
    """Return whether the parameters are those of a pickled model, not of a dict."""
    return is_a(place.content, Pickled)


def is_tensor(value: Any) -> bool:
    """Return whether a value of a tree is a tensor, real or not."""
    return is_stored(value) or is_real(value)


def is_parameters(value: Any) -> bool:
    """Return whether a value of a tree is a dict of tensors by name."""
    return is_a(value, dict) and any(map(is_tensor, value.values())) and all(is_a(key, str) for key in value)


def at(tree: Any, path: str) -> Any:
    """Return the value at a path of keys joined by dots; None if there is none."""
    if not path:
        return tree
    if is_a(tree, dict):
        # Use the key that equals the whole path, or else the shortest key that the path starts with.
        begins = [key for key in tree if is_a(key, str) and path.startswith(key)]
        begins = [key for key in begins if path[len(key) : len(key) + 1] in ("", ".")]
        if begins:
            key = path if path in tree else min(begins, key=len)
            return at(tree[key], path[len(key) + 1 :])
    if is_a(tree, (list, tuple)):
        first, _, rest = path.partition(".")
        return at(tree[int(first)], rest) if first.isdecimal() and int(first) < len(tree) else None
    return None


def keys_at(tree: Any, path: str) -> tuple[Any, ...]:
    """Return the keys to the value at a path of keys joined by dots, as `at` finds it.

    >>> keys_at({"a.b": {"c": 1}}, "a.b.c")
    ('a.b', 'c')
    """
    found: list[Any] = []
    while path:
        if is_a(tree, (list, tuple)):
            first, _, path = path.partition(".")
            found.append(int(first))
        else:
            key = path if path in tree else min((key for key in tree if f"{path}.".startswith(f"{key}.")), key=len)
            path = path[len(key) + 1 :]
            found.append(key)
        tree = tree[found[-1]]
    return tuple(found)


def find_main(tree: Any, path: str | None = None) -> ParameterLocation | str:
    """Find the state dict of the model.

    Parameters
    ----------
    tree : object
        The checkpoint.
    path : str, optional
        Its path; without it, the usual keys are tried first, then all others.

    Returns
    -------
    Place or str
        The dict; or a sentence with the reason, if it cannot be identified.
    """
    if path is not None:
        found = held(at(tree, path))
        return _main(path, found) if is_parameters(found) else f"there are no parameters at {path}"
    tree = held(tree)
    if not is_a(tree, dict):
        return f"it is a {type(tree).__name__}, not a dict with a state dict"
    found = _candidates(tree) or _candidates({name: held(value) for name, value in tree.items()})
    if len(found) == 1:
        return _main(*found.popitem())
    way = "set `parameters` in the configuration"
    if not found:
        return f"no state dict was found: {way}"
    itself = ', "" for the checkpoint itself' if "" in found else ""
    return f"{', '.join(name or 'the checkpoint itself' for name in found)} could each be the state dict: {way}{itself}"


def put_in_order(tree: Any, path: str | None, names: Sequence[str]) -> bool:
    """Put the parameters of the state dict in a tree into an order; return False, and do nothing, if it has others.

    Parameters
    ----------
    tree, path
        As for `find_main`.
    names : sequence of str
        The names in the order.
    """
    place = find_main(tree, path)
    if isinstance(place, str):
        return False
    table = place.table()
    if table.keys() != set(names):
        return False
    table.arrange(names)
    place.write(table)
    return True


def _candidates(tree: dict[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Return candidates for the state dict by key; a candidate at a usual key is returned alone."""
    for name in USUAL:
        if is_parameters(tree.get(name)):
            return {name: tree[name]}
    found = {str(name): value for name, value in tree.items() if _may_be_main(name, value)}
    return {"": tree, **found} if is_parameters(tree) else found


def _may_be_main(name: Any, value: Any) -> bool:
    return is_parameters(value) and not is_optimizer(value) and not is_extra(name)


def is_extra(key: Any) -> bool:
    """Return whether a key is that of the extra state of a module, as from `torch.nn.Module.get_extra_state`."""
    return is_a(key, str) and key.endswith("_extra_state")


def _main(path: str, content: dict[Any, Any]) -> ParameterLocation:
    return ParameterLocation(path, content, AVERAGED if _average_prefix(content) == AVERAGED else "")


def _average_prefix(names: Collection[str]) -> str:
    """Return the prefix of all names of the model in a state dict of `AveragedModel`; empty for any other."""
    for counter in (name for name in names if name.rpartition(".")[2] == _COUNTER):
        extra_prefix = counter.removesuffix(_COUNTER) + AVERAGED
        if len(names) > 1 and all(name.startswith(extra_prefix) for name in names if name != counter):
            return extra_prefix
    return ""


def is_of_average(name: str, place: int, names: Container[str]) -> bool:
    """Return whether `AveragedModel` added the part that begins at a place in a name: its counter stands beside it."""
    return name.startswith(AVERAGED, place) and name[:place] + _COUNTER in names


def unwrapped(name: str) -> str:
    """Return a name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def wrappers_of(names: Iterable[str]) -> list[str]:
    """Return the parts of names that wrappers added."""
    parts = {part for name in names for part in name.split(".")}
    return [wrapper for wrapper in WRAPPERS if wrapper in parts]


def find_copies(
    tree: Any, main: ParameterLocation, names: Table, known: Iterable[ParameterLocation] = ()
) -> list[ParameterLocation]:
    """Find further copies of the parameters, beside known ones: averages, and parameters that averages replaced.

    Pickled models are searched only if the main parameters are in one; otherwise they may be unrelated models.
    """
    found = []
    seen = {identity(place.content) for place in (main, *known)} - {id(tree)}
    for path, value in _parameter_dicts(tree, seen, is_a(main.content, Pickled)):
        place = _like(path, value, names)
        if place is not None:
            found.append(place)
    return found


def find_wrapped_otherwise(
    tree: Any, main: ParameterLocation, names: Table, known: Iterable[ParameterLocation]
) -> list[ParameterLocation]:
    """Find dicts that would be copies of these names if wrappers stood at the same places in their names."""
    seen = {identity(place.content) for place in (main, *known)} - {id(tree)}
    others = list(_parameter_dicts(tree, seen, is_a(main.content, Pickled)))
    own = {unwrapped(name): names[name] for name in names} if others else {}
    return [ParameterLocation(path, value) for path, value in others if _are_most(value, own)]


def _are_most(content: dict[Any, Any], main: Mapping[str, Any]) -> bool:
    """Return whether most tensors of a dict match these by shape and by name without wrappers."""
    tensors = {key: value for key, value in content.items() if is_tensor(value)}
    there = {name: value for key, value in tensors.items() if (name := unwrapped(key)) in main}
    same = [name for name, value in there.items() if _shape(main[name]) == _shape(value)]
    return 2 * len(same) > len(tensors)


def _like(path: str, content: dict[Any, Any], main: Table) -> ParameterLocation | None:
    tensors = [key for key, value in content.items() if is_tensor(value)]
    own = _average_prefix(content)  # stays, even if the state dict gains or loses a wrapper of that name
    for more, missing_prefix in _prefixes([key[len(own) :] for key in tensors if key.startswith(own)], main):
        extra_prefix = own + more
        names = [missing_prefix + key[len(extra_prefix) :] for key in tensors if key.startswith(extra_prefix)]
        same = sum(
            _shape(main[name]) == _shape(content[extra_prefix + name[len(missing_prefix) :]])
            for name in names
            if name in main
        )
        if 2 * same > len(tensors):
            return ParameterLocation(path, content, extra_prefix, missing_prefix)
    return None


def _prefixes(keys: Sequence[str], main: Table) -> Iterator[tuple[str, str]]:
    yield "", ""
    for key in [key for key in keys if "." in key][:_TRIED]:
        parts = key.split(".")
        for count in range(1, len(parts)):
            if ".".join(parts[count:]) in main:
                yield ".".join(parts[:count]) + ".", ""
    there = set(keys)
    for name in list(main)[:_TRIED]:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if ".".join(parts[count:]) in there:
                yield "", ".".join(parts[:count]) + "."


def _shape(value: Any) -> Any:
    return tuple(value.shape) if is_tensor(value) else None


def find_optimizers(tree: Any) -> list[tuple[str, dict[Any, Any]]]:
    """Find saved optimizer states, with their paths."""
    return [(path, value) for path, value in _dicts(tree) if is_optimizer(value)]


def dicts_of(tree: Any) -> dict[str, dict[Any, Any]]:
    """Return all dicts that may hold parameters, by path."""
    return {"": held(tree), **dict(_dicts(tree, models=True))} if is_a(held(tree), dict) else {}


def _parameter_dicts(tree: Any, known: Collection[int], models: bool) -> Iterator[tuple[str, dict[Any, Any]]]:
    every = _dicts(tree, known, models)
    return (found for found in every if is_parameters(found[1]) and not is_optimizer(found[1]))


def _dicts(tree: Any, known: Collection[int] = (), models: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield the dicts in a tree, except known ones; pickled models too if `models`."""

    def content(path: Path, value: Any) -> list[tuple[Any, Any]]:
        """Return the containers in a value; dicts of tensors and optimizers are not entered."""
        if is_a(value, dict):
            closed = is_optimizer(value) or (path and is_parameters(value))
            found: Iterable[tuple[Any, Any]] = () if closed else value.items()
        else:
            found = enumerate(value) if is_a(value, (list, tuple)) else ()
        others = [(key, each) for key, each in found if not is_stored(each)]  # most are tensors
        return [(str(key), each) for key, each in others if id(each) not in known and _is_container(each, models)]

    for path, value in walk(tree, content, _DEEPEST):
        if path and not is_a(value, (list, tuple)):
            yield ".".join(path), value if is_a(value, dict) else held(value)


def _is_container(value: Any, models: bool) -> bool:
    return is_a(value, (dict, list, tuple)) or (models and is_module(value))
