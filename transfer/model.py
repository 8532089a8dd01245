"""The model folder: JSON, safetensors, the engine file and a card; no pickle.

model.json            what the model is, and the digests of the other files
readout.safetensors   the ridge's arrays
engine.aurevoir       the engine file; absent when the model was trained on features
README.md             the model card
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from ..engine.engine import Engine
from ..engine.load import load_engine
from ..errors import AurevoirError, UsageError
from ..kernels.camera import Camera
from ..kernels.projection import Projection
from ..kernels.readout import PROJECTORS, BitsReadout, ExactReadout, Readout, SpeckleReadout
from ..kernels.ridge import RidgePath
from .opu import OPUS, Opu, opu_projector

if TYPE_CHECKING:
    from .classifier import OpticalClassifier

SCHEMA = "aurevoir-model/2"
_ENGINE, _ARRAYS, _MODEL, _CARD = "engine.aurevoir", "readout.safetensors", "model.json", "README.md"
_PARAMETERS = ("projection", "n_components", "alpha_search", "calibration_images", "method", "resize")


def save(classifier: "OpticalClassifier", folder: Path) -> None:
    """Write a fitted classifier; the same fit gives the same bytes.

    The folder appears whole or not at all; a model that is there already is replaced.

    Raises
    ------
    UsageError
        If the folder exists and holds something else than a model.
    """
    if folder.exists() and not (folder / _MODEL).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not a model folder; choose another name or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, data in _files(classifier).items():
            (temporary / name).write_bytes(data)
        temporary.chmod(0o755)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(source: Path, target: Path) -> None:
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        target.replace(old / "replaced")
        source.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        source.replace(target)


def _files(classifier: "OpticalClassifier") -> dict[str, bytes]:
    described, arrays = _describe_readout(classifier.readout_)
    path = classifier.path_
    arrays |= {"alphas": path.alphas, "loo_accuracies": path.loo_accuracies, "loo_errors": path.loo_errors}
    files = {_ARRAYS: save_arrays({name: np.ascontiguousarray(value) for name, value in arrays.items()})}
    if classifier.engine_ is not None:
        files[_ENGINE] = classifier.engine_.to_bytes()
    parameters = {name: getattr(classifier, name) for name in _PARAMETERS}
    model = {
        "schema": SCHEMA,
        "classes": classifier.classes_.tolist(),
        "classes_dtype": classifier.classes_.dtype.str,
        "features": classifier.n_bits_,
        "alpha": classifier.alpha_,
        "loo_accuracy": classifier.loo_accuracy_,
        "best": path.best,
        "multilabel": classifier._multilabel,
        "seed": classifier._seed,
        "parameters": parameters,
        "readout": described,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return {_MODEL: json.dumps(model, indent=1).encode(), _CARD: _card(classifier).encode(), **files}


def _describe_readout(readout: Readout) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if isinstance(readout, BitsReadout):
        return {"kind": "none"}, {"weights": readout.weights, "intercept": readout.intercept}
    if isinstance(readout, ExactReadout):
        arrays = {"rows": readout.rows, "coefficients": readout.coefficients, "intercept": readout.intercept}
        return {"kind": "exact"}, arrays
    assert isinstance(readout, SpeckleReadout)
    projection = readout.projection
    described = {"kind": readout.kind, "k": projection.k, "seed": projection.seed}
    if isinstance(projection, Opu):
        described["device"] = projection.identity
    return {**described, "gain": readout.camera.gain, "saturation": readout.saturation}, {
        "weights": readout.weights,
        "intercept": readout.intercept,
    }


def _read_readout(described: dict[str, Any], m: int, arrays: dict[str, np.ndarray]) -> Readout:
    if described["kind"] == "none":
        return BitsReadout(m, arrays["weights"], arrays["intercept"])
    if described["kind"] == "exact":
        return ExactReadout(arrays["rows"], arrays["coefficients"], arrays["intercept"])
    kind = described["kind"]
    device = {"device": described["device"]} if "device" in described else {}
    make: Callable[..., Projection] = opu_projector(kind) if kind in OPUS else PROJECTORS[kind]
    projection = make(m, described["k"], described["seed"], **device)
    camera = Camera(described["gain"])
    return SpeckleReadout(projection, camera, arrays["weights"], arrays["intercept"], described["saturation"])


def load(folder: Path | str, rebuild: bool = False) -> "OpticalClassifier":
    """Load a model folder.

    Parameters
    ----------
    folder : path
    rebuild : bool
        Build the engine's plan anew where it is for another GPU or version; see `load_engine`.

    Returns
    -------
    OpticalClassifier
        Fitted; it predicts exactly as the one that was saved.

    Raises
    ------
    UsageError
        If there is no such model.
    AurevoirError
        If a file of it is damaged or missing, or the schema is another.
    """
    from .classifier import OpticalClassifier

    folder = Path(folder)
    model = _read_model(folder)
    files = {name: _read_checked(folder / name, digest) for name, digest in model["files"].items()}
    engine = load_engine(folder / _ENGINE, rebuild=rebuild) if _ENGINE in files else None
    arrays = load_arrays(files[_ARRAYS])
    parameters = {**_engine_parameters(engine), **model["parameters"]}
    classifier = OpticalClassifier(**parameters, random_state=model["seed"])
    classifier._multilabel = model["multilabel"]
    classifier.classes_ = np.array(model["classes"], dtype=model["classes_dtype"])
    classifier.engine_, classifier._seed = engine, model["seed"]
    classifier.n_bits_ = classifier.n_features_in_ = model["features"]
    classifier.readout_ = _read_readout(model["readout"], model["features"], arrays)
    classifier.path_ = RidgePath(
        arrays["alphas"],
        arrays["loo_accuracies"],
        arrays["loo_errors"],
        model["best"],
        arrays["coefficients"] if "coefficients" in arrays else arrays["weights"],
        arrays["intercept"],
    )
    classifier.alpha_, classifier.loo_accuracy_ = model["alpha"], model["loo_accuracy"]
    classifier.projection_, classifier.skipped_ = classifier.readout_.kind, {}
    return classifier


def _engine_parameters(engine: Engine | None) -> dict[str, Any]:
    if engine is None:
        return {}
    made = engine.manifest
    return {
        "engine": engine,
        "backbone": made.backbone,
        "cut": made.cut,
        "precision": made.precision,
        "runtime": made.runtime,
    }


def _read_model(folder: Path) -> dict[str, Any]:
    if not (folder / _MODEL).is_file():
        raise UsageError(f"{folder} is not a model folder (no {_MODEL}); train one with `aurevoir fit`")
    try:
        model = json.loads((folder / _MODEL).read_bytes())
        schema = model.get("schema")
    except (ValueError, AttributeError) as error:
        raise AurevoirError(f"{folder / _MODEL} is damaged: {error}; train the model anew") from None
    if schema != SCHEMA:
        raise AurevoirError(f"{folder} is a model of schema {schema!r}; this version reads {SCHEMA!r}")
    return model


def _read_checked(path: Path, digest: str) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise AurevoirError(f"{path} is missing or has changed since it was saved; train the model anew")
    return data


def _card(classifier: "OpticalClassifier") -> str:
    lines = [
        "# An image classifier trained without backprop",
        "",
        "Made by aurevoir: signs of a truncated network's features, a projection, a ridge in closed form.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {', '.join(map(str, classifier.classes_))} |",
        f"| projection | {classifier.projection_} |",
        f"| alpha | {classifier.alpha_:.6g} |",
        f"| leave-one-out accuracy on the training images | {classifier.loo_accuracy_:.4f} |",
    ]
    if classifier.engine_ is not None:
        made = classifier.engine_.manifest
        lines += [
            f"| backbone | {made.backbone}, weights {made.weights}, cut at {made.cut} |",
            f"| features | {made.features} |",
            f"| precision | {made.precision} on {made.runtime} {made.runtime_version} |",
            f"| input | uint8 RGB {made.input_shape[0]} x {made.input_shape[1]}, resized by {made.resize} |",
        ]
        if made.sign_agreement is not None:
            lines.append(f"| signs that agree with fp32 | {made.sign_agreement:.4f} |")
    lines += [
        "",
        "`aurevoir predict FOLDER IMAGES` uses it, or in Python `aurevoir.load(FOLDER).predict(paths)`.",
        "",
    ]
    return "\n".join(lines)
