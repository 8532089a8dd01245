"""Cameras: intensities in, uint8 speckle out."""

from dataclasses import dataclass, field

import numpy as np

from .array_types import IntensitiesOfAnyShape, SpeckleOfAnyShape
from .arrays import namespace

# Exposure puts this share of a sample's intensities above white.
_SATURATED = 1e-3


def expose(intensities: IntensitiesOfAnyShape, gain: float) -> SpeckleOfAnyShape:
    """Return the speckle that an 8-bit camera makes of float32 intensities: uint8 of the same shape."""
    xp = namespace(intensities)
    return xp.minimum(xp.rint(intensities * xp.float32(gain)), 255).astype("uint8")


@dataclass(frozen=True)
class Camera:
    """An 8-bit camera: ``speckle = min(255, round(intensity * gain))``."""

    gain: float

    @classmethod
    def exposed(cls, intensities: IntensitiesOfAnyShape) -> "Camera":
        """Fit the exposure: one intensity of a thousand in the sample lies above white."""
        xp = namespace(intensities)
        white = float(xp.quantile(intensities, 1 - _SATURATED)) if intensities.size else 0.0
        return cls(255 / white if white > 0 else 1.0)

    def expose(self, intensities: IntensitiesOfAnyShape) -> SpeckleOfAnyShape:
        """Return speckle: uint8 of the same shape."""
        return expose(intensities, self.gain)


@dataclass(frozen=True)
class NoisyCamera(Camera):
    """A camera that counts photons: shot noise and read-out noise, to study what they cost.

    Parameters
    ----------
    gain : float
    full_well : float
        Electrons at white; their number varies as a Poisson variable does.
    readout : float
        Standard deviation of what reading adds, in electrons.
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
