"""Write an engine in the forms that programs without Python load: ONNX, OpenVINO's IR, and the raw plan."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import onnx

from .. import __version__
from ..calibration.graph.edit import prune, tensor_names, unused
from ..calibration.graph.float16 import has_float16_body
from ..calibration.graph.windows import make_windows_explicit
from ..errors import MissingPackageError, UsageError
from ..kernels.forked import check_process
from ..saving import (
    FolderKind,
    explained,
    require_file_target,
    require_folder_target,
    scratch,
    write_atomically,
    write_folder,
)
from ..schema import has_schema
from .engine import Engine
from .runtimes import installed, on_openvino, takes_body
from .runtimes.base import Precision
from .runtimes.native_errors import native_errors

Form = Literal["onnx", "openvino", "plan"]
FORMS: tuple[Form, ...] = get_args(Form)

SCHEMA = "aurevoir-export/1"
SECTION = "aurevoir"
"""Where the metadata stands in an IR's ``rt_info``."""
METADATA, XML, WEIGHTS, PLAN = "metadata.json", "model.xml", "model.bin", "model.plan"
KIND = FolderKind(
    "folder of an exported engine",
    frozenset({METADATA, XML, WEIGHTS, PLAN}),
    lambda folder: has_schema(folder / METADATA, SCHEMA),
)

