"""Philox4x32-10, a counter-based generator: what it draws depends on seed and counter alone.

J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011). The same bits come from
any order of blocks, any machine and any array library.
"""

from .array_types import Array, ArrayLibrary, RandomBytes
from .arrays import NUMPY

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def philox(counters: tuple[Array | int, ...], seed: int, xp: ArrayLibrary = NUMPY) -> RandomBytes:
    """Return 16 random bytes for each counter.

    Parameters
    ----------
    counters : four arrays of integers, or integers, below 2^32
        The words of the counters; they are broadcast together.
    seed : int
        The 64 bits of the key.
    xp : module, optional
        ``numpy`` or ``cupy``.

    Returns
    -------
    drawn : uint8 array of the common shape and a last axis of 16
    """
    words = [xp.asarray(word).astype("uint64") for word in xp.broadcast_arrays(*counters)]
    keys = [seed & WORD, seed >> 32 & WORD]
    for _ in range(ROUNDS):
        left, right = (words[index] * xp.uint64(by) for index, by in zip((0, 2), MULTIPLIERS, strict=True))
        words = [
            (right >> 32) ^ words[1] ^ xp.uint64(keys[0]),
            right & WORD,
            (left >> 32) ^ words[3] ^ xp.uint64(keys[1]),
            left & WORD,
        ]
        keys = [(key + step) & WORD for key, step in zip(keys, KEY_STEPS, strict=True)]
    return xp.stack(words, axis=-1).astype("<u4").view("uint8")
