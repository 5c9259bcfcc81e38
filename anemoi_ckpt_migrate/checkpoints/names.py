"""What to think of a name that a pickle gives: a class or function that `torch.load` would import and may call."""

from __future__ import annotations

import importlib
import types
from collections.abc import Collection
from typing import Any

KNOWN, TRUSTED, OPAQUE, DANGEROUS = "known", "trusted", "opaque", "dangerous"

# Whoever can call what is in these can run anything, or reach what does. With all that lies below them.
_DANGEROUS_MODULES = """
os posix nt ntpath posixpath subprocess sys shutil socket importlib imp runpy pickle _pickle marshal shelve ctypes
_ctypes cffi code codeop pty pdb bdb trace timeit profile cProfile pydoc doctest platform webbrowser multiprocessing
concurrent threading _thread signal inspect asyncio urllib http ftplib smtplib telnetlib requests httpx aiohttp pip
setuptools pkg_resources ensurepip venv cloudpickle dill joblib tempfile fileinput linecache zipimport pkgutil sqlite3
ssl idlelib lib2to3 logging.config unittest test _testcapi gc atexit weakref site sysconfig
torch.hub torch.jit torch.package torch.serialization torch.utils.cpp_extension torch.utils.data torch._dynamo
torch._inductor torch.fx torch.distributed torch.multiprocessing torch.onnx torch.utils._config_module
torch.utils.bottleneck torch.utils.collect_env torch.utils.model_zoo
numpy.f2py numpy.testing numpy.distutils numpy.lib.npyio
"""
_DANGEROUS_NAMES = {
    "builtins": """eval exec compile open __import__ getattr setattr delattr hasattr globals locals vars input
        breakpoint map filter apply execfile file dir help memoryview type exit quit callable reload print""",
    "types": "FunctionType CodeType MethodType ModuleType LambdaType new_class",
    "functools": "reduce cached_property partialmethod",
    "operator": "attrgetter methodcaller itemgetter call",
    "io": "open open_code FileIO",
    "_io": "open open_code FileIO",
    "torch": "load save compile",
    "numpy": "load save savez savetxt fromfile memmap loadtxt genfromtxt",
    "pandas": "read_pickle eval",
}
_TORCH_NAMES = """
float16 float32 float64 bfloat16 half float double int8 int16 int32 int64 uint8 uint16 uint32 uint64 short int long bool
complex32 complex64 complex128 quint8 qint8 qint32 quint4x2 quint2x4 float8_e4m3fn float8_e4m3fnuz float8_e5m2
float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 Size Tensor device strided sparse_coo sparse_csr sparse_csc sparse_bsr
sparse_bsc per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric
per_channel_affine_float_qparams
"""
_TORCH_HOMES = {
    "torch._utils": "_rebuild_",
    "torch._tensor": "_rebuild_",
    "torch.storage": "",
    "torch.nn.parameter": "",
}


def standing(module: str, name: str, known: bool, trusted: Collection[str] = ()) -> str:
    """Tell what a name is.

    Parameters
    ----------
    module, name : str
        As the pickle spells them.
    known : bool
        Whether the unpickler builds it itself, in a way that can do no harm.
    trusted : iterable of str
        Modules that the user trusts, with all that lies below them.

    Returns
    -------
    str
        ``known``: plain data, or a part of a tensor. ``trusted``: built for real. ``dangerous``: with it, the pickle
        could make `torch.load` run anything. ``opaque``: any other; what it does when loaded is up to its author.
    """
    plain = "builtins" if module == "__builtin__" else module
    if known or _of_torch(plain, name):
        return KNOWN
    if is_trusted(module, trusted):
        return TRUSTED
    if (
        _below(f"{plain}.{name}", _DANGEROUS_MODULES.split())
        or name.partition(".")[0] in _DANGEROUS_NAMES.get(plain, "").split()
    ):
        return DANGEROUS
    return OPAQUE


def is_trusted(module: str, trusted: Collection[str]) -> bool:
    """Tell whether a module is one of those that are trusted, or lies below one."""
    return _below(module, trusted)


def imported(module: str, name: str, trusted: Collection[str]) -> Any:
    """Import the class or function that a trusted name stands for; None if it is no longer there.

    None too for what a trusted module has only imported itself: it is trusted for what it defines.

    Raises
    ------
    Exception
        Whatever the module raises when it is imported, other than that something is not there.
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


def _below(module: str, above: Collection[str]) -> bool:
    while module:
        if module in above:
            return True
        module = module.rpartition(".")[0]
    return False


def _of_torch(module: str, name: str) -> bool:
    if module in ("torch", "torch.cuda") and name.endswith("Storage"):
        return True
    if (module, name) == ("torch.serialization", "_get_layout"):
        return True
    if module == "torch":
        return name in _TORCH_NAMES.split()
    return module in _TORCH_HOMES and name.startswith(_TORCH_HOMES[module])
