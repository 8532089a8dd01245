"""How near a low-precision engine stays to fp32."""

import numpy as np

from ..errors import AurevoirError


def sign_agreement(features: np.ndarray, reference: np.ndarray) -> float:
    """Return the share of features that are on the same side of zero, strictly positive or not."""
    return float(((features > 0) == (reference > 0)).mean())


def relative_error(features: np.ndarray, reference: np.ndarray) -> float:
    """Return |features - reference| / |reference|, Euclidean norms over all entries.

    Raises
    ------
    AurevoirError
        If a feature is nan or infinite.
    """
    if not np.isfinite(features).all():
        raise AurevoirError("the engine's features hold nan or inf; its precision overflows on these images")
    difference = np.linalg.norm(np.asarray(features, "float64") - reference)
    return float(difference / max(np.linalg.norm(np.asarray(reference, "float64")), np.finfo("float64").tiny))
