"""What is still to be done to the values of a stored tensor before they are used, channel by channel."""

import math
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Chain:
    """``clip(gain * x + shift, low, high)``, and where there is a scale its int8 level.

    Attributes
    ----------
    gain, shift : float64 array of shape (channels,) or ()
    low, high : float
    scale : float or None
        Of the levels from -128 to 127 to which values are rounded, ties to even; None where they stay floats.
    """

    gain: np.ndarray = field(default_factory=lambda: np.ones(()))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(()))
    low: float = -math.inf
    high: float = math.inf
    scale: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether values are used as they are."""
        return self.is_affine and bool((self.gain == 1).all() and (self.shift == 0).all())

    @property
    def is_affine(self) -> bool:
        """Whether values are neither clipped nor rounded."""
        return self.scale is None and self.low == -math.inf and self.high == math.inf

    def scaled(self, gain: np.ndarray, shift: np.ndarray) -> "Chain | None":
        """Return the chain with a gain and a shift at its end, or None if it clips or rounds before."""
        return replace(self, gain=self.gain * gain, shift=self.shift * gain + shift) if self.is_affine else None

    def clipped(self, low: float, high: float) -> "Chain | None":
        """Return the chain with limits at its end, or None if it rounds before."""
        if self.scale is not None:
            return None
        # Beyond the other's limits lies one of them, as clipping twice has it.
        lowest, highest = (min(max(limit, low), high) for limit in (self.low, self.high))
        return replace(self, low=lowest, high=highest)

    def rounded(self, scale: float) -> "Chain | None":
        """Return the chain that rounds to levels at its end, or None if it rounds before, to others."""
        return replace(self, scale=scale) if self.scale in (None, scale) else None

    def of_levels(self, stored: float) -> "tuple[np.ndarray, np.ndarray, float, float]":
        """Return gain, shift and limits, in levels where it rounds, of stored values that stand for `stored` each."""
        unit = self.scale or 1.0
        low, high = (self.low / unit, self.high / unit)
        if self.scale is not None:
            low, high = max(low, -128.0), min(high, 127.0)
        return self.gain * stored / unit, self.shift / unit, low, high
