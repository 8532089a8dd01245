"""Read ONNX files as backbones, and refuse what cannot be one with a reason."""

import math
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ..calibration.graph.batch_norm import is_training
from ..calibration.graph.edit import initializers, leading_to, opset, reads
from ..errors import AurevoirError, UsageError
from ..kernels.memory import format_bytes
from .external_data import load_external_data
from .graph_check import LARGEST, check_contents
from .normal_form import OLDEST_OPSET, dropout_trains, make_readable, prepare, upgrade
from .onnx_input import standard_input, with_image_metadata

_QUANTIZED = (
    "which is already quantized; give the float network that it was made of: int8 is aurevoir's own",
    "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear",
)
_BRANCHES = ("whose condition is not a constant; export the network without branches", "If")
_LOOPS = ("which repeats a part of the network; export it without loops", "Loop Scan SequenceMap")
_RANDOM = (
    "which draws random numbers; export the network for inference",
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
)
_REFUSED = {name: why for why, names in (_QUANTIZED, _BRANCHES, _LOOPS, _RANDOM) for name in names.split()}
_TRAINING = (
    "in training mode, in which the features of an image depend on the rest of its batch; export the network for "
    "inference (model.eval(), and torch.onnx.export without training=)"
)
_DROPOUT = (
    "in training mode, in which it zeroes other values each time; export it without: in torch as nn.Dropout or as "
    "F.dropout(x, training=self.training), after model.eval()"
)


def read_onnx(path: Path) -> ModelProto:
    """Load an ONNX backbone, in normal form where possible, with the input of `onnx_input.standard_input`.

    Raises
    ------
    UsageError
        If the file does not exist.
    AurevoirError
        If it cannot be read, is not a valid ONNX model, is too large, or has no image input.
    """
    if not path.is_file():
        raise UsageError(f"backbone {path} does not exist; check the path")
    _check_size(path, path.stat().st_size)
    try:
        model = onnx.load(path, load_external_data=False)
        check_contents(model, path)
        model = make_readable(model)
    except AurevoirError:
        raise
    except OSError as error:
        raise AurevoirError(f"{path} cannot be read: {error.strerror or error}; check the file") from None
    except Exception as error:  # protobuf's errors have no common base class
        raise _invalid(path, error) from None
    _check_size(path, sum(map(_size, model.graph.initializer)))
    load_external_data(model, path)
    try:
        _check_graph(model)
        _check_tensors(model)
    except Exception as error:  # the checker's errors and those of broken tensors have no common base class
        raise _invalid(path, error) from None
    standard = standard_input(model)
    try:
        model = with_image_metadata(prepare(standard), model)
    except Exception as error:  # onnx's errors have no common base class
        raise _invalid(path, error) from None
    if not model.graph.output:
        raise AurevoirError(f"{path} has no output; export the network with one")
    return model


def _invalid(path: Path, error: Exception) -> AurevoirError:
    return AurevoirError(f"{path} is not a valid ONNX model: {first_line(error)}; export it again")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type, without what follows."""
    return " ".join(str(error).strip().partition("\n")[0].split())[:300] or type(error).__name__


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST:
        raise AurevoirError(
            f"{path} holds {format_bytes(size)}, and a graph in memory {format_bytes(LARGEST)} at most; export only "
            "what leads to the cut"
        )


def _size(tensor: TensorProto) -> int:
    """Return the bytes of a tensor in normal form."""
    wide = 8 if tensor.data_type in (TensorProto.INT64, TensorProto.UINT64) else 4
    return int(math.prod(tensor.dims)) * (1 if tensor.data_type in (TensorProto.INT8, TensorProto.UINT8) else wide)


def _check_graph(model: ModelProto) -> None:
    """Run onnx's checker, which wants a type and a shape of every output; runtimes do not."""
    bare = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    kinds = [value.type.tensor_type.elem_type for value in bare]
    for value in bare:
        value.type.tensor_type.shape.SetInParent()
        value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or TensorProto.FLOAT
    try:
        onnx.checker.check_model(model)
    finally:
        for value, kind in zip(bare, kinds, strict=True):
            value.type.tensor_type.ClearField("shape")
            value.type.tensor_type.elem_type = kind


def _check_tensors(model: ModelProto) -> None:
    """Raise ValueError if the data of a tensor has another length than its shape."""
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.STRING:
            numpy_helper.to_array(tensor)


def check_normal(model: ModelProto, name: str) -> ModelProto:
    """Return a graph that was cut in normal form.

    Parameters
    ----------
    model : onnx.ModelProto
        Of `read_onnx`, with the nodes up to the cut alone.
    name : str
        Of the file, for messages.

    Raises
    ------
    AurevoirError
        If a node cannot be brought into normal form, an output does not depend on the image, or
        onnx's checker refuses the graph.
    """
    tensors = initializers(model)
    image = model.graph.input[0].name
    for value in model.graph.output:
        if value.name != image and not any(image in reads(node) for node in leading_to(model, [value.name])):
            raise AurevoirError(f"tensor {value.name!r} of {name} does not depend on the image; cut at another tensor")
    for node in model.graph.node:
        if why := _why_not(node, tensors):
            output = next(filter(None, node.output), "")
            raise AurevoirError(
                f"tensor {output!r} of {name} is computed by the operator {node.op_type}"
                f"{f' of domain {node.domain!r}' if node.domain else ''}, {why}, or cut before it"
            )
    if opset(model) < OLDEST_OPSET:
        model = _upgraded(model, name)
    newest = onnx.defs.onnx_opset_version()
    if opset(model) > newest:
        raise AurevoirError(
            f"{name} is of opset {opset(model)}, and the installed onnx knows {newest}; upgrade onnx, or "
            "export it with an older opset"
        )
    try:
        _check_graph(model)
    except Exception as error:  # the checker's errors have no common base class
        raise AurevoirError(f"{name} is not a valid ONNX model: {first_line(error)}; export it again") from None
    return model


def _why_not(node: NodeProto, tensors: dict[str, TensorProto]) -> str | None:
    if node.domain:
        return "which is not a standard one; export the network with standard operators"
    if node.op_type in _REFUSED:
        return _REFUSED[node.op_type]
    if node.op_type == "Dropout" and dropout_trains(node, tensors):
        return _DROPOUT
    return _TRAINING if node.op_type == "BatchNormalization" and is_training(node) else None


def _upgraded(model: ModelProto, name: str) -> ModelProto:
    """Convert what is left of a graph that could not be converted whole."""
    try:
        return prepare(upgrade(model))
    except Exception as error:  # the converter's errors have no common base class
        raise AurevoirError(
            f"{name} is of opset {opset(model)}, which onnx cannot convert to {OLDEST_OPSET}: {first_line(error)}; "
            f"export it with opset {OLDEST_OPSET} or newer"
        ) from None
