"""A readout as ONNX nodes: from float features to scores, probabilities and label."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from scipy.linalg import hadamard

from ..calibration.graph.edit import constant
from ..engine.manifest import CLASSIFIER_OUTPUTS
from ..engine.runtimes.base import FLOAT32_PREFIX
from ..errors import UsageError
from ..kernels.bits import popcount, unpack
from ..kernels.projection import Dense, DenseSigns, Hadamard, Projection
from ..kernels.random_matrix import gaussian_rows, hadamard_signs, sign_rows
from ..kernels.readout import BitsReadout, ExactReadout, Readout, SpeckleReadout

LARGEST = 1 << 28
"""Bytes of one matrix in a loaded graph, at most; those of bits take one byte an entry there."""
_RADIX = 16
"""Length of the small Walsh-Hadamard transforms that a long one is made of."""


def append_readout(
    model: onnx.ModelProto, readout: Readout, m: int, temperature: float, multilabel: bool, packed: bool
) -> None:
    """Append a readout to a graph with the output ``features``, which its outputs replace, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        Its output ``features`` is float32 of shape (batch, m).
    readout : Readout
    m : int
    temperature : float
        Of the probabilities; see `kernels.probability`.
    multilabel : bool
    packed : bool
        Whether matrices of bits are stored packed, and unpacked by the runtime as it loads the graph.

    Raises
    ------
    UsageError
        If the projection is optical hardware or its simulator, or a matrix exceeds `LARGEST`.
    """
    assert isinstance(readout, BitsReadout | ExactReadout | SpeckleReadout)
    nodes = _Nodes(model, packed)
    scores, probabilities, label = CLASSIFIER_OUTPUTS
    signs = nodes("Greater", "features", nodes.constant("zero", np.float32(0)))
    linear = _linear(nodes, nodes("Cast", signs, to=TensorProto.FLOAT), readout, m)
    nodes("Add", linear, nodes.single("intercept", readout.intercept), out=scores)
    sharpness = nodes.constant("sharpness", np.float32((2 if multilabel else 1) / temperature))
    scaled = nodes("Mul", scores, sharpness)
    if multilabel:
        nodes("Sigmoid", scaled, out=probabilities)
        positive = nodes("Greater", scores, nodes.constant("zero", np.float32(0)))
        nodes("Cast", positive, to=TensorProto.INT64, out=label)
    else:
        nodes("Softmax", scaled, axis=1, out=probabilities)
        nodes("ArgMax", scores, axis=1, keepdims=0, out=label)
    rows = ["batch", len(readout.intercept)]
    shapes = {scores: rows, probabilities: rows, label: rows if multilabel else rows[:1]}
    del model.graph.output[:]
    for name, shape in shapes.items():
        kind = TensorProto.INT64 if name == label else TensorProto.FLOAT
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))


class _Nodes:
    """Appends nodes and constants to a graph, under names of its own."""

    def __init__(self, model: onnx.ModelProto, packed: bool) -> None:
        self.model, self.packed = model, packed
        self._count = 0

    def __call__(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node, and return the name of its output."""
        node = self._name(kind)
        self.model.graph.node.append(helper.make_node(kind, inputs, [out or node], name=node, **attributes))
        return out or node

    def constant(self, name: str, value: Any) -> str:
        """Add a constant, and return its name."""
        return constant(self.model, self._name(name), np.asarray(value))

    def single(self, name: str, value: np.ndarray) -> str:
        """Add a constant as float32."""
        require_small(4 * value.size, f"{name} of shape {value.shape}")
        return self.constant(name, value.astype("float32"))

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape to a shape behind a free first length."""
        return self("Reshape", x, self.constant("shape", np.array([-1, *shape])))

    def sum(self, x: str, axis: int, keepdims: int = 0) -> str:
        """Sum along an axis."""
        return self("ReduceSum", x, self.constant("axes", np.array([axis])), keepdims=keepdims)

    def first(self, x: str, count: int, length: int) -> str:
        """Return the first elements of each row of so many."""
        if count == length:
            return x
        ends = (self.constant(name, np.array([at])) for name, at in (("start", 0), ("end", count), ("axis", 1)))
        return self("Slice", x, *ends)

    def _name(self, name: str) -> str:
        self._count += 1
        return f"{FLOAT32_PREFIX}{name}_{self._count}"


def require_small(size: int, what: str) -> None:
    """Raise UsageError if a matrix of so many bytes is too large for a graph."""
    if size > LARGEST:
        raise UsageError(
            f"{what} takes {size / 1e6:,.0f} MB in a graph, and at most {LARGEST / 1e6:,.0f} MB are put into one; fit "
            "with projection 'hadamard' or 'none', whose graphs stay small"
        )


def _linear(nodes: _Nodes, bits: str, readout: BitsReadout | ExactReadout | SpeckleReadout, m: int) -> str:
    """Append nodes from the bits, float32 of shape (batch, m), to scores less the intercept."""
    if isinstance(readout, ExactReadout):
        return _exact(nodes, bits, readout, m)
    if isinstance(readout, SpeckleReadout):
        bits = _speckle(nodes, bits, readout)
    return nodes("MatMul", bits, nodes.single("weights", readout.weights))


def _exact(nodes: _Nodes, bits: str, readout: ExactReadout, m: int) -> str:
    """Append the exact kernel |x|^2 |x'|^2 + <x, x'>^2 with the training rows x', times their coefficients.

    The coefficients sum to zero, so that a square may lose a constant: u^2 - v^2 = (u - v) (u + v), with v near most
    u, keeps more digits in float32.
    """
    n, norms, coefficients = len(readout.rows), popcount(readout.rows), readout.coefficients
    require_small(n * m, f"the exact kernel with {n:,d} training images of {m:,d} bits")
    rows = unpack(readout.rows, m)
    total = rows.sum(axis=0, dtype="float64")
    middle = nodes.constant("middle", np.float32(np.rint(total @ total / n**2)))
    counts = _times_bits(nodes, bits, rows, 0)
    squares = nodes("Mul", nodes("Sub", counts, middle), nodes("Add", counts, middle))
    kernel = nodes("MatMul", squares, nodes.single("coefficients", coefficients))
    rates = nodes.single("rates", (norms @ coefficients)[None])
    return nodes("Add", kernel, nodes("Mul", nodes.sum(bits, 1, keepdims=1), rates))


def _speckle(nodes: _Nodes, bits: str, readout: SpeckleReadout) -> str:
    """Append a projection and a camera: its speckle less 128, as float32 of shape (batch, k)."""
    seen = nodes(
        "Mul", _intensities(nodes, bits, readout.projection), nodes.single("gain", np.array(readout.camera.gain))
    )
    speckle = nodes("Min", nodes("Round", seen), nodes.constant("white", np.float32(255)))
    return nodes("Sub", speckle, nodes.constant("grey", np.float32(128)))


def _intensities(nodes: _Nodes, bits: str, projection: Projection) -> str:
    """Append a projection |Rx|^2: float32 of shape (batch, k)."""
    if isinstance(projection, Hadamard):
        return _hadamard(nodes, bits, projection)
    if not isinstance(projection, Dense | DenseSigns):
        raise UsageError(
            f"projection {projection.kind!r} is hardware, or simulates it in Python, and no graph holds it; fit with "
            "another projection"
        )
    m, k, seed = projection.m, projection.k, projection.seed
    require_small(2 * m * k, f"the {projection.kind} matrix of m = {m:,d} features and k = {k:,d} components")
    if isinstance(projection, Dense):
        sums = _times(nodes, bits, nodes.constant("R", gaussian_rows(slice(0, k), m, seed).reshape(2 * k, m).T))
    else:
        ones = unpack(sign_rows(slice(0, k), m, seed).reshape(2 * k, -1), m)
        sums = _times_bits(nodes, bits, ones, -1)
    return nodes.sum(nodes.reshape(nodes("Mul", sums, sums), k, 2), 2)


def _times_bits(nodes: _Nodes, bits: str, ones: np.ndarray, low: int) -> str:
    """Append the exact products with rows of ones and zeros, for which `low` stands: of shape (batch, rows)."""
    count = len(ones)
    if not nodes.packed:
        return _times(nodes, bits, nodes.constant("rows", np.where(ones.T > 0, 1, low).astype("int8")))
    packed = np.packbits(ones.T, axis=1)
    table = np.where(np.unpackbits(np.arange(256, dtype="uint8")[:, None], axis=1) > 0, 1, low).astype("int8")
    indices = nodes("Cast", nodes.constant("packed", packed), to=TensorProto.INT32)
    unpacked = nodes("Gather", nodes.constant("bits_of_byte", table), indices, axis=0)
    width = 8 * packed.shape[1]
    return nodes.first(_times(nodes, bits, nodes.reshape(unpacked, width)), count, width)


def _times(nodes: _Nodes, bits: str, matrix: str) -> str:
    """Append the product with an int8 matrix of shape (m, columns), in integers where the runtime can: exact."""
    one, zero = nodes.constant("one", np.float32(1)), nodes.constant("zero", np.int8(0))
    levels = nodes("DequantizeLinear", nodes("QuantizeLinear", bits, one, zero), one, zero)
    return nodes("MatMul", levels, nodes("DequantizeLinear", matrix, one, zero))


def _hadamard(nodes: _Nodes, bits: str, projection: Hadamard) -> str:
    """Append the chains of Walsh-Hadamard transforms, without their norm until the end, where it is a power of two."""
    m, k, p = projection.m, projection.k, projection.length
    signs = hadamard_signs(m, k, projection.seed)
    pairs = len(signs)
    require_small(4 * signs.size, f"the hadamard projection of m = {m:,d} features to k = {k:,d} components")
    chains = signs.reshape(2 * pairs, 3, p)
    if p > m:
        bits = nodes("Pad", bits, nodes.constant("padding", np.array([0, 0, 0, p - m])))
    x, kept = nodes.reshape(bits, 1, p), p
    for step in range(3):
        flips = nodes("Cast", nodes.constant("flips", chains[:, step]), to=TensorProto.FLOAT)
        x = nodes("Mul", x, flips)
        # Of the last transform of a single pair, only what contains the first k outputs is computed.
        x, kept = _walsh_hadamard(nodes, x, p, k if step == 2 and pairs == 1 else p)
        x = nodes.reshape(x, 2 * pairs, kept)
    squares = nodes.reshape(nodes("Mul", x, x), pairs, 2, kept)
    sums = nodes("Mul", nodes.sum(squares, 2), nodes.constant("norm", np.float32(float(p) ** -3)))
    return nodes.first(nodes.reshape(sums, pairs * kept), k, pairs * kept)


def _walsh_hadamard(nodes: _Nodes, x: str, p: int, least: int) -> tuple[str, int]:
    """Append the first outputs, at least so many, of a transform of each row of p, and return how many they are.

    H of length p is a Kronecker product of small ones, each a matrix product along its axis.
    """
    kept, left = 1, p
    for radix in _factors(p):
        left //= radix
        rows = min(radix, -(-least // (kept * left))) if kept == 1 else radix
        small = nodes.constant("H", hadamard(radix, dtype="float32")[:rows])
        if left > 1:
            x = nodes("MatMul", small, nodes.reshape(x, radix, left))
        else:
            x = nodes("MatMul", nodes.reshape(x, radix), nodes("Transpose", small, perm=[1, 0]))
        kept *= rows
    return x, kept


def _factors(p: int) -> Iterator[int]:
    while p > 1:
        yield min(p, _RADIX)
        p //= min(p, _RADIX)
