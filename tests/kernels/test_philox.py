import numpy as np
import pytest

from aurevoir.kernels.philox import philox


# The known answers that come with the generator's reference implementation (Random123, kat_vectors).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_draws_the_known_answers(counter, key, expected):
    drawn = philox(tuple(np.array(word) for word in counter), key)
    assert drawn.dtype == np.uint8
    assert [f"{word:08x}" for word in drawn.view("<u4")] == expected.split()


def test_counters_are_broadcast():
    drawn = philox((np.arange(3), np.arange(2)[:, None], 0, 7), 5)
    assert drawn.shape == (2, 3, 16)
    np.testing.assert_array_equal(drawn[1, 2], philox((2, 1, 0, 7), 5))
