"""What a model folder may hold: the fields of model.json, the arrays of the readout, and how they belong together."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..calibration.thresholds import KNOWN_METHODS
from ..engine.load import MODEL_ENGINE
from ..images.decode import RESIZES
from ..kernels.bits import packed_length
from ..kernels.memory import blocks
from ..kernels.readout import PROJECTIONS, PROJECTORS
from ..kernels.ridge import SEARCHES
from ..kernels.ridge.form import POOLED, RADIAL, SUMS
from ..schema import (
    BOOLEAN,
    DIGEST,
    Check,
    MalformedError,
    array,
    first_repeated,
    is_text,
    mapping,
    nullable,
    number,
    one_of,
    parse_object,
    record,
    require_version,
    shown,
    text,
    whole,
)
from .arrays_file import LARGEST_POOLED, checked_arrays, loaded_arrays
from .opu import OPUS

SCHEMA = "aurevoir-model/2"
ENGINE, ARRAYS, MODEL, CARD = MODEL_ENGINE, "readout.safetensors", "model.json", "README.md"
TRAINING = "training.safetensors"

_KINDS = ("none", "exact", *POOLED, *PROJECTORS, *OPUS)
_LABEL = Check(
    "a string, a number or a boolean",
    lambda value: is_text(value) if isinstance(value, str) else isinstance(value, bool | int | float),
)
_DTYPE = text(12, r"[<>|=]?([biufO]|[iu][1248]|f[248]|b1|U[1-9][0-9]{0,8})", "a plain NumPy dtype such as <U9")
_RIGHT = 1 + 1e-9
"""The greatest accuracy: weights are summed in two orders."""
_SEED = whole(0, 2**128 - 1)
_COUNT = whole(0, 2**63 - 1)
_CLASS_WEIGHT = Check(
    "'balanced' or positive numbers, one for each class",
    lambda value: value == "balanced" or (isinstance(value, list) and all(map(number(above=0).accepts, value))),
)
_PARAMETERS = record(
    {},
    {
        "projection": one_of((*PROJECTIONS, *POOLED, *OPUS)),
        "n_components": nullable(whole(1, 2**63 - 1)),
        "alpha_search": one_of(SEARCHES),
        "calibration_images": _COUNT,
        "method": one_of(KNOWN_METHODS),
        "resize": one_of(RESIZES),
        "alphas": nullable(array(number(0), 1)),
        "class_weight": nullable(_CLASS_WEIGHT),
    },
)
_MODEL = record(
    {
        "schema": text(),
        "classes": array(_LABEL, 1),
        "classes_dtype": _DTYPE,
        "features": whole(1),
        "alpha": number(0),
        "loo_accuracy": number(0, _RIGHT),
        "best": whole(),
        "multilabel": BOOLEAN,
        "seed": _SEED,
        "parameters": _PARAMETERS,
        "readout": Check("an object", lambda value: isinstance(value, dict)),
        "files": mapping(DIGEST, "digest", names=one_of((ARRAYS, ENGINE, TRAINING))),
    },
    {
        "feature_names": array(text(1 << 16), 1),
        "temperature": number(1e-6, 1e6),
        "loo_accuracy_of": mapping(number(0, _RIGHT), "the accuracy", names=one_of(_KINDS)),
    },
)
_GAIN = number(above=0, least=float(np.finfo("float32").tiny), most=float(np.finfo("float32").max))
_SPECKLE = {"kind": text(), "k": whole(1), "seed": _SEED, "gain": _GAIN, "saturation": number(0, 1)}
_CLASS_BYTES = 1 << 26
"""What the array of classes takes at most, each as long as the dtype allows."""
_STANDARDIZED = ("pooled_mean", "pooled_scale", "pooled_rows")
_FLOATS = frozenset(("weights", "coefficients", "intercept", "pooled_coefficients", *_STANDARDIZED))
_LARGEST = 1e200
"""Weights beyond would end in infinite scores."""


def read_model(data: bytes) -> dict[str, Any]:
    """Return the checked fields of model.json.

    Raises
    ------
    MalformedError
        If it is not JSON of this schema, or a field is missing, not known, or not of its type and range.
    """
    content = parse_object(data)
    require_version(content.get("schema"), (SCHEMA,))
    _MODEL(content, "")
    described = content["readout"]
    kind = described.get("kind")
    one_of(_KINDS)(kind, "readout.kind")
    plain = {"kind": text(), "channels": whole(1)} if kind in POOLED else {"kind": text()}
    fields = plain if kind in ("none", "exact", *POOLED) else _SPECKLE
    record(fields, {"device": text()} if kind == "opu" else {})(described, "readout")
    if ARRAYS not in content["files"]:
        raise MalformedError(f"has wrong fields (files.{ARRAYS} is missing)")
    given = content["parameters"].get("class_weight")
    if isinstance(given, list) and len(given) != len(content["classes"]):
        raise MalformedError(f"has wrong fields ({len(given)} numbers in class_weight, not one for each class)")
    names = content.get("feature_names")
    if names is not None and (len(names) != content["features"] or ENGINE in content["files"]):
        raise MalformedError(
            f"has wrong fields ({len(names)} feature_names for {content['features']} features; only a model without an "
            "engine has any, one for each feature)"
        )
    return content


def read_classes(content: Mapping[str, Any]) -> np.ndarray:
    """Return the classes of checked fields as an array of their dtype, or raise MalformedError."""
    classes, name = content["classes"], content["classes_dtype"]
    least = 1 if content["multilabel"] else 2
    if len(classes) < least:
        raise MalformedError(f"has wrong fields ({len(classes)} classes; at least {least} are needed)")
    if len({(isinstance(each, str), each) for each in classes}) < len(classes):
        repeated = first_repeated(classes)
        raise MalformedError(f"has wrong fields (class {shown(repeated)} is repeated)")
    try:
        kind = np.dtype(name)
    except TypeError:  # of texts longer than NumPy's longest
        kind = None
    if kind is None or kind.itemsize * len(classes) > _CLASS_BYTES:
        raise MalformedError(
            f"has wrong fields ({len(classes)} classes of dtype {name!r} are more than {_CLASS_BYTES} bytes)"
        )
    try:
        made = np.array(classes, dtype=kind)
        same = [(type(one), one) for one in made.tolist()] == [(type(one), one) for one in classes]
    except (ValueError, TypeError, OverflowError):
        same = False
    if not same:
        raise MalformedError(f"has wrong fields (classes_dtype {name!r} does not hold the classes as they are)")
    return made


def read_arrays(data: bytes, content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a readout, checked against the fields of model.json.

    Raises
    ------
    MalformedError
        If it is not a safetensors file, or an array is missing, not known, not of its dtype or shape, or not finite.
    """
    arrays = loaded_arrays(data)
    checked_arrays(arrays, _shapes(content, arrays))
    _check_values(content, arrays)
    return arrays


