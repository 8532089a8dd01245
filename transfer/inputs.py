"""What a classifier is given: images or features, labels, weights and the seed."""

import operator
import os
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..errors import DataError, UsageError
from ..images.archives import is_file
from ..images.batches import ImageArray, ImageFiles, Images
from ..images.decode import Resize
from ..images.decoded import Decoder
from ..images.labelled import labelled_images, list_images
from ..images.remote import path_of
from ..images.tables import TABLES

_CHANNELS = (1, 3, 4)


def images_and_labels(X: Any, y: Any) -> tuple[Any, Any, np.ndarray | None]:
    """Return the training data as `as_inputs` has it, its labels as `as_labels`, and the weights of a table.

    A folder, a table or archives can provide all of them.

    Raises
    ------
    UsageError, DataError
        If `y` is None and `X` is not a folder, or either is invalid.
    """
    if is_path(X) and y is None:
        found = labelled_images(path_of(X))
        labels = _sets(found.labels) if found.multilabel else np.asarray(found.labels)
        return found.paths, labels, None if found.weights is None else np.asarray(found.weights)
    if y is None:
        raise DataError("requires y to be passed, but the target y is None; only a folder names its classes")
    return as_inputs(X), as_labels(y), None


def is_path(value: Any) -> bool:
    """Return whether a value is the path of a file or folder."""
    return isinstance(value, str | os.PathLike)


def as_inputs(X: Any) -> Any:
    """Return inputs in one of the three forms that the others of this module take.

    Parameters
    ----------
    X : path, sequence of paths, images or features
        A path is a file or, for a folder or archive, the images in it as `list_images` has them, or for a table of
        paths and labels those of `labelled_images`. A sequence is a list, a tuple, a one-dimensional array, or a column
        of a data frame. Images are an array or tensor of uint8 of shape (n, height, width, channels), or a sequence
        of such images of one shape.

    Returns
    -------
    inputs : list of paths, uint8 array of shape (n, height, width, channels), or features
        What is neither paths nor images is returned as features, which `checked_features` checks.

    Raises
    ------
    UsageError
        If they are neither; the message says what to change.
    """
    if is_path(X):
        return _at_path(path_of(X))
    _refuse_containers(X)
    if hasattr(X, "columns"):
        return _from_frame(X)
    if isinstance(X, list | tuple) or (isinstance(X, Sequence) and not hasattr(X, "dtype")):
        return _from_sequence(_not_empty(X))
    array = _as_array(X)
    if _holds_paths(array):
        return _as_paths(array)
    if array.dtype == object and array.ndim == 1:
        return _from_sequence(_not_empty(array.tolist()))
    return _not_empty(_as_pixels(array, X)) if array.ndim > 2 else array


def _at_path(path: Path) -> list[Path]:
    if path.suffix.lower() in TABLES and is_file(path):
        return list(labelled_images(path).paths)
    return list(_not_empty(list_images([path], keep_missing=True)))


def _refuse_containers(X: Any) -> None:
    if issparse(X):
        raise UsageError("X is sparse, and sparse input is not supported; give X.toarray()")
    if isinstance(X, bytes | bytearray | memoryview):
        raise UsageError("X is bytes; give the path of an image as str, or its pixels as a uint8 array")
    if isinstance(X, Iterator | Mapping | Set):
        raise UsageError(f"X is a {type(X).__name__}, which has no fixed order or length; give a list, such as list(X)")


def _not_empty(X: Any) -> Any:
    if not len(X):
        raise UsageError("X is empty: found 0 images or rows; give at least one")
    return X


def _from_frame(frame: Any) -> Any:
    """Return the paths of a data frame of one column, or the frame, whose numbers are features."""
    head = np.asarray(frame if len(frame.columns) == 1 else frame[:1])
    return _as_paths(head) if _holds_paths(head) else frame


