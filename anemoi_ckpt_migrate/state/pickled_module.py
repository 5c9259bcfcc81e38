"""The parameters of a pickled model, by the names that its state dict would have; written back into its modules."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, Parts
from anemoi_ckpt_migrate.storage.tensors.refs import RebuildFunction, StoredTensor, is_a, is_stored

PARAMETERS, BUFFERS, MODULES = _HOLDERS = ("_parameters", "_buffers", "_modules")
_PASSING = "_non_persistent_buffers_set"  # names of buffers that no state dict has
_MOST = 1_000_000  # names: what is shared has several, and what is hostile as many as it likes
_LONG = 1000  # characters
_DEEPEST = 200


class Pickled(dict[str, Any]):
    """What the state dict of a pickled model would be; what is changed here reaches the model by `put_back`.

    Parameters
    ----------
    module : object
        The model: opaque, or a real one.
    modules : dict of str to object
        All its modules by name, itself without one; None for one that is left out.

    Attributes
    ----------
    module : object
        The model.
    """

    def __init__(self, module: Any, modules: dict[str, Any]) -> None:
        super().__init__((name, value) for name, value, _ in _leaves(modules))
        self.module = module
        # As versions of modules in that of a state dict, they follow the names of parameters.
        self._metadata = modules
        self._before = list(_leaves(modules))
        self._holders = {id(value): holder for _, value, holder in self._before}
        self._owners = {id(value): modules[_above(name)] for name, value, _ in self._before}

    def parameter(self, value: Any) -> Any:
        """Return a tensor that was made of nothing as the parameter that a module holds."""
        if is_stored(value):
            function = RebuildFunction(("torch._utils", "_rebuild_parameter"), value._parts[0].touched)
            return StoredTensor(function, (value, True, OrderedDict()))
        return sys.modules["torch"].nn.Parameter(value)

    def misfits(self, names: Mapping[str, Any], ordered: bool) -> Iterator[str]:
        """Say what cannot be put into the modules.

        Parameters
        ----------
        names : mapping of str to object
            What there is to be, in order.
        ordered : bool
            Whether the order of parameters has to be that one, by which an optimizer goes.
        """
        for path in filter(None, [*self._metadata, *names]):
            if self._metadata.get(_above(path)) is None:
                yield f"the pickled model has no module {_above(path)} for {path} to be in; only `Run` can make one"
                return
        for name in names:
            if name in self._metadata or _leaf(name) in _passing(self._metadata[_above(name)]):
                yield f"the pickled model has a {name} already, which is no parameter"
        yield from self._torn(names)
        yield from self._taken_over(names)
        parameters = [name for name, value in names.items() if self._holder(value) == PARAMETERS]
        if ordered and [name for name in self._in_order(names) if name in set(parameters)] != parameters:
            yield "the pickled model would have its parameters in another order than the one that the optimizer goes by"

    def put_back(self) -> None:
        """Give the modules what is here."""
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
        """Return what is in each module, by its name."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in names.items():
            if name:
                found.setdefault(_above(name), {})[_leaf(name)] = value
        return found

    def _torn(self, names: Mapping[str, Any]) -> Iterator[str]:
        """Find a module of several names in which something else is to be under one than under another."""
        leaves, children = self._inside(names), self._inside(self._metadata)
        known: dict[int, tuple[str, Any]] = {}
        for path, module in self._metadata.items():
            if module is None:
                continue
            parts = [*leaves.get(path, {}).items(), *children.get(path, {}).items()]
            inner = {leaf: id(value) for leaf, value in parts}
            other, same = known.setdefault(id(module), (path, inner))
            if same != inner:
                yield f"{other} and {path} are one module; what is done to one has to be done to the other"

    def _taken_over(self, names: Mapping[str, Any]) -> Iterator[str]:
        """Find a module that is to hold what another one held, which holds nothing of its own any more."""
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
                    f"the module {path} of the pickled model would hold what another one held, and nothing of its own; "
                    "only `Run` can put one in the place of another"
                )

    def _in_order(self, names: Mapping[str, Any]) -> Iterator[str]:
        """Give names as the modules would: of each what it holds, then what is in those inside of it."""
        leaves, children = self._inside(names), self._inside(self._metadata)

        def below(path: str) -> Iterator[str]:
            for leaf in leaves.get(path, ()):
                yield _joined(path, leaf)
            for leaf in children.get(path, ()):
                yield from below(_joined(path, leaf))

        return below("")


def opened(value: Any) -> Pickled | None:
    """Return the parameters of a pickled model; None if a value is none, or none of torch's making."""
    if not is_module(value):
        return None
    modules: dict[str, Any] = {}
    waiting: list[tuple[str, Any, tuple[int, ...]]] = [("", value, ())]
    count = 0
    while waiting:
        path, module, above = waiting.pop()
        attributes = attributes_of(module)
        names = [str(name) for holder in _HOLDERS if attributes for name in attributes[holder]]
        # Each name is spelled with the path before it: long ones count for several.
        count += 1 + len(names) * (1 + len(path) // _LONG) + sum(map(len, names)) // _LONG
        if path in modules or id(module) in above or len(above) > _DEEPEST or count > _MOST:
            return None
        modules[path] = module
        inner = attributes.get(MODULES, {}).items()
        waiting += [(_joined(path, str(name)), child, (*above, id(module))) for name, child in inner][::-1]
    return Pickled(value, modules)


def held(value: Any) -> Any:
    """Return the parameters of a pickled model; anything else as it is."""
    found = opened(value)
    return value if found is None else found


def identity(content: Any) -> int:
    """Return what tells a dict of parameters from others: of a pickled model the model, however often it is opened."""
    return id(content.module if is_a(content, Pickled) else content)


def is_module(value: Any) -> bool:
    """Tell whether a value is a pickled model, or a module of one."""
    return bool(attributes_of(value))


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of a module; nothing if a value is none."""
    if is_stored(value) or is_a(value, (type, dict)):
        return {}
    if is_a(value, Opaque):
        found = next(iter(value.__opaque_parts__.attributes()), {})
    else:
        found = getattr(value, "__dict__", {})
    return found if all(is_a(found.get(holder), dict) for holder in _HOLDERS) else {}


def hollow(module: Any) -> Any:
    """Return a module like another one, that holds nothing yet."""
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
    """Give the names that a state dict would have, with what they stand for, and where that is held."""
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
    """Have a holder hold something else; what it holds as None, or is to stay, keeps its place."""
    items = list(new.items())
    for index, (leaf, value) in enumerate(holder.items()):
        if leaf not in new and (value is None or leaf in stay):
            items.insert(index, (leaf, value))
    holder.clear()
    holder.update(items)


def _is_parameter(value: Any) -> bool:
    if is_stored(value):
        return str(value._parts[0].pickled_name[1]).startswith("_rebuild_parameter")
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Parameter)


def _joined(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


def _above(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
