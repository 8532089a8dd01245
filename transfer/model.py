"""The model folder: JSON, safetensors, the engine file and a card; no pickle.

model.json            metadata, and the digests of the other files
readout.safetensors   the ridge's arrays
engine.aurevoir       the engine file; absent if the model was trained on features
training.safetensors  bits, labels and weights of the training images; may be left out
README.md             the model card
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_arrays

from ..archive import LARGEST
from ..engine.engine import Engine
from ..engine.load import open_engine
from ..errors import AurevoirError, UsageError
from ..files import file_digest, open_folder, read_file, refuse_hole, was_replaced
from ..kernels.camera import Camera
from ..kernels.memory import memory_budget
from ..kernels.projection import Projection
from ..kernels.readout import (
    PROJECTORS,
    BitsReadout,
    ExactReadout,
    PooledReadout,
    RadialReadout,
    Readout,
    SpeckleReadout,
    SumReadout,
)
from ..kernels.ridge import RidgePath
from ..kernels.ridge.form import RADIAL, SUMS
from ..printable import in_markdown
from ..saving import FolderKind, Parts, parts_of, recover, require_folder_target, write_folder
from ..schema import LONGEST, has_schema, refusing
from ..signing import SIGNATURE
from .arrays_file import loaded_arrays, mapped_arrays
from .model_schema import ARRAYS, CARD, ENGINE, MODEL, SCHEMA, TRAINING, read_arrays, read_classes, read_model
from .opu import OPUS, Opu, opu_projector
from .rows import SHARE
from .training import Training, pack, unpack

_TRIES = 8
"""How often a folder that is replaced while it is read is opened."""
_REMEDY = "train the model again"


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """The contents of a model folder.

    Attributes
    ----------
    classes : array of shape (c,)
    multilabel : bool
    features : int
        The number of features m.
    feature_names : list of str or None
        The columns' names, of a model that was trained on a data frame of features.
    seed : int
    parameters : dict
        Parameters of the classifier by name; the engine's are in its manifest.
    path : RidgePath
    temperature : float or None
        Of the probabilities; None if an earlier version saved it.
    readout : Readout
    engine : Engine or None
        None for a model that was trained on features.
    training : callable or None
        Returns what the model has learnt from, and its leave-one-out scores, float32 of shape (n, c); reads them where
        the model was read. None where they are not kept.
    """

    classes: np.ndarray
    multilabel: bool
    features: int
    feature_names: list[str] | None
    seed: int
    parameters: dict[str, Any]
    path: RidgePath
    temperature: float | None
    readout: Readout
    engine: Engine | None
    training: Callable[[], tuple[Training, np.ndarray]] | None


def write(model: StoredModel, folder: Path) -> None:
    """Write a model folder; the same fit gives the same bytes.

    An existing model is replaced by one call: at every moment the old or the new one is there, whole.

    Raises
    ------
    UsageError
        If the folder exists and is not a model folder, or holds other files as well.
    SaveError
        If it cannot be written; what was there is unchanged.
    """
    write_folder(folder, _files(model), KIND)


def check_target(folder: Path | str) -> None:
    """Check that a model folder can be written.

    Raises
    ------
    UsageError
        If the folder exists and is not a model folder, holds other files as well, or nothing can be written there.
    """
    require_folder_target(folder, KIND)


KIND = FolderKind(
    "model folder",
    frozenset({ENGINE, ARRAYS, TRAINING, MODEL, CARD, SIGNATURE}),
    lambda folder: has_schema(folder / MODEL, SCHEMA),
)


def _files(model: StoredModel) -> dict[str, bytes | Parts]:
    described, arrays = _describe_readout(model.readout)
    path = model.path
    arrays |= {"alphas": path.alphas, "loo_accuracies": path.loo_accuracies, "loo_errors": path.loo_errors}
    files: dict[str, bytes | Parts] = {
        ARRAYS: save_arrays({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    }
    if model.engine is not None:
        files[ENGINE] = model.engine.to_bytes()
    if model.training is not None:
        training, loo_scores = model.training()
        # Of many images the readout has the bits of some, or of none.
        known = arrays.get("rows")
        has_all = known is not None and len(known) == len(training) and np.array_equal(known, training.bits)
        files[TRAINING] = pack(training, loo_scores, with_bits=not has_all)
    content = {
        "schema": SCHEMA,
        "classes": model.classes.tolist(),
        "classes_dtype": model.classes.dtype.str,
        "features": model.features,
        "alpha": path.alpha,
        "loo_accuracy": path.loo_accuracy,
        "best": path.best,
        "multilabel": model.multilabel,
        "seed": model.seed,
        "parameters": model.parameters,
        "readout": described,
        "files": {name: _digest(data) for name, data in files.items()},
    }
    if model.temperature is not None:
        content["temperature"] = model.temperature
    if path.loo_accuracy_of:
        content["loo_accuracy_of"] = dict(path.loo_accuracy_of)
    if model.feature_names is not None:
        content["feature_names"] = model.feature_names
    # A search over an array of parameters leaves NumPy's scalars in them.
    described_json = json.dumps(content, indent=1, default=lambda scalar: scalar.item()).encode()
    # A class folder's name may not be UTF-8.
    card = _card(model).encode(errors="backslashreplace")
    return {MODEL: described_json, CARD: card, **files}


def _digest(data: bytes | Parts) -> str:
    found = hashlib.sha256()
    for part in parts_of(data):
        found.update(part)
    return found.hexdigest()


def _describe_readout(readout: Readout) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if isinstance(readout, SumReadout):
        _, of_bits = _describe_readout(readout.of_bits)
        described, of_pooled = _describe_readout(readout.of_pooled)
        return {**described, "kind": readout.kind}, {**of_pooled, **of_bits}
    if isinstance(readout, RadialReadout):
        arrays = {f"pooled_{name}": getattr(readout, name) for name in ("mean", "scale", "rows", "coefficients")}
        return {"kind": readout.kind, "channels": len(readout.mean)}, {**arrays, "intercept": readout.intercept}
    if isinstance(readout, ExactReadout):
        arrays = {"rows": readout.rows, "coefficients": readout.coefficients, "intercept": readout.intercept}
        return {"kind": "exact"}, arrays
    assert isinstance(readout, BitsReadout | PooledReadout | SpeckleReadout)
    described = {"kind": readout.kind}
    if isinstance(readout, PooledReadout):
        described["channels"] = len(readout.weights)
    if isinstance(readout, SpeckleReadout):
        projection = readout.projection
        described |= {"k": projection.k, "seed": projection.seed}
        described |= {"device": projection.identity} if isinstance(projection, Opu) else {}
        described |= {"gain": readout.camera.gain, "saturation": readout.saturation}
    return described, {"weights": readout.weights, "intercept": readout.intercept}


def _read_readout(described: dict[str, Any], m: int, arrays: dict[str, np.ndarray]) -> Readout:
    kind, intercept = described["kind"], arrays["intercept"]
    if kind in SUMS:
        of_bits, of_pooled = (_read_readout({**described, "kind": part}, m, arrays) for part in SUMS[kind])
        assert isinstance(of_bits, BitsReadout | ExactReadout) and isinstance(of_pooled, RadialReadout)
        return SumReadout(of_bits, replace(of_pooled, intercept=np.zeros_like(intercept)))
    if kind == "none":
        return BitsReadout(m, arrays["weights"], intercept)
    if kind == "exact":
        return ExactReadout(arrays["rows"], arrays["coefficients"], intercept)
    if kind == "pooled":
        return PooledReadout(arrays["weights"], intercept)
    if kind in RADIAL:
        mean, scale, rows, coefficients = (
            arrays[f"pooled_{name}"] for name in ("mean", "scale", "rows", "coefficients")
        )
        return RadialReadout(mean, scale, rows, coefficients, intercept, kind)
    device = {"device": described["device"]} if "device" in described else {}
    make: Callable[..., Projection] = opu_projector(kind) if kind in OPUS else PROJECTORS[kind]
    projection = make(m, described["k"], described["seed"], **device)
    camera = Camera(described["gain"])
    return SpeckleReadout(projection, camera, arrays["weights"], intercept, described["saturation"])


def _channels_of(engine: Engine, kind: str) -> int:
    """Return how many channel means of an engine a readout reads."""
    return engine.manifest.pooled if kind == "layers" else engine.manifest.channels


def model_digest(folder: Path | str) -> str:
    """Return what tells a model folder from others: 12 hexadecimal digits of the SHA-256 of its ``model.json``.

    That has the digests of the other files.
    """
    return file_digest(Path(folder) / MODEL)[:12]


def read(folder: Path, rebuild: bool = False) -> StoredModel:
    """Read and check a model folder, all of it as one process saved it; see `classifier.load`."""
    recover(folder)
    content, files = _read_folder(folder)
    with refusing(str(folder / MODEL), _REMEDY):
        classes = read_classes(content)
    with refusing(str(folder / ARRAYS), _REMEDY):
        arrays = read_arrays(files.pop(ARRAYS), content)
    engine = open_engine(files[ENGINE], folder / ENGINE, rebuild=rebuild) if ENGINE in files else None
    if engine is not None and engine.features != content["features"]:
        raise AurevoirError(
            f"{folder} was trained on {content['features']:,d} features, and its engine has {engine.features:,d}; "
            f"{_REMEDY}"
        )
    channels = content["readout"].get("channels")
    own = 0 if engine is None else _channels_of(engine, content["readout"]["kind"])
    if channels is not None and own != channels:
        raise AurevoirError(
            f"{folder} was trained on the means of {channels:,d} channels, and its engine has {own:,d}; {_REMEDY}"
        )
    coefficients = next(arrays[name] for name in ("coefficients", "pooled_coefficients", "weights") if name in arrays)
    path = RidgePath(
        arrays["alphas"],
        arrays["loo_accuracies"],
        arrays["loo_errors"],
        content["best"],
        coefficients,
        arrays["intercept"],
        loo_accuracy_of=content.get("loo_accuracy_of", {}),
    )
    return StoredModel(
        classes=classes,
        multilabel=content["multilabel"],
        features=content["features"],
        feature_names=content.get("feature_names"),
        seed=content["seed"],
        parameters=content["parameters"],
        path=path,
        temperature=content.get("temperature"),
        readout=_read_readout(content["readout"], content["features"], arrays),
        engine=engine,
        training=_training_reader(folder, content, arrays.get("rows")),
    )


def _training_reader(
    folder: Path, content: dict[str, Any], bits: np.ndarray | None
) -> Callable[[], tuple[Training, np.ndarray]] | None:
    """Return what reads the training images, if they are kept: their file may be removed, since only some need it."""
    if TRAINING not in content["files"] or not (folder / TRAINING).exists():
        return None
    # Not a closure, which could not be pickled with the classifier.
    return partial(_read_training, folder, content, bits)


def _read_training(folder: Path, content: dict[str, Any], bits: np.ndarray | None) -> tuple[Training, np.ndarray]:
    """Read what the model has learnt from: a file as large as the images are many, so only when it is needed."""
    digest = content["files"][TRAINING]
    with open_folder(folder, "model folder", _REMEDY) as descriptor:
        with _opened_if_large(TRAINING, descriptor) as file, refusing(str(folder / TRAINING), _REMEDY):
            if file is not None:
                refuse_hole(file.fileno(), folder / TRAINING)
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise AurevoirError(_changed(folder / TRAINING))
                return unpack(mapped_arrays(file.fileno(), os.fstat(file.fileno()).st_size), content, bits)
        data = _read_checked(folder, TRAINING, digest, descriptor)
    with refusing(str(folder / TRAINING), _REMEDY):
        return unpack(loaded_arrays(data), content, bits)


@contextmanager
def _opened_if_large(name: str, folder: int) -> Iterator[BufferedReader | None]:
    """Open a file of a folder that takes more than its share of the memory budget; give None for any other."""
    with ExitStack() as stack:
        file = None
        # What is no such file, reading it whole says.
        with suppress(OSError):
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            file = stack.enter_context(os.fdopen(os.open(name, flags, dir_fd=folder), "rb"))
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size <= memory_budget() // SHARE:
                file = None
        yield file


def _changed(path: Path) -> str:
    return f"{path} is missing or has changed since it was saved; {_REMEDY}"


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return model.json and the bytes of the files that it names, of the folder as it was at one moment."""
    for _ in range(_TRIES):
        with open_folder(folder, "model folder", "train one with `aurevoir fit`") as descriptor:
            try:
                return _read_files(folder, descriptor)
            except AurevoirError:
                if not was_replaced(folder, descriptor):
                    raise
    raise AurevoirError(f"{folder} was replaced {_TRIES} times while it was read; try again")