def _from_sequence(X: Sequence[Any]) -> Any:
    if any(map(is_path, X)):
        return _as_paths(X)
    first = X[0]
    if isinstance(first, bytes):
        raise UsageError("X holds bytes; give the paths of images as str, or their pixels as a uint8 array")
    if type(first).__module__.startswith("PIL."):
        raise UsageError(
            "X holds PIL images; give the paths of the files, which are resized as the engine needs them, or "
            "np.stack([np.asarray(image.convert('RGB').resize((width, height))) for image in X])"
        )
    if getattr(first, "ndim", 0) < 2:
        return X
    images = [_as_array(image) for image in X]
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise UsageError(
            f"X holds images of shapes {shapes[0]} and {shapes[1]}; resize them to the engine's input shape, or give "
            "the paths of the files, which are resized as the engine needs them"
        )
    return _as_pixels(np.stack(images), X)


def _as_array(X: Any) -> np.ndarray:
    """Return an array of any library as NumPy's, also one that torch or CuPy have on a GPU."""
    try:
        if hasattr(X, "detach"):
            X = X.detach().cpu()
        elif hasattr(X, "__dlpack__") and hasattr(X, "get"):
            X = X.get()
        return np.asarray(X)
    except (TypeError, ValueError) as error:
        raise UsageError(f"X, a {type(X).__name__}, cannot be read as an array: {_one_line(error)}") from error


def _holds_paths(array: np.ndarray) -> bool:
    if array.dtype.kind == "S":
        raise UsageError(f"X of dtype {array.dtype} holds bytes; give the paths of images as str")
    return array.dtype.kind in "UT" or (array.dtype == object and any(map(is_path, array.flat)))


def _as_paths(X: Any) -> list[Path | str]:
    if isinstance(X, np.ndarray):
        if X.ndim > 2 or X.shape[1:] not in ((), (1,)):
            raise UsageError(f"X has {X.shape[-1]} columns, with text among them; give the column of paths alone")
        X = X.reshape(-1).tolist()
    for index, value in enumerate(_not_empty(X)):
        if not is_path(value) or value == "":
            raise UsageError(f"X[{index}] is {_shown(value)} among paths; give the path of an image in its place")
    return [value if isinstance(value, str) else path_of(value) for value in X]


def _as_pixels(array: np.ndarray, X: Any) -> np.ndarray:
    """Return an array of images, or raise UsageError that names the expression that makes one of it."""
    steps = "np.stack(X)" if isinstance(X, Sequence) else "X.numpy()" if hasattr(X, "detach") else "X"
    given, white = steps, 1 if array.size and array.max() <= 1 else 255
    if array.dtype.kind == "f":
        steps = f"{f'(255 * {steps})' if white == 1 else steps}.round().astype('uint8')"
    elif array.dtype != np.uint8:
        steps += ".astype('uint8')"
    if array.ndim == 3 and array.shape[2] in _CHANNELS:
        steps += "[None]"
    elif array.ndim == 3:
        steps = f"np.repeat({steps}[..., None], 3, axis=3)"
    elif array.ndim == 4 and array.shape[1] in _CHANNELS and array.shape[3] not in _CHANNELS:
        steps += ".transpose(0, 2, 3, 1)"
    if array.ndim == 4 and steps == given:
        return array
    scale = f" if its pixels are from 0 to {white}" if array.dtype.kind == "f" else ""
    remedy = f"give {steps}{scale}, or features" if array.ndim < 5 else "give such an array, or features"
    raise UsageError(
        f"X of dtype {array.dtype} and shape {array.shape} is not images as uint8 of shape (n, height, width, 3); "
        f"{remedy} as floats of shape (n, m)"
    )


def is_features(X: Any) -> bool:
    """Return whether the inputs that `as_inputs` returns are features, or invalid ones for `checked_features`."""
    if isinstance(X, list):
        return not is_path(X[0])
    return getattr(X, "ndim", 2) <= 2


def checked_features(estimator: Any, X: Any, *y: Any, **options: Any) -> Any:
    """Return features, and labels if given, as scikit-learn's `validate_data` does.

    Raises
    ------
    UsageError
        If scikit-learn refuses them, or they are packed bits.
    """
    from sklearn.utils.validation import validate_data

    _refuse_packed(X)
    try:
        found = validate_data(estimator, X, *y, **options)
    except ValueError as error:
        raise UsageError(_one_line(error)) from error
    _refuse_packed(found[0] if y else found)
    return found


