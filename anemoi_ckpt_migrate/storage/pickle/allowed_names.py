"""Lists of the harmless names of Python, torch and numpy in a pickle; no code.

`torch.load(weights_only=False)` imports every name in a pickle, and calls most of them with arguments chosen by the
pickle. Of these three packages, every name missing here counts as dangerous: they hold thousands of functions that run
commands, open files or unpickle their arguments, too many to list.

The tensor functions, dtypes and storages are those that torch itself allows under ``weights_only=True``
(``torch/_weights_only_unpickler.py``, torch 2.13), with older and newer ones of the same kind.
"""

from __future__ import annotations

_ELEMENTARY = """
abs absolute add addmm amax amin arange argmax argmin bmm cat ceil celu clamp clip concat concatenate cos cosh cumsum
cumprod div divide dropout einsum elu empty erf exp expm1 eye flatten floor full gelu glu hardtanh hstack layer_norm
leaky_relu linspace log log10 log1p log2 log_softmax logaddexp logsumexp logit matmul max maximum mean median mm mul
multiply min minimum neg negative norm ones ones_like permute power pow prelu prod rand randn reciprocal relu relu_
reshape round rrelu rsqrt selu sigmoid sigmoid_ sign silu sin sinh softmax softplus sqrt square squeeze stack std sub
subtract sum swapaxes tan tanh tanh_ transpose tril triu true_divide unsqueeze var vstack where zeros zeros_like
"""
_OWNERS = "_VariableFunctionsClass _VariableFunctions TensorBase _TensorBase"
_DTYPES = """
float16 float32 float64 bfloat16 half float double int1 int2 int3 int4 int5 int6 int7 int8 int16 int32 int64 uint1 uint2
uint3 uint4 uint5 uint6 uint7 uint8 uint16 uint32 uint64 short int long bool complex32 complex64 complex128 cfloat
cdouble chalf quint8 qint8 qint32 quint4x2 quint2x4 bits1x8 bits2x4 bits4x2 bits8 bits16 float8_e4m3fn
float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2
"""
_STORAGES = """
BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage DoubleStorage FloatStorage
HalfStorage IntStorage LongStorage QInt32Storage QInt8Storage QUInt2x4Storage QUInt4x2Storage QUInt8Storage
ShortStorage TypedStorage UntypedStorage
"""
_TENSORS = """
BFloat16Tensor BoolTensor ByteTensor CharTensor DoubleTensor FloatTensor HalfTensor IntTensor LongTensor ShortTensor
"""
_NUMPY_SCALARS = """
bool bool_ byte ubyte short ushort intc uintc int_ uint long ulong longlong ulonglong intp uintp int8 int16 int32 int64
uint8 uint16 uint32 uint64 half single double longdouble float16 float32 float64 float96 float128 float_ csingle cdouble
clongdouble complex64 complex128 complex192 complex256 str_ bytes_ object_ void datetime64 timedelta64 generic number
integer signedinteger unsignedinteger inexact floating complexfloating flexible character
"""
_MULTIARRAY = "_reconstruct scalar"
_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"