def _read_files(folder: Path, descriptor: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        os.stat(MODEL, dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        raise UsageError(f"{folder} is not a model folder (no {MODEL}); train one with `aurevoir fit`") from None
    with refusing(f"{folder / MODEL} is damaged: it", _REMEDY):
        content = read_model(read_file(MODEL, LONGEST, f"{folder}:", _REMEDY, descriptor))
    names = {name: digest for name, digest in content["files"].items() if name != TRAINING}
    return content, {name: _read_checked(folder, name, digest, descriptor) for name, digest in names.items()}


def _read_checked(folder: Path, name: str, digest: str, descriptor: int) -> bytes:
    try:
        os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        data = b""
    else:
        limit = LARGEST if name == ENGINE else memory_budget()
        data = read_file(
            name, limit, f"{folder}:", f"{_REMEDY}, or raise the memory budget (AUREVOIR_MEMORY)", descriptor
        )
    if hashlib.sha256(data).hexdigest() != digest:
        raise AurevoirError(_changed(folder / name))
    return data


def _card(model: StoredModel) -> str:
    lines = [
        "# An image classifier trained without backprop",
        "",
        "Made by aurevoir: signs of a truncated network's features, a projection, a ridge in closed form.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(map(in_markdown, model.classes))} |",
        f"| projection | {model.readout.kind} |",
        f"| alpha | {model.path.alpha:.6g} |",
        f"| leave-one-out accuracy on the training images | {model.path.loo_accuracy:.4f} |",
    ]
    if model.engine is not None:
        made = model.engine.manifest
        backbone, weights, cut = map(in_markdown, (made.backbone, made.weights, made.cut))
        channels = made.input_shape[2]
        kind = {1: "grayscale", 3: "RGB"}.get(channels, f"of {channels} channels")
        lines += [
            f"| backbone | {backbone}, weights {weights}, cut at {cut} |",
            f"| features | {made.features} |",
            f"| precision | {made.precision} on {made.runtime} {made.runtime_version} |",
            f"| input | uint8 {kind} {made.input_shape[0]} x {made.input_shape[1]}, resized by {made.resize} |",
        ]
        if made.sign_agreement is not None:
            lines.append(f"| sign agreement with fp32 | {made.sign_agreement:.4f} |")
    lines += [
        "",
        "`aurevoir predict FOLDER IMAGES` uses it, or in Python `aurevoir.load(FOLDER).predict(paths)`.",
        "",
    ]
    return "\n".join(lines)