def _refuse_packed(X: Any) -> None:
    """Raise UsageError for bytes that are not the zeros and ones of unpacked bits."""
    if isinstance(X, np.ndarray) and X.dtype == np.uint8 and (X > 1).any():
        raise UsageError(
            f"X of dtype uint8 and shape {X.shape} may be packed bits; give np.unpackbits(X, axis=1, count=m) for the "
            "packed bits of m features, X.astype('float32') for features, and images as (n, height, width, 3)"
        )


def as_labels(y: Any) -> np.ndarray:
    """Return labels as an array of shape (n,), or a multilabel indicator matrix of shape (n, c).

    Text keeps its dtype, but NumPy's variable-width strings, which scikit-learn does not take, become ``<U``. Sets of
    names, such as ``[("cat", "sofa"), ("dog",), ()]``, become an array of tuples: see `is_sets`.

    Raises
    ------
    DataError
        If a label is missing, labels cannot be compared, or they are not labels of classes.
    """
    if isinstance(y, Iterator | Mapping | Set) or issparse(y):
        raise DataError(f"y is a {type(y).__name__}; give the labels as a list or array")
    if _holds_sets(y):
        return _sets(y)
    try:
        labels = _plain(y)
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise DataError("y contains NaN or infinity; leave images without a label out")
        if labels.dtype.kind == "S":
            raise DataError(f"y of dtype {labels.dtype} holds bytes; give classes as text, such as np.char.decode(y)")
        if not (labels.ndim == 1 and labels.dtype.kind in "Uiub"):
            labels = _as_targets(labels)
    except (TypeError, ValueError) as error:
        raise DataError(_one_line(error)) from error
    if is_indicator(labels) and not np.isin(labels, (0, 1)).all():
        raise DataError(f"y of shape {labels.shape} must hold zeros and ones only: which of the classes an image has")
    return labels


def _as_targets(labels: np.ndarray) -> np.ndarray:
    """Return labels of any other form than one text or integer an image as scikit-learn takes them, or refuses them."""
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import column_or_1d

    with warnings.catch_warnings():
        # Of as many classes as images, which may be what they are.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        check_classification_targets(labels)
    if is_indicator(labels):
        return labels
    # One column of labels is taken, with scikit-learn's warning.
    column: np.ndarray = column_or_1d(labels, warn=True)
    return column


def _plain(y: Any) -> np.ndarray:
    """Return labels as an array of numbers or text, with no missing ones among those of Python's or pandas' objects."""
    values = y if isinstance(y, list | tuple) else np.asarray(y)
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OT":
        if values.dtype.kind in "mM":
            raise DataError(f"y of dtype {values.dtype} is not supported; give classes as text, such as y.astype(str)")
        return values
    items = list(values) if not isinstance(values, np.ndarray) or values.ndim == 1 else values.ravel().tolist()
    for index, value in enumerate(items):
        if _is_missing(value):
            raise DataError(f"y[{index}] is {_shown(value)}, which is no label; leave images without a label out")
    text = {isinstance(value, str) for value in items}
    if len(text) > 1:
        raise DataError("y holds text and other labels; give labels of one kind, such as list(map(str, y))")
    if isinstance(values, np.ndarray) and values.dtype == object and text == {True}:
        return values
    return np.asarray(values.tolist() if isinstance(values, np.ndarray) else values)


def _is_missing(value: Any) -> bool:
    """Return whether a label is None, NaN or NaT, which differ from themselves, or pandas.NA, which does neither."""
    if value is None or isinstance(value, Iterable):
        return value is None
    same = operator.eq(value, value)
    return not (isinstance(same, bool | np.bool_) and same)


def is_indicator(y: np.ndarray) -> bool:
    """Return whether targets are a multilabel indicator matrix of shape (n, c)."""
    return y.ndim == 2 and y.shape[1] > 1


def is_sets(y: np.ndarray) -> bool:
    """Return whether labels are a tuple of names an image, in an array of shape (n,)."""
    return y.dtype == object and y.ndim == 1 and len(y) > 0 and isinstance(y[0], tuple)


