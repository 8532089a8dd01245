"""Check that the graph of an engine file is of the images, features and bits that its manifest describes."""

import onnx
from onnx import TensorProto

from ..errors import AurevoirError
from ..kernels.bits import packed_length
from .manifest import Manifest

_Declared = list[tuple[str, int, list[int | None]]]


def check_interface(graph: bytes, made: Manifest, source: object) -> None:
    """Check the declared inputs and outputs of a graph against its manifest; error messages name `source`.

    Raises
    ------
    AurevoirError
        If it is not an ONNX graph of one input ``images`` and the outputs ``features`` and ``bits``, or has another
        shape or type.
    """
    try:
        # Weights and shapes of the body do not matter here, and protobuf's errors have no common base class.
        found = onnx.load_from_string(graph).graph
    except Exception:
        raise AurevoirError(f"{source}: part model.onnx is not an ONNX graph; build it again") from None
    m = made.features
    wanted: _Declared = [
        ("images", TensorProto.UINT8, [None, *made.input_shape]),
        ("features", TensorProto.FLOAT, [None, m]),
        ("bits", TensorProto.UINT8, [None, packed_length(m)]),
    ]
    declared = [*map(_declared, found.input), *map(_declared, found.output)]
    if len(found.input) != 1 or declared != wanted:
        raise AurevoirError(
            f"{source}: its graph has {_words(declared)}, and its manifest describes {_words(wanted)}; build it again"
        )


def _declared(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | None]]:
    """Return name, type and shape; None stands for a length that is free."""
    tensor = value.type.tensor_type
    return (
        value.name,
        tensor.elem_type,
        [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim],
    )


def _words(values: _Declared) -> str:
    names = dict(zip(TensorProto.DataType.values(), TensorProto.DataType.keys(), strict=True))
    return ", ".join(
        f"{name[:40]!r} {names.get(kind, kind)} {[length or 'batch' for length in shape[:8]]}"
        for name, kind, shape in values[:4]
    )
