"""Rate the names in a pickle: classes and functions that `torch.load` would import and may call."""

from __future__ import annotations

import _compat_pickle
import builtins
import importlib
import sys
import types
from collections.abc import Collection
from typing import Any

from anemoi_ckpt_migrate.storage.pickle.allowed_names import CLASSES, FUNCTIONS, HARMLESS, PYTHON, SINGLE

KNOWN, TRUSTED, OPAQUE, DANGEROUS = "known", "trusted", "opaque", "dangerous"

# Other libraries: names that run, import, unpickle or fetch something. Names below them are included.
_LIBRARIES = """
anemoi_ckpt_migrate pip setuptools pkg_resources _distutils_hack virtualenv distlib cffi _cffi_backend pyximport
Cython six requests httpx aiohttp urllib3 websockets boto3 botocore huggingface_hub gdown wget fsspec.open fsspec.core
cloudpickle dill joblib jsonpickle hickle klepto pickle5 pickleshare yaml ruamel pandas.read_pickle pandas.io.pickle
pexpect ptyprocess sh plumbum invoke fabric paramiko asyncssh execnet psutil git docker IPython gevent eventlet
anyio.run_process anyio.open_process trio.run_process mako jinja2 chameleon numexpr asteval simpleeval pandas.eval
pandas.core.computation sympy.sympify sympy.core.sympify sympy.parsing sympy.lambdify sympy.utilities hydra.utils
hydra._internal tensorflow keras mlflow ray celery django.utils.module_loading werkzeug.utils sqlalchemy.create_engine
sqlalchemy.engine torchvision.datasets.utils transformers.dynamic_module_utils lightning_utilities.core.imports
"""
# Attributes that lead from a function, a frame or a generator to all imports of its module.
_NAMESPACES = "func_globals f_globals f_locals f_builtins f_back gi_frame cr_frame ag_frame tb_frame"
# torch.load maps its own old module names to new ones.
_MOVED = {"torch.tensor": "torch._tensor"}
_LISTED = ("torch", "numpy")  # besides Python, packages in which every unlisted name is dangerous

_HARMLESS = {module: frozenset(names.split()) for module, names in HARMLESS.items()}
_CLASSES, _FUNCTIONS, _SINGLE = (frozenset(names.split()) for names in (CLASSES, FUNCTIONS, SINGLE))
_PYTHON = frozenset(sys.stdlib_module_names) | frozenset(PYTHON.split())
_DANGEROUS, _LEADING = frozenset(_LIBRARIES.split()), frozenset(_NAMESPACES.split())


def standing(module: str, name: str, known: bool, trusted: Collection[str] = ()) -> str:
    """Return the rating of a name.

    Parameters
    ----------
    module, name : str
        As the pickle spells them.
    known : bool
        Whether the unpickler builds it itself, without harm.
    trusted : iterable of str
        Modules that the user trusts; modules below them are included.

    Returns
    -------
    str
        ``known``: plain data, or part of a tensor. ``trusted``: built for real. ``dangerous``: lets the pickle make
        `torch.load` run anything. ``opaque``: any other; its behaviour when loaded is up to its author.
    """
    if known:
        return KNOWN
    if is_trusted(module, trusted) and not _leads_out(name):
        return TRUSTED
    found = _standing(*meant(module, name))
    # With protocol 3 and above, torch imports the name as spelled; if there is such a module, that counts too.
    return DANGEROUS if _root(module) in _PYTHON and _standing(module, name) == DANGEROUS else found


def is_dangerous_throughout(module: str) -> bool:
    """Return whether a module is dangerous and holds no name listed as harmless, nor do modules below it."""
    listed = any(f"{each}.".startswith(f"{module}.") for each in _HARMLESS)
    return not listed and standing(module, "Anything", False) == DANGEROUS


def meant(module: str, name: str) -> tuple[str, str]:
    """Return the module and name that `torch.load` imports: it maps the names of Python 2 to new ones.

    Parameters
    ----------
    module, name : str
        As the pickle spells them.
    """
    mapped = _compat_pickle.NAME_MAPPING.get((module, name))
    if mapped is not None:
        return mapped
    module = _MOVED.get(module, module)
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def is_trusted(module: str, trusted: Collection[str]) -> bool:
    """Return whether a module is trusted, or lies below a trusted one."""
    return _below(module, trusted)


def is_plain_member(name: str) -> bool:
    """Return whether an attribute of this name can only give a member defined by the class itself."""
    return name.isidentifier() and not _leads_out(f"_.{name}") and name not in _PYTHON


def imported(module: str, name: str, trusted: Collection[str]) -> Any:
    """Import the class or function of a trusted name; None if it no longer exists.

    Also None for a name that a trusted module only imports: its trust covers its own definitions.

    Raises
    ------
    Exception
        Any error from importing the module, except for a missing module or name.
    """
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    if not isinstance(found, (type, types.FunctionType)) or found.__qualname__ != name:
        return None
    return found if is_trusted(found.__module__, trusted) else None


def _standing(module: str, name: str) -> str:
    """Return the rating of a name by the lists; the name is as torch imports it."""
    if name in _HARMLESS.get(module, ()) or (module == "builtins" and _is_exception(name)):
        return KNOWN
    root = _root(module)
    if root in _PYTHON or _leads_out(name) or module.endswith(".__main__"):
        return DANGEROUS
    if root in _LISTED:
        return OPAQUE if _is_model_part(module, name) else DANGEROUS
    return DANGEROUS if _below(f"{module}.{name}", _DANGEROUS) else OPAQUE


def _is_exception(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def _is_model_part(module: str, name: str) -> bool:
    """Return whether a name of torch or numpy is a class or function used in whole models."""
    if f"{module}.{name}" in _SINGLE:
        return True
    if _is_class(name):
        return _below(module, _CLASSES)
    return module in _FUNCTIONS and "." not in name and name not in _PYTHON and name not in _LISTED


def _is_class(name: str) -> bool:
    """Return whether a name is spelled like a class or its member, unlike modules and their imports."""
    owner = name.partition(".")[0].lstrip("_")
    return owner[:1].isupper() and (owner == name.lstrip("_") or not owner.isupper())


def _leads_out(name: str) -> bool:
    """Return whether a dotted name leads through the imports of a module, or to the scope of a function."""
    parts = name.split(".")
    if parts[-1] == "__new__":  # on a class; this is how a pickle builds one with keyword arguments
        parts.pop()
    return (
        any(part in _PYTHON or part in _LISTED for part in parts[:-1])
        or any(part.startswith("__") and part.endswith("__") for part in parts)
        or any(part in _LEADING for part in parts)
    )


def _root(module: str) -> str:
    return module.partition(".")[0]


def _below(module: str, above: Collection[str]) -> bool:
    while module:
        if module in above:
            return True
        module = module.rpartition(".")[0]
    return False