def column_names(y: Any) -> np.ndarray | None:
    """Return the columns of a data frame of several labels an image, if they are text."""
    columns = list(getattr(y, "columns", ()))
    return np.array(columns) if len(columns) > 1 and all(isinstance(each, str) for each in columns) else None


def _holds_sets(y: Any) -> bool:
    """Return whether labels are tuples, sets or lists of text; lists of one each are a column of labels."""
    items = y if isinstance(y, list | tuple) else y.tolist() if str(getattr(y, "dtype", "")) == "object" else ()
    if not len(items) or not all(isinstance(each, tuple | list | set | frozenset) for each in items):
        return False
    if all(isinstance(each, list) and len(each) == 1 for each in items):
        return False
    return all(isinstance(name, str) for each in items for name in each)


def _sets(y: Any) -> np.ndarray:
    found = np.empty(len(y), dtype=object)
    found[:] = [tuple(sorted(set(each))) for each in y]
    return found


def check_lengths(X: Any, labels: np.ndarray) -> None:
    """Raise DataError unless there is one label per image."""
    if len(X) != len(labels):
        raise DataError(f"{len(X)} images and {len(labels)} labels; give one label per image")


def checked_weights(weights: Any, n: int) -> np.ndarray:
    """Return the weights of n images as float64, by default 1.

    Raises
    ------
    UsageError
        If they are not n finite, non-negative numbers, or all are 0.
    """
    if weights is None:
        return np.ones(n)
    try:
        given = np.asarray(weights)
        # Converting would drop the imaginary part, with a warning.
        if given.dtype.kind == "c":
            raise TypeError("they are complex")
        found: np.ndarray = given.astype("float64")
    except (TypeError, ValueError) as error:
        raise UsageError(f"sample_weight must be {n} finite, non-negative numbers: {_one_line(error)}") from error
    if found.shape != (n,) or not (np.isfinite(found) & (found >= 0)).all():
        raise UsageError(f"sample_weight of shape {found.shape} must be {n} finite, non-negative numbers")
    if n and not found.any():
        raise UsageError("sample_weight is zero everywhere; give at least two images a positive weight")
    return found


def is_count(value: Any) -> bool:
    """Return whether a value is an integer, and neither True nor False, which Python counts among them."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def resolve_seed(random_state: Any) -> int:
    """Return the seed of a scikit-learn ``random_state``.

    Raises
    ------
    UsageError
        If it is not one, or beyond the 64 bits that every projection takes.
    """
    if isinstance(random_state, int | np.integer):
        if not 0 <= random_state < 2**64:
            raise UsageError(f"random_state {random_state} is not between 0 and 2^64 - 1")
        return int(random_state)
    from sklearn.utils import check_random_state

    try:
        return int(check_random_state(random_state).randint(2**31))
    except ValueError as error:
        raise UsageError(f"random_state {random_state!r} is not known; give an integer from 0 up, or None") from error


def as_images(
    X: Any, shape: tuple[int, int, int], resize: Resize, description: str | None, decoder: Decoder | None = None
) -> Images:
    """Return files, decoded by `decoder` if given, or pixels as batches for an engine of an input shape.

    Raises
    ------
    UsageError
        If they are features, or pixels with other channels.
    """
    if is_features(X):
        kind = f"of dtype {X.dtype} and shape {X.shape}" if hasattr(X, "dtype") else f"a {type(X).__name__}"
        raise UsageError(
            f"X is {kind}, and the classifier was trained on images; give files or uint8 of shape (n, height, width, 3)"
        )
    if isinstance(X, list):
        return ImageFiles(X, shape[:2], resize, description=description, channels=shape[2], decoder=decoder)
    if X.shape[3] != shape[2]:
        remedy = {(1, 3): "np.repeat(X, 3, axis=3)", (4, 3): "X[..., :3]"}.get((X.shape[3], shape[2]))
        raise UsageError(
            f"X of shape {X.shape} has {X.shape[3]} channels, and the engine takes images of shape {shape}; "
            f"give {remedy or f'images with {shape[2]}'}"
        )
    return ImageArray(X, description)


def _shown(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
