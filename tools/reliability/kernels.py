"""Compiled kernels over random and hostile arrays, under bounds checks.

Numba checks the indices of what it compiles from Python (``NUMBA_BOUNDSCHECK=1``). What is emitted as LLVM code works
on addresses: inputs and outputs end where a page without access begins, so that a byte read or written behind them ends
the process. What a kernel takes must give what the reference gives.
"""

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

from .common import Plan, Tally, spawned, timed
from .material import Material

FULL = 10_000
_KEPT: list[mmap.mmap] = []
_MOST_KEPT = 500


def run(material: Material, plan: Plan) -> list[Tally]:
    """Run the kernels in a new process, whose Numba checks bounds and keeps its cache to itself."""
    tally = Tally("kernels over random and hostile arrays, under bounds checks")
    checked = {} if plan.short else {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(plan.place("numba"))}
    environment = os.environ | checked
    index, count = 0, plan.count(FULL, least=100)
    ends = time.monotonic() + max(plan.seconds, 1)
    while index < count and (index < 100 or time.monotonic() < ends):
        arguments = [str(plan.seed), str(index), str(count), str(max(1.0, ends - time.monotonic()))]
        done = spawned([sys.executable, "-m", __name__, *arguments], environment, plan.seconds + 300)
        tally.megabytes = max(tally.megabytes, done.megabytes)
        last = index
        for line in done.out.splitlines():
            last, kind, what = int((words := line.split("|", 2))[0]), words[1], words[2]
            tally.tried += 1
            if kind == "refused":
                tally.refused += 1
            elif kind != "equal":
                tally.add(kind, f"{last}: {what}")
        if done.hung or done.died:
            tally.tried += 1
            tally.add("hangs" if done.hung else "crashes", f"behind {last}, signal {done.died}: {done.err[-200:]}")
            index = last + 2
        elif done.code:
            tally.add("foreign", done.err.strip()[-300:])
            return timed([tally])
        else:
            index = count if last + 1 >= count or not done.out else last + 1
            if time.monotonic() >= ends:
                break
    return timed([tally])


