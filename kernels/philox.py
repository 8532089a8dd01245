"""Philox4x32-10, a counter-based random number generator.

J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011). Its output depends only on
seed and counter, whatever the order of blocks, the machine and the array library.
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
        Words of the counters, broadcast together.
    seed : int
        The key, of 64 bits.
    xp : module, optional
        ``numpy`` or ``cupy``.

    Returns
    -------
    drawn : uint8 array of the broadcast shape with an additional last axis of 16
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
