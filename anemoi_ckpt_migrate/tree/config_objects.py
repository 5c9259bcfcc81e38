"""Treat configurations as dicts: OmegaConf, pydantic, and custom dict classes.

No configuration library is imported. OmegaConf keeps a node for every value, with its key and its parent (seen in the
pickles of OmegaConf 2.1 to 2.3). A pydantic model keeps its fields in a dict inside its state (seen in pydantic 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName, class_of, opaque_name
from anemoi_ckpt_migrate.storage.tensors.refs import is_a

DICT_CONFIG = ("omegaconf.dictconfig", "DictConfig")
LIST_CONFIG = ("omegaconf.listconfig", "ListConfig")
NODES = "omegaconf.nodes"
ANY_NODE = (NODES, "AnyNode")
METADATA = ("omegaconf.base", "Metadata")
CONTAINER_METADATA = ("omegaconf.base", "ContainerMetadata")
SIMPLE_NAMESPACE = ("types", "SimpleNamespace")
FIELDS, EXTRA = "__dict__", "__pydantic_extra__"


def content(value: Any, key: Any = None) -> Any:
    """Return the dict or list with the values of a configuration; None for other values and empty configurations.

    A pydantic model keeps its fields in one dict and extra values in another; the dict that has `key` is returned.
    """
    state = value.__opaque_parts__.state if is_a(value, Opaque) else None
    if not is_a(state, dict):
        return None
    if _is_container(value):
        found = state.get("_content")
        return found if is_a(found, (dict, list)) else None
    if "__pydantic_fields_set__" in state:
        extra = state.get(EXTRA)
        found = extra if is_a(extra, dict) and key in extra else state.get(FIELDS)
        return found if is_a(found, dict) else None
    return None


def _is_container(value: Any) -> bool:
    return is_a(value, Opaque) and class_of(value) in (DICT_CONFIG, LIST_CONFIG)


def _is_node(value: Any) -> bool:
    return _is_container(value) or (is_a(value, Opaque) and class_of(value)[0] == NODES)


def bare(value: Any) -> Any:
    """Return the value of an OmegaConf node; any other value unchanged."""
    if is_a(value, Opaque) and class_of(value)[0] == NODES and is_a(value.__opaque_parts__.state, dict):
        return value.__opaque_parts__.state.get("_val")
    return value


def value_of(value: Any) -> Any:
    """Return the plain value: of an OmegaConf node, its content; of a path, text; of an enum member, its value."""
    value = bare(value)
    return _simple(value) if is_a(value, Opaque) else value


def fitting(value: Any, parent: Any, key: Any) -> Any:
    """Return a value in the form its parent needs: a node inside an OmegaConf container, else the bare value."""
    if _is_container(parent) and content(parent) is not None:
        return _node(value, parent, key)
    return bare(value)


def nested(value: Any, like: Any) -> Any:
    """Return new plain dicts in the form needed inside a dict of another class.

    Configuration classes nest: inside a dict that allows ``config.model.name``, each dict has the same class.
    """
    if is_a(value, list):
        return [nested(item, like) for item in value]
    if is_a(value, dict) and _nests(like):
        made = Opaque.__new__(type(like))
        made.__opaque_parts__.pairs.update({name: nested(item, like) for name, item in value.items()})
        return made
    return value


def plain(value: Any, aliases: Mapping[str, str] | None = None, objects: bool = False) -> Any:
    """Return a configuration as plain dicts and lists; enum members become their values, paths become text.

    Parameters
    ----------
    value : object
        An object of any class.
    aliases : mapping of str to str, optional
        Public names of pydantic fields: ``{"target_": "_target_"}``.
    objects : bool
        Whether objects with attributes and nothing else, such as `argparse.Namespace`, become dicts too.
    """
    return _Plain(aliases or {}, objects).of(value)


def detached(value: Any, parent: Any) -> Any:
    """Return a value taken out of an OmegaConf configuration, without its parent; any other value unchanged."""
    if _is_container(parent) and _is_node(value):
        value.__opaque_parts__.state["_parent"] = None
    return value


def named(value: Any) -> str:
    """Return the class name of a value."""
    return ".".join(class_of(value)) if is_a(value, Opaque) else type(value).__name__


def alike(value: dict[str, Any], like: Any) -> Any:
    """Convert plain dicts and lists to a configuration of the same class as `like`; None if that is impossible."""
    if is_a(like, dict):
        return value
    if not is_a(like, Opaque):
        return None
    if class_of(like) == DICT_CONFIG:
        return dict_config(value, like)
    return nested(value, like) if _nests(like) else None


def dict_config(value: Mapping[str, Any], like: Opaque) -> Opaque:
    """Make an OmegaConf configuration from plain dicts and lists.

    Parameters
    ----------
    value : mapping
        The content.
    like : Opaque
        Any object from the same pickle.
    """
    return _container(value, None, None, like)


class _Plain(NamedTuple):
    aliases: Mapping[str, str]
    objects: bool

    def of(self, value: Any) -> Any:
        value = bare(value)
        if is_a(value, Opaque):
            return self._of_opaque(value)
        return self._of_inner(value) if is_a(value, (dict, list, tuple)) else value

    def _of_inner(self, inner: Any) -> Any:
        if is_a(inner, dict):
            return {key: self.of(item) for key, item in inner.items()}
        return [self.of(item) for item in inner]

    def _of_opaque(self, value: Opaque) -> Any:
        inner, parts = content(value), value.__opaque_parts__
        if inner is not None and not _is_container(value):
            fields = {**inner, **(parts.state.get(EXTRA) or {})}
            return {self.aliases.get(key, key): self.of(item) for key, item in fields.items()}
        if inner is not None or parts.pairs or _nests(value):
            return self._of_inner(parts.pairs if inner is None else inner)
        attributes = _attributes(value) if self.objects else None
        return _simple(value) if attributes is None else self._of_inner(attributes)


def _attributes(value: Opaque) -> dict[str, Any] | None:
    """Return the attributes of an object that holds nothing else; None for any other object and for torch modules."""
    parts = value.__opaque_parts__
    bare_made = parts.function is None or class_of(value) == SIMPLE_NAMESPACE
    if not bare_made or parts.args or parts.kwargs or parts.items or parts.pairs or parts.setter is not None:
        return None
    found: dict[str, Any] = {}
    for attributes in parts.attributes():
        found |= attributes
    return found if found and "_modules" not in found else None


def _simple(value: Opaque) -> Any:
    """Return a path as text, an enum member as its value, and any other object unchanged."""
    parts = value.__opaque_parts__
    if parts.state is not None or parts.items or parts.pairs:
        return value
    if class_of(value)[0].partition(".")[0] == "pathlib":
        return str(PurePosixPath(*parts.args))
    if len(parts.args) == 1 and is_a(parts.args[0], (str, int)):
        return parts.args[0]  # the value of the enum member
    return value


def _nests(value: Any) -> bool:
    """Return whether a value is a custom dict: made bare, with dict items or empty."""
    if not is_a(value, Opaque):
        return False
    parts = value.__opaque_parts__
    return parts.function is None and not parts.args and not parts.items and not parts.state


# OmegaConf nodes.


def _node(value: Any, parent: Opaque, key: Any) -> Any:
    """Return a node below `parent`: the value itself if it is a node, else a new one."""
    if _is_node(value):
        state = value.__opaque_parts__.state
        state["_parent"] = parent
        state["_metadata"].__opaque_parts__.state["key"] = key
        return value
    if is_a(value, (dict, list, tuple)):
        return _container(value, parent, key, parent)
    made = _made(ANY_NODE, parent)
    made.__setstate__({"_metadata": _metadata(METADATA, parent, None, key), "_parent": parent, "_val": value})
    return made


def _container(value: Any, parent: Any, key: Any, like: Opaque) -> Opaque:
    is_dict = is_a(value, Mapping)
    made = _made(DICT_CONFIG if is_dict else LIST_CONFIG, like)
    inner: Any = {} if is_dict else []
    metadata = _metadata(CONTAINER_METADATA, like, "dict" if is_dict else "list", key)
    made.__setstate__({"_metadata": metadata, "_parent": parent, "_content": inner})
    if is_dict:
        inner.update({name: _node(item, made, name) for name, item in value.items()})
    else:
        inner.extend(_node(item, made, place) for place, item in enumerate(value))
    return made


def _metadata(name: tuple[str, str], like: Opaque, kind: str | None, key: Any) -> Opaque:
    made, anything = _made(name, like), _name(("typing", "Any"), like)
    object_type = None if kind is None else _name(("builtins", kind), like)
    cache = _name(("collections", "defaultdict"), like)(_name(("builtins", "dict"), like))
    state = {"ref_type": anything, "object_type": object_type, "optional": True, "key": key, "flags": {}}
    state |= {"flags_root": False, "resolver_cache": cache}
    if kind is not None:
        state["key_type"] = anything if kind == "dict" else _name(("builtins", "int"), like)
        state["element_type"] = anything
    made.__setstate__(state)
    return made


def _made(name: tuple[str, str], like: Opaque) -> Opaque:
    kind = _name(name, like)
    return Opaque.__new__(kind)  # type: ignore[arg-type]


def _name(name: tuple[str, str], like: Opaque) -> OpaqueName:
    return opaque_name(*name, like.__opaque_parts__.calls)