HARMLESS: dict[str, str] = {
    # Python. A name that only calls or wraps other names of the pickle adds no danger of its own.
    "builtins": """bool int float complex str bytes bytearray list tuple set frozenset dict range slice object
        Ellipsis NotImplemented abs all any divmod enumerate iter len max min reversed round sorted sum zip""",
    "functools": "partial reduce",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "_codecs": "encode",
    "collections": "OrderedDict defaultdict Counter deque ChainMap UserDict UserList UserString",
    "datetime": "date datetime time timedelta timezone",
    "_datetime": "date datetime time timedelta timezone",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
    "time": "struct_time",
    "decimal": "Decimal Context DecimalTuple",
    "_decimal": "Decimal Context DecimalTuple",
    "fractions": "Fraction",
    "uuid": "UUID SafeUUID",
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "argparse": "Namespace",
    "types": "SimpleNamespace GenericAlias UnionType NoneType EllipsisType NotImplementedType MappingProxyType",
    "typing": """Any Union Optional Callable Literal ClassVar Final Annotated Type List Dict Tuple Set FrozenSet
        Sequence MutableSequence Mapping MutableMapping Iterable Iterator Collection Container Hashable Sized Generic
        DefaultDict OrderedDict Counter Deque ChainMap NoReturn Never Self""",
    "collections.abc": """Callable Sequence MutableSequence Mapping MutableMapping Iterable Iterator Collection
        Container Hashable Sized Set MutableSet""",
    "_operator": "getitem or_ add sub mul truediv floordiv mod neg pos eq ne lt le gt ge and_ not_ xor",
    "operator": "getitem or_ add sub mul truediv floordiv mod neg pos eq ne lt le gt ge and_ not_ xor",
    "math": """acos asin atan atan2 ceil copysign cos cosh degrees erf exp expm1 fabs floor fmod gcd hypot isclose
        isfinite isinf isnan log log10 log1p log2 radians sin sinh sqrt tan tanh trunc""",
    "enum": "Enum IntEnum StrEnum Flag IntFlag auto",
    "dataclasses": "_MISSING_TYPE _HAS_DEFAULT_FACTORY_CLASS",
    "inspect": "_empty _ParameterKind Parameter Signature",
    "logging": "getLogger Logger RootLogger",
    "contextlib": "nullcontext",
    "random": "Random",
    "re": "_compile RegexFlag",
    "itertools": "count cycle repeat chain islice",
    "array": "array _array_reconstructor",
    "io": "BytesIO StringIO",
    "_io": "BytesIO StringIO",
    "http": "HTTPStatus",
    "signal": "Signals",
    "ipaddress": "IPv4Address IPv6Address IPv4Network IPv6Network IPv4Interface IPv6Interface",
    # torch.
    "torch": f"""{_DTYPES} {_STORAGES} {_TENSORS} {_ELEMENTARY} Tensor Size device Generator
        strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc _mkldnn jagged
        per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric
        per_channel_affine_float_qparams contiguous_format channels_last channels_last_3d preserve_format""",
    "torch.cuda": f"{_STORAGES} {_TENSORS}",
    "torch._C": " ".join(f"{owner}.{name}" for owner in _OWNERS.split() for name in _ELEMENTARY.split())
    + f" Generator {_OWNERS}",
    "torch._C._nn": "gelu gelu_ silu silu_ softplus leaky_relu hardtanh hardswish mish relu6 linear elu_ log_sigmoid",
    "torch._utils": """_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter
        _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor _rebuild_sparse_csr_tensor
        _rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_wrapper_subclass _rebuild_xla_tensor
        _rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor""",
    "torch._tensor": "Tensor _rebuild_from_type _rebuild_from_type_v2",
    "torch.storage": "TypedStorage UntypedStorage",
    "torch.nn.parameter": "Parameter Buffer UninitializedParameter UninitializedBuffer",
    "torch.serialization": "_get_layout",
    "torch.torch_version": "TorchVersion",
    # numpy: arrays, scalars and the states of generators.
    "numpy": f"{_NUMPY_SCALARS} {_ELEMENTARY} ndarray dtype matrix record recarray",
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "numpy.core._multiarray_umath": _MULTIARRAY,
    "numpy._core._multiarray_umath": _MULTIARRAY,
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.rec": "recarray record",
    "numpy.core.records": "recarray record",
    "numpy._core.records": "recarray record",
    "numpy.ma": "MaskedArray",
    "numpy.ma.core": "MaskedArray MaskedConstant _mareconstruct",
    "numpy.random._pickle": "__randomstate_ctor __bit_generator_ctor __generator_ctor",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "numpy.random.mtrand": "RandomState",
    "numpy.random._generator": "Generator",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
}

# torch and numpy: modules with the classes of whole models, optimizers and the like. Their behaviour when built is up
# to their authors, as for other libraries; none of them runs its arguments.
CLASSES = """
torch.nn torch.optim torch.amp torch.cuda.amp torch.ao.nn torch.ao.quantization.observer
torch.ao.quantization.fake_quantize torch.ao.quantization.qconfig torch.ao.quantization.stubs
torch.nested._internal.nested_tensor torch.distributions torch.utils.data.dataset torch.utils.data.sampler
torch.utils.data.dataloader torch.utils.data.distributed torch.utils.hooks torch.distributed.tensor._api
torch.distributed.tensor._dtensor_spec torch.distributed.tensor.placement_types torch.distributed._tensor.api
torch.distributed._tensor.placement_types torch.distributed.device_mesh torch.distributed._mesh_layout
torch.distributed._shard.sharded_tensor torch.distributed._shard.sharding_spec torch.distributed._shard.metadata
torch.distributed.fsdp.api torch.distributed.fsdp.fully_sharded_data_parallel torch.distributed.checkpoint.metadata
numpy.dtypes numpy.polynomial
"""
FUNCTIONS = "torch.nn.functional torch.nn.init torch.return_types"
SINGLE = """
torch.ScriptObject torch._C.ScriptObject torch.amp.grad_scaler._refresh_per_optimizer_state
torch.cuda.amp.grad_scaler._refresh_per_optimizer_state torch.utils.data._utils.collate.default_collate
torch.nested._internal.nested_tensor._rebuild_njt torch._dynamo.decorators._DimRange
"""

# Python, in addition to `sys.stdlib_module_names`: modules of other versions or of the installation.
PYTHON = """
__builtins__ popen2 test _testcapi _testinternalcapi __phello__ annotationlib compression _interpreters _interpqueues
_interpchannels _xxsubinterpreters _xxinterpchannels _pyrepl _colorize _android_support _ios_support _apple_support
_aix_support _osx_support _winapi _overlapped _remote_debugging
asynchat asyncore imp smtpd distutils lib2to3 aifc audioop cgi cgitb chunk crypt imghdr mailcap msilib nis nntplib
ossaudiodev pipes sndhdr spwd sunau telnetlib uu xdrlib binhex formatter parser symbol macpath dummy_threading
_dummy_thread _bootlocale _posixshmem
"""
