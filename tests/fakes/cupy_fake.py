"""A fake CuPy, on NumPy: what CuPy refuses, it refuses too.

Its arrays do not mix with NumPy's and do not turn into them unasked, and its linear algebra reports a failure
only under ``cupyx.errstate(linalg="raise")``, as in CuPy 14. Of CuPy's functions it has those that the kernels use.
"""

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

# All are in CuPy 14.2. Before a name is added here, look it up there.
FUNCTIONS = """
abs ascontiguousarray bitwise_xor broadcast_to concatenate diagonal einsum empty exp eye isfinite left_shift
matmul maximum minimum ones quantile rint sqrt square stack trace where zeros
"""
# Of a consumer GPU: float64 is 64 times as slow as float32. A test may set another.
ATTRIBUTES = {"SingleToDoublePrecisionPerfRatio": 64}
FREE = 8 * 2**30
TYPES = {"float32", "float64", "nan", "uint8", "uint64"}
_raising = [False]


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # noqa: N801
    """An array that only its own library may touch."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self.values, name)
        return functools.partial(_call, found) if callable(found) and not isinstance(found, type) else _wrapped(found)

    def __array__(self, *unused: Any, **options: Any) -> None:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        # Of NumPy's general functions it knows none, not even matmul, when NumPy's array stands first.
        if method != "__call__" or (ufunc.signature and isinstance(inputs[0], np.ndarray)):
            return NotImplemented
        return _call(ufunc, *inputs, **options)

    def __array_function__(self, function: Callable[..., Any], unused: Any, inputs: Any, options: Any) -> Any:
        return getattr(sys.modules["cupy"], function.__name__)(*inputs, **options)

    def __getitem__(self, place: Any) -> Any:
        return ndarray(np.asarray(self.values[_index(place)]))

    def __setitem__(self, place: Any, value: Any) -> None:
        self.values[_index(place)] = _own(value)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return (ndarray(np.asarray(each)) for each in self.values)

    def __float__(self) -> float:
        return float(self.values)

    def __int__(self) -> int:
        return int(self.values)

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def T(self) -> "ndarray":
        return ndarray(self.values.T)

    def get(self) -> np.ndarray:
        return self.values.copy()


ndarray.__module__ = "cupy"


def _own(value: Any) -> Any:
    """Return NumPy's array of an array of the fake; refuse NumPy's own, as CuPy does."""
    if isinstance(value, ndarray):
        return value.values
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(_own(each) for each in value)
    return value


def _index(place: Any) -> Any:
    # Here alone CuPy takes NumPy's arrays: it copies them.
    parts = place if isinstance(place, tuple) else (place,)
    own = tuple(part.values if isinstance(part, ndarray) else part for part in parts)
    return own if isinstance(place, tuple) else own[0]


def _wrapped(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, list | tuple):
        return type(value)(_wrapped(each) for each in value) if type(value) in (list, tuple) else value
    return value


def _call(function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    own = {name: _own(value) for name, value in options.items()}
    return _wrapped(function(*(_own(value) for value in inputs), **own))


class _Module(types.ModuleType):
    """A module whose functions are NumPy's, for arrays of the fake."""

    def __getattr__(self, name: str) -> Any:
        if name in TYPES:
            return getattr(np, name)
        if name not in FUNCTIONS.split():
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}, as far as is known")
        return functools.partial(_call, getattr(np, name))


def _asarray(values: Any, dtype: Any = None) -> ndarray:
    own = values.values if isinstance(values, ndarray) else values
    array = np.asarray(own, dtype=dtype)
    return values if isinstance(values, ndarray) and array is own else ndarray(array.copy())


def _broadcast_arrays(*arrays: Any) -> list[Any]:
    shape = np.broadcast_shapes(*(array.shape for array in arrays if isinstance(array, ndarray)))
    # Numbers stay numbers.
    return [ndarray(np.broadcast_to(a.values, shape)) if isinstance(a, ndarray) else a for a in arrays]


def _arange(*numbers: int, dtype: Any = None) -> ndarray:
    # CuPy makes numbers of the dtype out of start and step, which NumPy 2.5 refuses of one that does not fit.
    if dtype is not None and np.issubdtype(dtype, np.unsignedinteger) and min(numbers) < 0:
        raise OverflowError(f"Python integer {min(numbers)} out of bounds for {dtype}")
    return ndarray(np.arange(*numbers, dtype=dtype))


def _norm(matrix: ndarray, axis: int) -> ndarray:
    return ndarray(np.linalg.norm(matrix.values, axis=axis))


def _cholesky(matrix: ndarray) -> ndarray:
    try:
        return ndarray(np.linalg.cholesky(matrix.values))
    except np.linalg.LinAlgError:
        if _raising[-1]:
            raise
        return ndarray(np.full_like(matrix.values, np.nan))


@contextlib.contextmanager
def _errstate(linalg: str) -> Iterator[None]:
    _raising.append(linalg == "raise")
    try:
        yield
    finally:
        _raising.pop()


def _solve_triangular(matrix: ndarray, right: ndarray, lower: bool = False, **options: Any) -> ndarray:
    solved = scipy.linalg.solve_triangular(_own(matrix), _own(right), lower=lower, **options)
    # cuBLAS writes columns.
    return ndarray(np.asfortranarray(solved))


def modules() -> dict[str, Any]:
    """Return the modules of the fake CuPy, by name."""
    names = ("cupyx", "cupyx.scipy", "cupyx.scipy.linalg")
    cupy, others = _Module("cupy"), {name: types.ModuleType(name) for name in names}
    stream = types.SimpleNamespace(synchronize=lambda: None)
    error = type("CUDARuntimeError", (RuntimeError,), {})
    pool = types.SimpleNamespace(total_bytes=lambda: 2**30, free_bytes=lambda: 2**30, free_all_blocks=lambda: None)
    cupy.__dict__.update(
        ndarray=ndarray,
        asarray=_asarray,
        broadcast_arrays=_broadcast_arrays,
        arange=_arange,
        linalg=types.SimpleNamespace(cholesky=_cholesky, norm=_norm),
        cuda=types.SimpleNamespace(
            get_current_stream=lambda: stream,
            Device=lambda: types.SimpleNamespace(id=0, attributes=ATTRIBUTES),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=error,
                getDeviceProperties=lambda place: {"name": b"the host"},
                memGetInfo=lambda: (FREE, 2 * FREE),
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 13000,
            ),
        ),
        get_default_memory_pool=lambda: pool,
        __version__="14",
    )
    others["cupyx"].__dict__.update(errstate=_errstate)
    others["cupyx.scipy.linalg"].__dict__.update(solve_triangular=_solve_triangular)
    return {"cupy": cupy, **others}
