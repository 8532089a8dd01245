"""Cameras convert intensities to uint8 speckle."""

from dataclasses import dataclass, field
from numbers import Real

import numpy as np

from ..errors import UsageError
from .array_types import IntensitiesOfAnyShape, SpeckleOfAnyShape
from .arrays import namespace

# Fraction of a sample's intensities that exposure saturates.
_SATURATED = 1e-3
_LARGEST = float(np.finfo("float32").max)


def expose(intensities: IntensitiesOfAnyShape, gain: float) -> SpeckleOfAnyShape:
    """Return the speckle that an 8-bit camera records of float32 intensities: uint8 of the same shape."""
    xp = namespace(intensities)
    return xp.minimum(xp.rint(intensities * xp.float32(gain)), 255).astype("uint8")


@dataclass(frozen=True)
class Camera:
    """An 8-bit camera: ``speckle = min(255, round(intensity * gain))``."""

    gain: float

    def __post_init__(self) -> None:
        if not isinstance(self.gain, Real) or not 0 < self.gain <= _LARGEST:
            raise UsageError(
                f"gain {self.gain!r} of a camera is not a positive number within float32; give one above 0"
            )

    @classmethod
    def exposed(cls, intensities: IntensitiesOfAnyShape) -> "Camera":
        """Set the exposure so that one in a thousand intensities of the sample saturates."""
        xp = namespace(intensities)
        white = float(xp.quantile(intensities, 1 - _SATURATED)) if intensities.size else 0.0
        return cls(min(255 / white, _LARGEST) if white > 0 else 1.0)

    def expose(self, intensities: IntensitiesOfAnyShape) -> SpeckleOfAnyShape:
        """Return speckle: uint8 of the same shape."""
        return expose(intensities, self.gain)


@dataclass(frozen=True)
class NoisyCamera(Camera):
    """A camera with shot noise and read-out noise, to study their effect.

    Parameters
    ----------
    gain : float
    full_well : float
        Electrons at saturation; their number has a Poisson distribution.
    readout : float
        Standard deviation of the read-out noise, in electrons.
    random : numpy.random.Generator
    """

    full_well: float = 10_000.0
    readout: float = 0.0
    random: np.random.Generator = field(default_factory=np.random.default_rng, compare=False)

    def expose(self, intensities: IntensitiesOfAnyShape) -> SpeckleOfAnyShape:
        """Return speckle: uint8 of the same shape."""
        electrons = self.random.poisson(intensities * (self.gain * self.full_well / 255))
        read = electrons + self.random.normal(scale=self.readout, size=electrons.shape)
        return np.clip(np.rint(read * (255 / self.full_well)), 0, 255).astype("uint8")
