"""Array types with dtype and shape, for NumPy and CuPy.

For mypy all are NumPy arrays, whose interface CuPy follows. The tests check dtypes and shapes at run time
(jaxtyping); within a call each name has one length. Unvalidated user input is an `Array`, so that the package's
own errors describe what is wrong with it.
"""

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float, Float32, Float64, Int8, Int64, Integer, Real, Shaped, UInt8

if TYPE_CHECKING:
    import numpy as np

    _Library = np.ndarray[Any, np.dtype[Any]]
    Array = _Library

    class ArrayLibrary(ModuleType):
        """The module ``numpy`` or ``cupy``, whose functions return arrays."""

        linalg: Any
        nan: float

        def __getattr__(self, name: str) -> Callable[..., Array]: ...

else:
    _Library = Any
    Array = Shaped[Any, "..."]  # of NumPy, or of CuPy on a GPU; any dtype and shape
    ArrayLibrary = ModuleType

# Features and their packed signs, the first of eight as the highest bit of a byte.
Features = Real[_Library, "n m"] | Bool[_Library, "n m"]
Bits = UInt8[_Library, "n bytes"]
OtherBits = UInt8[_Library, "others bytes"]
AnyBits = UInt8[_Library, "others other_bytes"]
TrainingBits = UInt8[_Library, "rows bytes"]

# Exact inner products: of rows with others, of rows with themselves, of each row with itself.
Counts = Int64[_Library, "n others"]
SquareCounts = Int64[_Library, "n n"]
RowCounts = Int64[_Library, "n"]
OtherRowCounts = Int64[_Library, "others"]

# Pooled features: means of channels, of which a few hundred to some thousand are one image's. They may be of several
# layers, of which a kernel reads the last, whose channels it has, or all.
ChannelMeans = Float32[_Library, "n pooled"]
Channels = Float64[_Library, "channels"]
Standardized = Float32[_Library, "n channels"]
OtherStandardized = Float32[_Library, "others channels"]
TrainingChannels = Float32[_Library, "rows channels"]
SimilarityRows = Float64[_Library, "n others"]
SelfSimilarities = Float64[_Library, "n"]
Similarities = Float64[_Library, "n"]
Indices = Int64[_Library, "n"]

# Outputs of projections and cameras. The intensities of an OPU are the bytes of its own camera.
Intensities = Real[_Library, "n k"]
Speckle = UInt8[_Library, "n k"]
OtherSpeckle = UInt8[_Library, "others k"]
IntensitiesOfAnyShape = Real[_Library, "*shape"]
SpeckleOfAnyShape = UInt8[_Library, "*shape"]
Observed = Float32[_Library, "n k"] | UInt8[_Library, "n k"]

# Random numbers of projections.
RandomBytes = UInt8[_Library, "*counters 16"]
Levels = Int8[_Library, "256"]
GaussianRows = Int8[_Library, "rows 2 m"]
SignRows = UInt8[_Library, "rows 2 bytes"]
ChainSigns = Int8[_Library, "pairs 2 3 p"]
PackedChainSigns = UInt8[_Library, "pairs 2 3 sign_bytes"]

# Activations of any shape.
Magnitudes = Float[_Library, "..."]
BinCounts = Int64[_Library, "bins"]

# The ridge: n rows, k features, c targets, a alphas.
Labels = Integer[_Library, "n"]
LabelSets = Integer[_Library, "n classes"] | Bool[_Library, "n classes"]
Gram = Real[_Library, "n n"]
Targets = Real[_Library, "n c"]
RowWeights = Float[_Library, "n"]
Alphas = Float64[_Library, "a"]
Coefficients = Float64[_Library, "rows c"]
Weights = Float64[_Library, "k c"]
Intercept = Float64[_Library, "c"]
Scores = Float64[_Library, "n c"]
LooScores = Float32[_Library, "n c"]
PValues = Float64[_Library, "images c"]

# Linear systems.
SquareMatrix = Float[_Library, "n n"]
LandmarkKernel = Float64[_Library, "landmarks landmarks"]
FloatRows = Float[_Library, "rows n"]
StackedTargets = Float[_Library, "n #a c"]
Solutions = Float[_Library, "n a c"]
Diagonals = Float[_Library, "n a"]
QuadraticForms = Float[_Library, "rows a"]
FeatureSums = Real[_Library, "k"]
FeatureProducts = Real[_Library, "k k"]
FeatureCrosses = Real[_Library, "k c"]
TargetSums = Real[_Library, "c"]
