"""Measures of fidelity."""

import numpy as np
import pytest

from aurevoir.calibration.fidelity import relative_error, sign_agreement
from aurevoir.errors import AurevoirError


def test_fidelity_measures():
    reference = np.array([[1.0, -1.0, 0.0, 2.0]])
    features = np.array([[1.0, 1.0, -0.5, 2.0]])
    assert sign_agreement(features, reference) == 0.75
    assert relative_error(features, reference) == pytest.approx(np.sqrt(4.25 / 6))
    with pytest.raises(AurevoirError, match="nan or inf"):
        relative_error(np.array([np.nan]), reference[0, :1])