_CHANNELS = {1: "grayscale", 3: "RGB"}
_FILE_ENDINGS = (".bin", ".engine", ".json", ".onnx", ".plan", ".trt", ".xml")


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, its dtype as NumPy names it, and its shape, whose first element is ``batch``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Delivery:
    """An engine in one form, to be written.

    Attributes
    ----------
    form : {"onnx", "openvino", "plan"}
    files : dict of bytes
        By name in the folder that is written; the single file of ``onnx`` has the name "".
    metadata : dict
        What the files say of the engine; see docs/formats.md.
    inputs, outputs : tuples of Tensor
    """

    form: Form
    files: dict[str, bytes]
    metadata: dict[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def write(self, path: Path | str) -> None:
        """Write the file or the folder, or replace one of the same kind, by one call; see `saving`."""
        if self.form == "onnx":
            write_atomically(path, self.files[""])
        else:
            write_folder(path, self.files, KIND)

    def digests(self, path: Path | str) -> list[dict[str, Any]]:
        """Return path, number of bytes and SHA-256 of each file, as written to a path."""
        return [
            {"path": str(Path(path, name)), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in self.files.items()
        ]


def export_engine(engine: Engine, out: Path | str, to: str = "onnx", outputs: Sequence[str] | None = None) -> Delivery:
    """Write an engine as files that ONNX Runtime, OpenVINO or TensorRT load without Python.

    Parameters
    ----------
    engine : Engine
    out : path
        For ``onnx`` the file, for the others the folder: ``model.xml`` and ``model.bin``, or ``model.plan``, each with
        ``metadata.json``.
    to : {"onnx", "openvino", "plan"}
        ``openvino`` is OpenVINO's IR after the rewrites that OpenVINO needs to compute the graph rightly; ``plan`` the
        serialized plan of TensorRT or TensorRT-RTX.
    outputs : sequence of str, optional
        The outputs to keep; by default all. Below fp32 a runtime may round two outputs apart.

    Returns
    -------
    Delivery
        What was written.

    Raises
    ------
    UsageError
        If the form or an output is unknown, the engine holds no plan or a graph that OpenVINO does not take, or the
        target exists and is of another kind.
    AurevoirError
        If OpenVINO would misread the graph.
    SaveError
        If it cannot be written.
    """
    form = check_form(to)
    check_target(out, form)
    made = deliver(engine, form, outputs)
    made.write(out)
    return made


def check_form(form: str) -> Form:
    """Return a form, or raise UsageError if it is unknown."""
    if form not in FORMS:
        raise UsageError(f"form {form!r} is not known; choose one of {', '.join(FORMS)}")
    return form


def check_target(path: Path | str, form: Form) -> None:
    """Check, before the work, that a form can be written to a path.

    Raises
    ------
    UsageError
        If nothing can be written there, or a folder's path ends as a file's, or what is there is of another kind.
    """
    if form == "onnx":
        require_file_target(path)
        return
    if (suffix := Path(path).suffix.lower()) in _FILE_ENDINGS:
        names = f"{PLAN} and {METADATA}" if form == "plan" else f"{XML}, {WEIGHTS} and {METADATA}"
        raise UsageError(
            f"{path} ends in {suffix}, and {form} is a folder of {names}; give the name of a folder, such as "
            f"{Path(path).with_suffix('')}"
        )
    require_folder_target(path, KIND)


def deliver(engine: Engine, form: Form, outputs: Sequence[str] | None = None) -> Delivery:
    """Return an engine in one form, with some of its outputs or all; see `export_engine`."""
    model = _with_outputs(engine, outputs)
    about = metadata(engine)
    if form == "plan":
        files = _plan(engine, outputs)
    elif form == "openvino":
        files = _openvino(engine, model, about)
    else:
        files = {"": _onnx(model, about)}
    if form != "onnx":
        files[METADATA] = json.dumps(about, indent=1).encode()
    inputs, results = (tuple(map(_tensor, ends)) for ends in (model.graph.input, model.graph.output))
    return Delivery(form, files, about, inputs, results)


def metadata(engine: Engine) -> dict[str, Any]:
    """Return what exported files say of an engine: texts, integers, and the list of labels."""
    made = engine.manifest
    height, width, channels = made.input_shape
    found = {
        "schema": SCHEMA,
        "aurevoir": __version__,
        "labels": list(made.labels),
        "height": height,
        "width": width,
        "channels": channels,
        "channel_order": _CHANNELS.get(channels, "as the network's"),
        "resize": made.resize,
        "precision": made.precision,
        "runtime": made.runtime,
        "runtime_version": made.runtime_version,
        "openvino_precision": on_openvino.HINTS[made.precision],
        "weight_levels": made.weight_levels,
        "target": made.target,
        "model_sha256": hashlib.sha256(engine.graph).hexdigest(),
    }
    return {key: value for key, value in found.items() if value is not None}


def runnable_on_openvino(engine: Engine) -> Engine:
    """Return an engine that runs on OpenVINO on this machine, in fp32 where its precision does not.

    Raises
    ------
    UsageError
        If its graph has a float16 body.
    MissingPackageError
        If OpenVINO is not installed.
    """
    _require_openvino(engine)
    made = engine.manifest
    if made.runtime == "openvino" and made.precision in on_openvino.precisions():
        return engine
    moved = replace(made, runtime="openvino", runtime_version=on_openvino.version(), precision="fp32")
    return Engine(moved, engine.graph)


def _require_openvino(engine: Engine) -> None:
    made = engine.manifest
    if not takes_body("openvino", made.precision, has_float16_body(onnx.load_from_string(engine.graph))):
        raise UsageError(
            f"this engine's graph was built for {made.runtime} with a float16 body, which OpenVINO does not take; "
            "build one with `aurevoir build --runtime openvino`"
        )
    if not installed("openvino"):
        raise MissingPackageError(f"OpenVINO is not installed; install it with: {on_openvino.INSTALL}")


def _with_outputs(engine: Engine, outputs: Sequence[str] | None) -> onnx.ModelProto:
    model = onnx.load_from_string(engine.graph)
    known = [value.name for value in model.graph.output]
    if outputs is None:
        return model
    if unknown := [name for name in outputs if name not in known]:
        raise UsageError(f"output {unknown[0]!r} is not one of this engine's: {', '.join(known)}")
    if not outputs:
        raise UsageError(f"no outputs are given; name some of {', '.join(known)}")
    return prune(model, [name for name in known if name in outputs])


def _onnx(model: onnx.ModelProto, about: dict[str, Any]) -> bytes:
    model = make_windows_explicit(model)
    model.producer_version = __version__
    onnx.helper.set_model_props(model, _texts(about))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _openvino(engine: Engine, model: onnx.ModelProto, about: dict[str, Any]) -> dict[str, bytes]:
    _require_openvino(engine)
    check_process("openvino")
    from openvino import save_model

    with native_errors("openvino", "read"), scratch(XML, WEIGHTS) as folder:
        # As for a processor with bf16, on which it may run, whether this one has it or not.
        narrow: Precision = "bf16" if about["openvino_precision"] == "bf16" else engine.manifest.precision
        network = on_openvino.read(model.SerializeToString(), narrow)
        _name_alike(network, tensor_names(model) | {node.name for node in model.graph.node})
        for key, text in _texts(about).items():
            network.set_rt_info(text, [SECTION, key])
        with explained(folder):
            save_model(network, folder / XML, compress_to_fp16=False)
            return {name: (folder / name).read_bytes() for name in (XML, WEIGHTS)}


def _name_alike(network: Any, own: set[str]) -> None:
    """Name what has no name of ours by its place: OpenVINO counts on through a process, and files would differ."""
    taken = set(own)
    for number, node in enumerate(network.get_ordered_ops()):
        if node.get_friendly_name() not in own:
            node.set_friendly_name(unused(f"{node.get_type_name()}_{number}", taken))


def _plan(engine: Engine, outputs: Sequence[str] | None) -> dict[str, bytes]:
    made = engine.manifest
    if engine.plan is None:
        raise UsageError(
            f"this engine was built for {made.runtime} and holds no plan; build one with `aurevoir build --target`, "
            "such as --target sm89, or on the machine with the GPU"
        )
    if outputs is not None:
        raise UsageError("a plan has the outputs that it was built with; leave outputs out")
    return {PLAN: engine.plan}


def _texts(about: dict[str, Any]) -> dict[str, str]:
    """Return metadata as texts, for formats that hold no others; lists and numbers as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    _, *rest = kind.shape.dim
    return Tensor(value.name, dtype, ("batch", *(dim.dim_value for dim in rest)))