def guarded(values: Any) -> Any:
    """Return a copy of an array that ends where a page without access begins."""
    import numpy as np

    size, page = values.nbytes, mmap.PAGESIZE
    whole = -(-max(size, 1) // page) * page
    area = mmap.mmap(-1, whole + page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(area))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(begin + whole), page, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    _KEPT.append(area)
    copy = np.frombuffer(area, "uint8", size, whole - size).view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _main(seed: str, first: str, count: str, seconds: str) -> None:
    from aurevoir.errors import AurevoirError
    from aurevoir.kernels.backends import get_backend
    from aurevoir.kernels.backends.numba import dense, hadamard
    from aurevoir.kernels.backends.numba.outputs import outputs

    for module in (dense, hadamard):
        module.__dict__["outputs"] = lambda n, k, gain: tuple(
            guarded(each) if each.size else each for each in outputs(n, k, gain)
        )
    ends = time.monotonic() + float(seconds)
    for index in range(int(first), int(count)):
        if index >= 100 and time.monotonic() > ends:
            return
        random = Random(f"{seed} {index}")
        name, call = random.choice(_CASES)(random)
        try:
            kind = "equal" if _same(call(get_backend("numba")), lambda: call(get_backend("reference"))) else "lost"  # noqa: B023
        except AurevoirError:
            kind = "refused"
        except Exception as error:
            kind, name = "foreign", f"{name}: {type(error).__name__}: {error}".replace("\n", " ")
        print(f"{index}|{kind}|{name}", flush=True)
        # A parallel kernel has ended: nothing reads these areas any more.
        if len(_KEPT) > _MOST_KEPT:
            _KEPT.clear()


def _same(ours: Any, theirs: Callable[[], Any]) -> bool:
    import numpy as np

    return all(
        np.allclose(one, other, rtol=2e-5, atol=1.0 if np.asarray(one).dtype == np.uint8 else 1e-5)
        for one, other in zip(_tuple(ours), _tuple(theirs()), strict=True)
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


Case = tuple[str, Callable[[Any], Any]]
"""What is called, and the call for a backend."""


def _array(random: Random, shape: tuple[int, ...], dtype: str = "uint8") -> Any:
    """Return random values: guarded, now and then in another order, of another type, or of odd strides."""
    import numpy as np

    drawn = np.random.default_rng(random.getrandbits(32))
    values = drawn.integers(0, 256, shape, "uint8").astype(dtype)
    odd: dict[int, Callable[[], Any]] = {
        0: lambda: values.astype(random.choice(("int8", "float64", "uint16", "bool", "int64", "complex64"))),
        1: lambda: np.asfortranarray(values),
        2: lambda: values[..., ::-1],
        3: lambda: values[::-1],
        4: lambda: values[None] if random.random() < 0.5 else values.reshape(-1),
        5: lambda: np.frombuffer(values.tobytes(), values.dtype).reshape(shape),
    }
    return odd.get(random.randrange(20), lambda: guarded(values))()


def _size(random: Random, most: int = 70) -> int:
    return random.choice((0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, random.randrange(most)))


def _shared(random: Random) -> Case:
    width = _size(random, 300)
    left = _array(random, (_size(random), width))
    wide = width if random.random() < 0.9 else _size(random)
    right = None if random.random() < 0.4 else _array(random, (_size(random), wide))
    what = f"shared_ones {left.shape} {None if right is None else right.shape}"
    return what, lambda backend: backend.shared_ones(left, right)


def _gram(random: Random) -> Case:
    speckle = _array(random, (_size(random), _size(random, 500)))
    return f"gram {speckle.shape}", lambda backend: backend.gram(speckle)


def _dense(random: Random) -> Case:
    width = _size(random)
    bits, entries = _array(random, (_size(random), width)), random.choice(("gaussian", "gaussian", "signs"))
    m = 8 * width if random.random() < 0.8 else random.choice((8 * width - 8, 8 * width + 9, 0, -1, 10**6))
    k, seed = random.choice((_size(random), _size(random), -1)), random.choice((0, 1, 2**32, 2**64 - 1, 7))
    gain = random.choice((None, 0.01, 1.0))
    what = f"dense {bits.shape} {bits.dtype} m={m} k={k} {entries} {gain}"
    return what, lambda backend: backend.dense(bits, m, k, seed, entries, gain)


def _hadamard(random: Random) -> Case:
    width = random.choice((1, 2, 4, 8, 16, 32, 64, 128, 3, 0, _size(random)))
    length = width if random.random() < 0.9 else max(1, width // 2)
    pairs = random.choice((0, 1, 1, 2, 3))
    chains = (2, 3) if random.random() < 0.9 else random.choice(((0, 3), (2, 0), (1, 1)))
    signs = _array(random, (pairs, *chains, length))
    inside = width if random.random() < 0.7 else random.choice((max(0, width - 1), width + 1, 0))
    bits = _array(random, (_size(random), inside))
    k = random.choice((8 * length * pairs, 1, 0, -1, 8 * length * pairs + 1, _size(random)))
    gain = random.choice((None, 0.01, 1.0))
    what = f"hadamard {bits.shape} {bits.dtype} signs {signs.shape} {signs.dtype} k={k}"
    m = 8 * inside
    return what, lambda backend: backend.hadamard(bits, m, k, signs, gain)


def _magnitudes(random: Random) -> Case:
    import numpy as np

    values = _array(random, (_size(random), _size(random)), "float32")
    if values.size and values.dtype == np.float32 and values.flags.writeable and random.random() < 0.3:
        values.reshape(-1)[random.randrange(values.size)] = random.choice((0.0, np.nan, np.inf, -np.inf, 1e-45, 3e38))
    top = random.choice((1.0, 100.0, 255.0, 1e-40, 0.0, float("inf"), float("nan"), 1e39))
    bins = random.choice((1, 2, 128, 2048, 0, -1))
    if random.random() < 0.5:
        return f"largest {values.shape}", lambda backend: _largest(backend, values)
    what = f"count {values.shape} {values.dtype} top={top} bins={bins}"
    return what, lambda backend: backend.count_magnitudes(values, top, bins)


def _largest(backend: Any, values: Any) -> float:
    import numpy as np

    return float(np.nan_to_num(backend.largest_magnitude(values), nan=-1.0))


_CASES = (_shared, _gram, _dense, _hadamard, _magnitudes)


if __name__ == "__main__":
    _main(*sys.argv[1:])
