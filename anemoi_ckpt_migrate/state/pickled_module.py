"""Read the parameters of a pickled model by their state dict names, and write them back into its modules."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, Parts
from anemoi_ckpt_migrate.storage.tensors.refs import RebuildFunction, StoredTensor, is_a, is_stored, reduced

PARAMETERS, BUFFERS, MODULES = _HOLDERS = ("_parameters", "_buffers", "_modules")
_PASSING = "_non_persistent_buffers_set"  # names of buffers that no state dict has
_MOST = 1_000_000  # names: shared modules have several, and a hostile file may have any number
_LONG = 1000  # characters
_DEEPEST = 200


class Pickled(dict[str, Any]):
    """The state dict of a pickled model. `put_back` writes changes back into the model.

    Parameters
    ----------
    module : object
        The model: opaque, or real.
    modules : dict of str to object
        All its modules by name, the model itself under an empty name; None for a module that is left out.

    Attributes
    ----------
    module : object
        The model.
    """

    def __init__(self, module: Any, modules: dict[str, Any]) -> None:
        super().__init__((name, value) for name, value, _ in _leaves(modules))
        self.module = module
        # Like the module versions in a state dict, these follow the names of parameters.
        self._metadata = modules
        self._before = list(_leaves(modules))
        self._holders = {id(value): holder for _, value, holder in self._before}
        self._owners = {id(value): modules[_above(name)] for name, value, _ in self._before}

    def parameter(self, value: Any) -> Any:
        """Return a newly made tensor wrapped as a parameter of a module."""
        if is_stored(value):
            function = RebuildFunction(("torch._utils", "_rebuild_parameter"), reduced(value)[0].touched)
            return StoredTensor(function, (value, True, OrderedDict()))
        return sys.modules["torch"].nn.Parameter(value)

    def misfits(self, names: Mapping[str, Any], ordered: bool) -> Iterator[str]:
        """Yield a sentence for each problem that keeps names from being put into the modules.

        Parameters
        ----------
        names : mapping of str to object
            The new names with their values, in order.
        ordered : bool
            Whether parameters have to stand in this order because an optimizer relies on it.
        """
        for path in filter(None, [*self._metadata, *names]):
            if self._metadata.get(_above(path)) is None:
                yield f"the pickled model has no module {_above(path)} for {path}; use op.Run to make one"
                return
        for name in names:
            if name in self._metadata or _leaf(name) in _passing(self._metadata[_above(name)]):
                yield f"the pickled model already has a {name}, which is not a parameter"
        yield from self._torn(names)
        yield from self._taken_over(names)
        parameters = [name for name, value in names.items() if self._holder(value) == PARAMETERS]
        if ordered and [name for name in self._in_order(names) if name in set(parameters)] != parameters:
            yield "the order of parameters in the pickled model would no longer match that of the optimizer"

    def put_back(self) -> None:
        """Write the names and values back into the modules."""
        leaves, children = self._inside(self), self._inside(self._metadata)
        for path, module in self._metadata.items():
            attributes = attributes_of(module)
            if attributes:
                own = leaves.get(path, {})
                parameters = {leaf: value for leaf, value in own.items() if self._holder(value) == PARAMETERS}
                buffers = {leaf: value for leaf, value in own.items() if leaf not in parameters}
                _refill(attributes[PARAMETERS], parameters, ())
                _refill(attributes[BUFFERS], buffers, _passing(module))
                _refill(attributes[MODULES], children.get(path, {}), ())

    def _holder(self, value: Any) -> str:
        return self._holders.get(id(value)) or (PARAMETERS if _is_parameter(value) else BUFFERS)

    def _inside(self, names: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the direct contents of each module, by its name."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in names.items():
            if name:
                found.setdefault(_above(name), {})[_leaf(name)] = value
        return found

    def _torn(self, names: Mapping[str, Any]) -> Iterator[str]:
        """Find modules with several names that would get different contents under each."""
        leaves, children = self._inside(names), self._inside(self._metadata)
        known: dict[int, tuple[str, Any]] = {}
        for path, module in self._metadata.items():
            if module is None:
                continue
            parts = [*leaves.get(path, {}).items(), *children.get(path, {}).items()]
            inner = {leaf: id(value) for leaf, value in parts}
            other, same = known.setdefault(id(module), (path, inner))
            if same != inner:
                yield f"{other} and {path} are one module; change both or neither"

    def _taken_over(self, names: Mapping[str, Any]) -> Iterator[str]:
        """Find modules that would only hold the former contents of another module, while that one keeps nothing."""
        had = {id(module) for module in self._owners.values()}
        own: set[int] = set()
        strange: dict[str, list[Any]] = {}
        for path, inner in self._inside(names).items():
            module = self._metadata[path]
            owners = [self._owners.get(id(value)) for value in inner.values()]
            if any(owner is module for owner in owners):
                own.add(id(module))
            elif id(module) in had and None not in owners:
                strange[path] = owners
        for path, owners in strange.items():
            if not all(id(owner) in own for owner in owners):
                yield (
                    f"this would replace the module {path} of the pickled model by another module; use op.Run for that"
                )

    def _in_order(self, names: Mapping[str, Any]) -> Iterator[str]:
        """Yield names in the order of the modules: first the direct contents of a module, then its submodules."""
        leaves, children = self._inside(names), self._inside(self._metadata)

        def below(path: str) -> Iterator[str]:
            for leaf in leaves.get(path, ()):
                yield _joined(path, leaf)
            for leaf in children.get(path, ()):
                yield from below(_joined(path, leaf))

        return below("")


def opened(value: Any) -> Pickled | None:
    """Return the parameters of a pickled model; None if the value is not one, or not in torch's form."""
    if not is_module(value):
        return None
    modules: dict[str, Any] = {}
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", value, ())]
    count = 0
    while waiting:
        path, module, above = waiting.pop()
        attributes = attributes_of(module)
        names = [str(name) for holder in _HOLDERS if attributes for name in attributes[holder]]
        # Each name is stored with its whole path, so long names count several times.
        count += 1 + len(names) * (1 + len(path) // _LONG) + sum(map(len, names)) // _LONG
        if path in modules or id(module) in above or len(above) > _DEEPEST or count > _MOST:
            return None
        modules[path] = module
        inner = attributes.get(MODULES, {}).items()
        waiting += [(_joined(path, str(name)), child, (*above, id(module))) for name, child in inner][::-1]
    return Pickled(value, modules)


def held(value: Any) -> Any:
    """Return the parameters of a pickled model; any other value unchanged."""
    found = opened(value)
    return value if found is None else found


def identity(content: Any) -> int:
    """Return the identity of a dict of parameters: for a pickled model that of the model, so that it is stable."""
    return id(content.module if is_a(content, Pickled) else content)


def is_module(value: Any) -> bool:
    """Return whether a value is a pickled model, or a module of one."""
    return bool(attributes_of(value))


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of a module; empty if the value is not a module."""
    if is_stored(value) or is_a(value, (type, dict)):
        return {}
    if is_a(value, Opaque):
        found = next(iter(value.__opaque_parts__.attributes()), {})
    else:
        found = getattr(value, "__dict__", {})
    return found if all(is_a(found.get(holder), dict) for holder in _HOLDERS) else {}


def hollow(module: Any) -> Any:
    """Return a copy of a module without contents."""
    if not is_module(module):
        return module
    attributes = {**attributes_of(module), **{holder: {} for holder in _HOLDERS}, _PASSING: set()}
    made = object.__new__(type(module))
    if is_a(module, Opaque):
        parts = module.__opaque_parts__
        copied = Parts(parts.function, parts.args, parts.kwargs, parts.calls)
        copied.state, copied.setter = attributes, parts.setter
        object.__setattr__(made, "__opaque_parts__", copied)
    else:
        vars(made).update(attributes)
    return made


def _leaves(modules: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield the names of a state dict with their values and holders."""
    for path, module in modules.items():
        attributes = attributes_of(module)
        for holder in (PARAMETERS, BUFFERS) if attributes else ():
            for leaf, value in attributes[holder].items():
                if value is not None and not (holder == BUFFERS and leaf in _passing(module)):
                    yield _joined(path, str(leaf)), value, holder


def _passing(module: Any) -> Any:
    found = attributes_of(module).get(_PASSING)
    return found if is_a(found, (set, frozenset)) else ()


def _refill(holder: dict[str, Any], new: Mapping[str, Any], stay: Any) -> None:
    """Replace the contents of a holder. Entries that are None or have to stay keep their places."""
    items = list(new.items())
    for index, (leaf, value) in enumerate(holder.items()):
        if leaf not in new and (value is None or leaf in stay):
            items.insert(index, (leaf, value))
    holder.clear()
    holder.update(items)


def _is_parameter(value: Any) -> bool:
    if is_stored(value):
        return str(reduced(value)[0].pickled_name[1]).startswith("_rebuild_parameter")
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Parameter)


def _joined(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


def _above(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
