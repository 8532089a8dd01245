"""Compile functions, with a cache on disk that may be missing, full or damaged."""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

from numba import njit
from numba.core import caching
from numba.np.ufunc.parallel import threading_layer

from ...forked import check_process, is_forked

Function = TypeVar("Function", bound=Callable[..., Any])


# Numba's functions come without types.
_FunctionCache: Any = caching.FunctionCache
_threading_layer: Any = threading_layer


class _Cache(_FunctionCache):  # type: ignore[misc, unused-ignore]
    """Numba's cache, without which functions are compiled anew: a fault of the disk is no fault of the caller."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # Damaged pickles raise errors of any type.
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function with Numba, without the GIL.

    Parameters
    ----------
    **options
        Of ``numba.njit``, except ``cache`` and ``nogil``.

    Notes
    -----
    The machine code is cached where ``NUMBA_CACHE_DIR`` says, next to the module, or in the user's cache folder. Where
    none of them can be written, every process compiles its own.
    """

    def decorate(function: Function) -> Function:
        dispatcher: Any = njit(nogil=True, **options)(function)
        with suppress(RuntimeError):
            dispatcher._cache = _Cache(function)
        if not options.get("parallel"):
            return dispatcher  # type: ignore[no-any-return]

        @wraps(function)
        def run(*arguments: Any) -> Any:
            # OpenMP, where it is the layer, ends a child that was forked from a process that had started its threads.
            if is_forked("Numba") and _threading_layer() == "omp":
                check_process("Numba")
            return dispatcher(*arguments)

        run.dispatcher = dispatcher  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate
