"""A readout as ONNX nodes: from float features to scores, probabilities and label."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from scipy.linalg import hadamard

from ..calibration.graph.edit import POOLED, constant, initializers, make_room, read_constant, tensor_shapes
from ..engine.manifest import CLASSIFIER_OUTPUTS
from ..engine.runtimes.base import FLOAT32_PREFIX
from ..errors import AurevoirError, UsageError
from ..kernels.bits import popcount, unpack
from ..kernels.pooled import Standardization
from ..kernels.projection import Dense, DenseSigns, Hadamard, Projection
from ..kernels.random_matrix import gaussian_rows, hadamard_signs, sign_rows
from ..kernels.readout import (
    BitsReadout,
    ExactReadout,
    PooledReadout,
    RadialReadout,
    Readout,
    SpeckleReadout,
    SumReadout,
)

_Single = BitsReadout | ExactReadout | SpeckleReadout | PooledReadout | RadialReadout
_Readout = _Single | SumReadout

LARGEST = 1 << 28
"""Bytes of one matrix in a loaded graph, at most; those of bits take one byte an entry there."""
_RADIX = 16
"""Length of the small Walsh-Hadamard transforms that a long one is made of."""


def append_readout(
    model: onnx.ModelProto, readout: Readout, m: int, temperature: float, multilabel: bool, packed: bool
) -> None:
    """Append a readout to a graph with the outputs ``features`` and ``pooled``, which its outputs replace, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        Its output ``features`` is float32 of shape (batch, m), and ``pooled``, of which only some readouts are, float32
        of shape (batch, channels).
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
    # An engine from elsewhere may have such names inside.
    make_room(model, lambda name: name in CLASSIFIER_OUTPUTS or name.startswith(FLOAT32_PREFIX))
    nodes = _Nodes(model, packed)
    scores, probabilities, label = CLASSIFIER_OUTPUTS
    assert isinstance(readout, _Readout)
    _scores(nodes, readout, m, scores)
    sharpness = nodes.constant("sharpness", np.float32((2 if multilabel else 1) / temperature))
    scaled = nodes("Mul", scores, sharpness)
    if multilabel:
        nodes("Sigmoid", scaled, out=probabilities)
        positive = nodes("Greater", scores, nodes.constant("zero", np.float32(0)))
        nodes("Cast", positive, to=TensorProto.INT64, out=label)
    else:
        nodes("Softmax", scaled, axis=1, out=probabilities)
        nodes("ArgMax", scores, axis=1, keepdims=0, out=label)
    rows: list[str | int | None] = ["batch", len(readout.intercept)]
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
        if np.abs(value).max(initial=0) > np.finfo("float32").max:
            raise UsageError(
                f"{name} of the model are beyond float32, in which a graph computes; fit with larger alphas"
            )
        return self.constant(name, value.astype("float32"))

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape to a shape behind a free first length."""
        return self("Reshape", x, self.constant("shape", np.array([-1, *shape])))

    def dequantized(self, levels: str) -> str:
        """Append the float32 of int8 levels; TensorRT takes int8 in no other way."""
        return self("DequantizeLinear", levels, *self._levels())

    def quantized(self, x: str) -> str:
        """Append the int8 of whole numbers."""
        return self("QuantizeLinear", x, *self._levels())

    def _levels(self) -> tuple[str, str]:
        return self.constant("one", np.float32(1)), self.constant("zero", np.int8(0))

    def channel_sums(self, channels: int) -> tuple[str, np.ndarray]:
        """Return the sums that the last channel means are a share of, and each channel's share.

        Products with constants may not follow.
        """
        made, constants = {node.output[0]: node for node in self.model.graph.node}, initializers(self.model)
        means = made[POOLED]
        layers = [made[name] for name in means.input] if means.op_type == "Concat" else [means]
        shapes, sums, shares = tensor_shapes(self.model), list[str](), list[float]()
        while layers and len(shares) < channels:
            layer = layers.pop()
            shape = shapes.get(layer.input[0], [])
            if layer.op_type != "Mul" or layer.input[1] not in constants or len(shape) != 2:
                break
            sums.insert(0, layer.input[0])
            shares[:0] = [float(read_constant(constants, layer.input[1]))] * (shape[1] or 0)
        if len(shares) != channels:
            raise AurevoirError(
                f"the graph of the engine does not compute the means of {channels:,d} channels as its manifest says; "
                "build it again"
            )
        return sums[0] if len(sums) == 1 else self("Concat", *sums, axis=1), np.array(shares)

    def sum(self, x: str, axis: int, keepdims: int = 0) -> str:
        """Sum along an axis."""
        return self("ReduceSum", x, self.constant("axes", np.array([axis])), keepdims=keepdims)

    def first(self, x: str, count: int, length: int, axis: int = 1) -> str:
        """Return the first elements of so many along an axis, by default of each row."""
        if count == length:
            return x
        ends = (self.constant(name, np.array([at])) for name, at in (("start", 0), ("end", count), ("axis", axis)))
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


def _scores(nodes: _Nodes, readout: _Readout, m: int, out: str) -> None:
    """Append nodes from the features to the scores."""
    if isinstance(readout, SumReadout):
        both = [_linear(nodes, part, m) for part in (readout.of_bits, readout.of_pooled)]
        linear = nodes("Add", *both)
    else:
        linear = _linear(nodes, readout, m)
    nodes("Add", linear, nodes.single("intercept", readout.intercept), out=out)


def _linear(nodes: _Nodes, readout: _Single, m: int) -> str:
    """Append nodes from the features to the scores without the intercept."""
    if isinstance(readout, PooledReadout):
        sums, share = nodes.channel_sums(len(readout.weights))
        return _times_weights(nodes, sums, share[:, None] * readout.weights)
    if isinstance(readout, RadialReadout):
        return _radial(nodes, readout)
    signs = nodes("Greater", "features", nodes.constant("zero", np.float32(0)))
    bits = nodes("Cast", signs, to=TensorProto.FLOAT)
    if isinstance(readout, BitsReadout):
        return _times_weights(nodes, bits, readout.weights)
    if isinstance(readout, ExactReadout):
        return _exact(nodes, bits, readout, m)
    if isinstance(readout.projection, Hadamard):
        return _hadamard(nodes, bits, readout.projection, readout)
    speckle = _exposed(nodes, _dense(nodes, bits, readout.projection), readout)
    return _times_weights(nodes, speckle, readout.weights)


def _radial(nodes: _Nodes, readout: RadialReadout) -> str:
    """Append the radial kernel of pooled features with the training rows, times their coefficients.

    With the centred features c of an image and the scale s, the kernel's exponent -gamma |s c - x'|^2 is the product of
    (c^2, c, 1) and (-gamma s^2, 2 gamma s x', -gamma |x'|^2). Rows are channels and training images: OpenVINO 2026.4
    adds a vector wrongly to the rows of a sum over places, and joins products with constants to ones in bf16.
    """
    gamma, rows = Standardization(readout.mean, readout.scale).gamma, readout.rows.astype("float64")
    sums, share = nodes.channel_sums(len(readout.mean))
    mean, scale = readout.mean / share, readout.scale * share
    channels = nodes("Transpose", sums, perm=[1, 0])
    centred = nodes("Add", channels, nodes.single("shift", -mean[:, None]))
    zeros = nodes("Mul", nodes.first(channels, 1, len(mean), axis=0), nodes.constant("zero", np.float32(0)))
    ones = nodes("Add", zeros, nodes.constant("one", np.float32(1)))
    squares = np.broadcast_to(-gamma * scale**2, rows.shape)
    own = np.concatenate(
        [squares, 2 * gamma * scale * rows, -gamma * np.square(rows).sum(axis=1, keepdims=True)], axis=1
    )
    together = nodes("Concat", nodes("Mul", centred, centred), centred, ones, axis=0)
    exponents = nodes("MatMul", nodes.single("rows", own), together)
    kernel = nodes("Exp", nodes("Min", exponents, nodes.constant("zero", np.float32(0))))
    product = nodes("MatMul", nodes.single("coefficients", readout.coefficients.T), kernel)
    return nodes("Transpose", product, perm=[1, 0])


def _times_weights(nodes: _Nodes, x: str, weights: np.ndarray) -> str:
    """Append x @ weights in float32, with the constant on the left: OpenVINO forgets to keep float32 elsewhere."""
    product = nodes("MatMul", nodes.single("weights", weights.T), nodes("Transpose", x, perm=[1, 0]))
    return nodes("Transpose", product, perm=[1, 0])


def _exact(nodes: _Nodes, bits: str, readout: ExactReadout, m: int) -> str:
    """Append the exact kernel |x|^2 |x'|^2 + <x, x'>^2 with the training rows x', times their coefficients.

    The coefficients sum to zero, so that a square may lose a constant: u^2 - v^2 = (u - v) (u + v), with v near most
    u, keeps more digits in float32.
    """
    n, norms, coefficients = len(readout.rows), popcount(readout.rows), readout.coefficients
    require_small(n * m, f"the exact kernel with {n:,d} training images of {m:,d} bits")
    rows = unpack(readout.rows, m)
    total = rows.sum(axis=0, dtype="float64")
    middle = np.float32(np.rint(total @ total / n**2))
    counts = _times_bits(nodes, bits, rows)
    less, more = (nodes("Add", counts, nodes.constant("middle", each)) for each in (-middle, middle))
    kernel = _times_weights(nodes, nodes("Mul", less, more), coefficients)
    rates = nodes.single("rates", (norms @ coefficients)[None])
    return nodes("Add", kernel, nodes("Mul", nodes.sum(bits, 1, keepdims=1), rates))


def _exposed(nodes: _Nodes, intensities: str, readout: SpeckleReadout, scale: float = 1.0) -> str:
    """Append a camera: the speckle of intensities times a power of two, less 128."""
    gain = nodes.constant("gain", np.float32(readout.camera.gain) * np.float32(scale))
    seen = nodes("Round", nodes("Mul", intensities, gain))
    speckle = nodes("Min", seen, nodes.constant("white", np.float32(255)))
    return nodes("Add", speckle, nodes.constant("grey", np.float32(-128)))


def _dense(nodes: _Nodes, bits: str, projection: Projection) -> str:
    """Append a projection |Rx|^2 by a matrix: float32 of shape (batch, k)."""
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
        # With the bits of a row r of R, <r, x> = 2 |x & r| - |x|.
        twice = nodes("Mul", _times_bits(nodes, bits, ones), nodes.constant("two", np.float32(2)))
        less = nodes("Mul", nodes.sum(bits, 1, keepdims=1), nodes.constant("minus", np.float32(-1)))
        sums = nodes("Add", twice, less)
    return nodes.sum(nodes.reshape(nodes("Mul", sums, sums), k, 2), 2)


def _times_bits(nodes: _Nodes, bits: str, ones: np.ndarray) -> str:
    """Append the exact products with rows of ones and zeros, of shape (batch, rows)."""
    count = len(ones)
    if not nodes.packed:
        return _times(nodes, bits, nodes.constant("rows", ones.T.astype("int8")))
    packed = np.packbits(ones.T, axis=1)
    table = np.unpackbits(np.arange(256, dtype="uint8")[:, None], axis=1).astype("int8")
    indices = nodes("Cast", nodes.constant("packed", packed), to=TensorProto.INT32)
    unpacked = nodes("Gather", nodes.constant("bits_of_byte", table), indices, axis=0)
    width = 8 * packed.shape[1]
    return nodes.first(_times(nodes, bits, nodes.reshape(unpacked, width)), count, width)


def _times(nodes: _Nodes, bits: str, matrix: str) -> str:
    """Append the product with an int8 matrix of shape (m, columns), in integers where the runtime can: exact."""
    return nodes("MatMul", nodes.dequantized(nodes.quantized(bits)), nodes.dequantized(matrix))


def _hadamard(nodes: _Nodes, bits: str, projection: Hadamard, readout: SpeckleReadout) -> str:
    """Append chains of Walsh-Hadamard transforms, their speckle, and its product with the readout's weights.

    Transforms lack their norm until the end, where it is a power of two, and leave their outputs in an order of their
    own (`_Digits`), in which later signs and the weights are stored.
    """
    m, k, p = projection.m, projection.k, projection.length
    signs = hadamard_signs(m, k, projection.seed)
    pairs, classes = len(signs), readout.weights.shape[1]
    require_small(4 * signs.size, f"the hadamard projection of m = {m:,d} features to k = {k:,d} components")
    if p > m:
        bits = nodes("Pad", bits, nodes.constant("padding", np.array([0, 0, 0, p - m])))
    x, digits = nodes.reshape(bits, 1, p), _Digits(p)
    for step in range(3):
        flips = digits.ordered(signs[:, :, step].reshape(2 * pairs, p)).astype("float32")
        x = nodes("Mul", x, nodes.constant("flips", flips))
        # Of the last transform of a single pair, only what contains the first k outputs is computed.
        x = digits.transform(nodes, x, k if step == 2 and pairs == 1 else p)
        x = nodes.reshape(x, 2 * pairs, digits.size)
    squares = nodes.reshape(nodes("Mul", x, x), pairs, 2, digits.size)
    seen = _exposed(nodes, nodes.reshape(nodes.sum(squares, 2), pairs * digits.size), readout, float(p) ** -3)
    padded = np.zeros((pairs * p, classes))
    padded[:k] = readout.weights
    weights = digits.ordered(padded.reshape(pairs, p, classes).transpose(2, 0, 1)).reshape(classes, -1)
    return _times_weights(nodes, seen, weights.T)


class _Digits:
    """The digits of the indices of a transform's rows, in the order in which they are laid out.

    H of length p is a Kronecker product of small ones, one a digit. A small one is a matrix product from the left
    along the axis of its digit; the digit that is laid out last comes first before that.
    """

    def __init__(self, p: int) -> None:
        self.radices: list[int] = []
        while p > 1:
            self.radices.append(min(p, _RADIX))
            p //= self.radices[-1]
        self.radices = self.radices or [1]
        self.lengths, self.order = list(self.radices), list(range(len(self.radices)))

    @property
    def size(self) -> int:
        """The number of outputs that are computed."""
        return int(np.prod(self.lengths))

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """Return values of shape (..., p), in natural order, in this one, of shape (..., size)."""
        lead = values.shape[:-1]
        within: tuple[Any, ...] = (..., *(slice(0, length) for length in self.lengths))
        apart = values.reshape(*lead, *self.radices)[within]
        axes = [*range(len(lead)), *(len(lead) + digit for digit in self.order)]
        return np.ascontiguousarray(apart.transpose(axes)).reshape(*lead, self.size)

    def transform(self, nodes: _Nodes, x: str, least: int) -> str:
        """Append a transform of rows in this order; the first outputs are needed, `least` in natural order."""
        for place in range(len(self.order) - 1):
            x = self._product(nodes, x, place, least)
        if len(self.order) > 1:
            last = self.order.pop()
            x = nodes(
                "Transpose", nodes.reshape(x, self.size // self.lengths[last], self.lengths[last]), perm=[0, 2, 1]
            )
            self.order.insert(0, last)
        return self._product(nodes, x, 0, least)

    def _product(self, nodes: _Nodes, x: str, place: int, least: int) -> str:
        digit = self.order[place]
        radix = self.radices[digit]
        after = int(np.prod([self.lengths[each] for each in self.order[place + 1 :]]))
        rows = radix if digit else -(-least // int(np.prod(self.radices[1:])))
        x = nodes(
            "MatMul", nodes.constant("H", hadamard(radix, dtype="float32")[:rows]), nodes.reshape(x, radix, after)
        )
        self.lengths[digit] = rows
        return x
