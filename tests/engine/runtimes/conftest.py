"""What the tests of runtimes share."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def many(pixels):
    return np.concatenate([np.roll(pixels, shift, axis=1) for shift in range(30)])
