"""Compile functions, with a cache on disk that may be missing, full or damaged."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from numba import njit
from numba.core import caching
from numba.core.compiler_lock import global_compiler_lock

from ....kept import environment
from .ahead import is_compiling, kernels_folder

Function = TypeVar("Function", bound=Callable[..., Any])


# Numba's functions come without types.
_FunctionCache: Any = caching.FunctionCache
_FunctionCacheImpl: Any = _FunctionCache._impl_class
# Before 0.62 the name of this class had an underscore.
_UserWideCacheLocator: Any = getattr(caching, "UserWideCacheLocator", None) or caching._UserWideCacheLocator  # type: ignore[attr-defined]
_PAUSE = 0.02

if hasattr(os, "register_at_fork"):
    # A child that was forked while a thread compiled would wait for that thread, which it does not have.
    _LOCK: Any = global_compiler_lock
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class _Locator(_UserWideCacheLocator):  # type: ignore[misc, unused-ignore]
    """A place in the user's cache, where that is."""

    def __init__(self, function: Any, file: str) -> None:
        super().__init__(function, file)
        folder = kernels_folder()
        assert folder is not None
        self._cache_path = str(folder / self.get_suitable_cache_subpath(file))

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        return None if kernels_folder() is None else super().from_function(function, file)


class _Impl(_FunctionCacheImpl):  # type: ignore[misc, unused-ignore]
    # The user's NUMBA_CACHE_DIR comes first, then ours, then where Numba looks else.
    _locator_classes = [*_FunctionCacheImpl._locator_classes]  # noqa: RUF012
    _locator_classes.insert(1, _Locator)


class _Cache(_FunctionCache):  # type: ignore[misc, unused-ignore]
    """Numba's cache, without which functions are compiled anew: a fault of the disk is no fault of the caller."""

    _impl_class = _Impl
    lost = False

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # Numba looks at a function's own file alone, and not at the modules whose code is compiled into it.
        return (*super()._index_key(sig, codegen), environment()["sources"])

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        while True:
            coming = is_compiling(self._py_func.__module__)
            found = self._loaded(sig, target_context)
            if found is not None or not coming:
                return found
            time.sleep(_PAUSE)

    def _loaded(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # Damaged pickles raise errors of any type.
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            _Cache.lost = True


def is_all_kept() -> bool:
    """Return whether all that this process has compiled is in the cache."""
    return not _Cache.lost


def compiled(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function with Numba, without the GIL.

    Parameters
    ----------
    **options
        Of ``numba.njit``, except ``cache`` and ``nogil``.

    Notes
    -----
    The machine code is cached where ``NUMBA_CACHE_DIR`` says, in the user's cache (see `cache`), next to the module, or
    in Numba's own folder. Where none of them can be written, every process compiles its own. What a child process
    compiles at the time (see `ahead`) is waited for.
    """

    def decorate(function: Function) -> Function:
        dispatcher: Any = njit(nogil=True, **options)(function)
        with suppress(RuntimeError):
            dispatcher._cache = _Cache(function)
        return dispatcher  # type: ignore[no-any-return]

    return decorate
