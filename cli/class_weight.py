"""Weights of classes from the command line."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from ..errors import UsageError
from ..schema import first_repeated
from .text import name

ClassWeight = dict[str, float] | str | None


def class_weight(words: Sequence[str] | None, classes: Collection[str]) -> ClassWeight:
    """Return the weights of classes that the words of ``--class-weight`` give.

    Parameters
    ----------
    words : sequence of str, optional
        ``balanced``; a JSON file that holds an object of weights by class; or texts ``NAME=WEIGHT``.
    classes : collection of str
        The names that there are; those without a weight have 1.

    Raises
    ------
    UsageError
        If a weight is not a positive number, or its class is not one of those.
    """
    if words is None or list(words) == ["balanced"]:
        return None if words is None else "balanced"
    if len(words) == 1 and "=" not in words[0]:
        given = _in_file(words[0])
    else:
        if other := next((each for each in words if "=" not in each), None):
            raise UsageError(f"--class-weight {name(other)} is not NAME=WEIGHT; give balanced, or one file, alone")
        given = {each.rpartition("=")[0]: each.rpartition("=")[2] for each in words}
        if (again := first_repeated(each.rpartition("=")[0] for each in words)) is not None:
            raise UsageError(f"--class-weight gives {name(again)} twice; give each class one weight")
    return {each: _checked(each, weight, classes) for each, weight in given.items()}


def _in_file(path: str) -> dict[str, object]:
    from ..files import read_file
    from ..schema import LONGEST, MalformedError, parse_object

    remedy = "give balanced, NAME=WEIGHT, or a JSON file that holds an object of weights by class"
    data = read_file(path, LONGEST, "file of class weights", remedy)
    try:
        return parse_object(data, "holds")
    except MalformedError as error:
        raise UsageError(f"--class-weight {path} {error}; {remedy}") from None


def _checked(label: str, weight: object, classes: Collection[str]) -> float:
    if label not in classes:
        near = get_close_matches(label, classes, n=1)
        hint = f"; did you mean {name(near[0])}?" if near else f"; those are {', '.join(map(name, sorted(classes)))}"
        raise UsageError(f"--class-weight {name(label)} is not one of the classes{hint}")
    try:
        found = float(weight) if isinstance(weight, int | float | str) and not isinstance(weight, bool) else 0.0
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise UsageError(f"--class-weight {name(label)}={name(weight)} is not a positive number; give one, such as 2.5")
    return found