def _shapes(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype and shape that each array must have; what model.json does not say is the array's own."""
    m, c, kind = content["features"], len(content["classes"]), content["readout"]["kind"]
    length = arrays["alphas"].size if "alphas" in arrays else 0
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        name: ("float64", (length,)) for name in ("alphas", "loo_accuracies", "loo_errors")
    }
    found["intercept"] = ("float64", (c,))
    parts = SUMS.get(kind, (kind,))
    if set(parts) & set(RADIAL):
        n, channels = _rows(arrays, "pooled_rows"), content["readout"]["channels"]
        found |= {f"pooled_{name}": ("float64", (channels,)) for name in ("mean", "scale")}
        found |= {"pooled_rows": ("float32", (n, channels)), "pooled_coefficients": ("float64", (n, c))}
    if "exact" in parts:
        n = _rows(arrays, "rows")
        found |= {"rows": ("uint8", (n, packed_length(m))), "coefficients": ("float64", (n, c))}
    elif kind not in RADIAL:
        width = {"none": m, "pooled": content["readout"].get("channels")}.get(parts[0])
        found["weights"] = ("float64", (width or content["readout"]["k"], c))
    return found


def _rows(arrays: Mapping[str, np.ndarray], name: str) -> int:
    return max(2, len(arrays[name])) if name in arrays and arrays[name].ndim else 2


def _check_values(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name in _FLOATS.intersection(arrays):
        values = arrays[name]
        most = np.float64(LARGEST_POOLED if name in _STANDARDIZED else _LARGEST)
        if not all((np.abs(values[which]) <= most).all() for which in blocks(len(values), 4096)):
            raise MalformedError(f"is damaged (a value of {name} is not a finite number up to {most:g})")
    m = content["features"]
    if "rows" in arrays and m % 8 and (arrays["rows"][:, -1] & (0xFF >> m % 8)).any():
        raise MalformedError(f"is damaged (rows have ones behind their {m:,d} bits)")
    if "pooled_scale" in arrays and (arrays["pooled_scale"] < 0).any():
        raise MalformedError("is damaged (a value of pooled_scale is negative)")
    _check_path(content, arrays)


def _check_path(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check what leave-one-out scored."""
    alphas, accuracies, errors = (arrays[name] for name in ("alphas", "loo_accuracies", "loo_errors"))
    if not (np.isfinite(alphas) & (alphas >= 0)).all():
        raise MalformedError("is damaged (an alpha is not a finite number from 0)")
    if not (np.isnan(accuracies) | ((accuracies >= 0) & (accuracies <= _RIGHT))).all():
        raise MalformedError("is damaged (a loo_accuracy is not from 0 to 1)")
    if not (np.isnan(errors) | (errors >= 0)).all():
        raise MalformedError("is damaged (a loo_error is negative)")
    best = content["best"]
    if best >= len(alphas):
        raise MalformedError(f"does not belong to its {MODEL} (best is {best}, of {len(alphas)} alphas)")
    for name, value in (("alpha", alphas[best]), ("loo_accuracy", accuracies[best])):
        if content[name] != value:
            raise MalformedError(f"does not belong to its {MODEL} ({name} {content[name]} there, {value} here)")
