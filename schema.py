"""What JSON may hold: types, ranges, known names. A refusal gives the place, the value and what is wanted."""

import json
import math
import re
import reprlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import AurevoirError

LONGEST = 32 << 20
"""Bytes of JSON that are parsed at most; its objects take up to 25 times as many."""


class MalformedError(Exception):
    """What is wrong, as the end of a sentence that begins with the file; see `refusing`."""


@contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Turn `MalformedError` within the block into one AurevoirError: ``what`` is the subject of its sentence."""
    try:
        yield
    except MalformedError as error:
        raise AurevoirError(f"{what} {error}; {remedy}") from None


def parse_object(data: bytes, verb: str = "is") -> dict[str, Any]:
    """Return a JSON object of unique names; `verb` is that of the message where it is another value.

    Raises
    ------
    MalformedError
        If it is not UTF-8 or JSON, another value, too long or too deep, or a name is repeated.
    """
    if len(data) > LONGEST:
        raise MalformedError(f"holds {len(data):,d} bytes of JSON, and at most {LONGEST:,d} are read")
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
    except RecursionError:
        raise MalformedError("is not JSON that can be read (nested too deeply)") from None
    except ValueError as error:
        raise MalformedError(f"is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise MalformedError(f"{verb} a {type(content).__name__}, not a JSON object")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = first_repeated(name for name, _ in pairs)
        raise MalformedError(f"is not JSON that can be read (the name {shown(repeated)} is repeated)")
    return found


def first_repeated(values: Iterable[Any]) -> Any:
    """Return the first value that came before, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def require_version(found: object, known: Sequence[str]) -> str:
    """Return the schema of a file, or raise MalformedError that tells newer versions from strange ones.

    Parameters
    ----------
    found : object
        The value of the file's key ``schema``.
    known : sequence of str
        The schemas that are read, such as ``aurevoir-model/2``, the newest first.
    """
    if isinstance(found, str) and found in known:
        return found
    name, _, newest = known[0].rpartition("/")
    number = re.fullmatch(rf"{name}/([1-9][0-9]{{0,8}})", found) if isinstance(found, str) else None
    newer = number is not None and int(number[1]) > int(newest)
    why = "written by a newer version of aurevoir; upgrade aurevoir: " if newer else ""
    raise MalformedError(f"is of schema {shown(found)}, {why}this version reads {known[0]!r}")


def has_schema(path: Path, schema: str) -> bool:
    """Return whether a file is a JSON object of a schema, in any version of it."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST:
            return False
        found = json.loads(path.read_bytes())["schema"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
    return isinstance(found, str) and found.startswith(f"{schema.partition('/')[0]}/")


def shown(value: object) -> str:
    """Return a value as a message quotes it: short, on one line."""
    return _QUOTES.repr(value)


_QUOTES = reprlib.Repr()
_QUOTES.maxstring = _QUOTES.maxother = _QUOTES.maxlong = 80


@dataclass(frozen=True)
class Check:
    """A check of one value.

    Parameters
    ----------
    wanted : str
        What is accepted, in words.
    accepts : callable
        Tells whether a value is accepted, itself alone.
    within : callable, optional
        Checks what the value holds, given it and its name.
    """

    wanted: str
    accepts: Callable[[Any], bool]
    within: Callable[[Any, str], None] = lambda value, name: None

    def __call__(self, value: Any, name: str, of: str = "") -> None:
        """Raise MalformedError that names the value unless it is accepted; `of` follows the value."""
        if not self.accepts(value):
            raise MalformedError(f"has wrong fields ({f'{name} {shown(value)}{of}'.strip()} is not {self.wanted})")
        self.within(value, name)


def whole(least: int = 0, most: int = 2**31 - 1) -> Check:
    """Accept whole numbers in a range."""
    return Check(
        f"an integer from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf, nan: bool = False) -> Check:
    """Accept finite numbers from `least` to `most`, and above `above`; NaN only if asked for."""
    bounds = [f"from {least:g}"] * math.isfinite(least) + [f"above {above:g}"] * math.isfinite(above)
    bounds += [f"up to {most:g}"] * math.isfinite(most)

    def accepts(value: Any) -> bool:
        if not is_number(value):
            return False
        return nan if value != value else math.isfinite(value) and least <= value <= most and value > above  # noqa: PLR0124

    return Check(" ".join(["a number", *bounds]) if bounds else "a number that is finite", accepts)


def is_number(value: Any) -> bool:
    """Tell numbers that a float can hold from all else in JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= 2**1023


def text(longest: int = 4096, pattern: str | None = None, wanted: str | None = None) -> Check:
    """Accept strings of so many letters at most, of a pattern; bytes that are not UTF-8 may be escaped in them."""
    matches = re.compile(pattern or ".*", re.DOTALL).fullmatch
    return Check(
        wanted or f"text of at most {longest} letters",
        lambda value: isinstance(value, str) and len(value) <= longest and is_text(value) and bool(matches(value)),
    )


def is_text(value: str) -> bool:
    """Tell whether a string is Unicode, but for surrogates that stand for the bytes of names that are not UTF-8."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


DIGEST = text(64, "[0-9a-f]{64}", "the 64 lower-case hexadecimal digits of a SHA-256")
BOOLEAN = Check("true or false", lambda value: isinstance(value, bool))


def one_of(choices: Sequence[str]) -> Check:
    """Accept one of some strings."""
    return Check(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def nullable(check: Check) -> Check:
    """Accept null besides."""
    return Check(
        f"{check.wanted}, or null",
        lambda value: value is None or check.accepts(value),
        lambda value, name: None if value is None else check.within(value, name),
    )


def array(each: Check, least: int = 0, most: int = LONGEST) -> Check:
    """Accept arrays of values of one kind."""

    def within(value: Any, name: str) -> None:
        for index, entry in enumerate(value):
            each(entry, f"{name}[{index}]")

    size = f"{least}" if least == most else f"{least} or more" if most == LONGEST else f"{least} to {most}"
    return Check(
        f"an array of {size} values", lambda value: isinstance(value, list) and least <= len(value) <= most, within
    )


def mapping(each: Check, singular: str, wanted: str = "an object", names: Check | None = None) -> Check:
    """Accept objects of any names, or of those that a check accepts, whose values are of one kind."""
    known = names or text()

    def within(value: Any, name: str) -> None:
        for key, entry in value.items():
            known(key, f"the name in {name}")
            each(entry, singular, f" of {key if key.isprintable() and len(key) <= 200 else shown(key)}")

    return Check(wanted, lambda value: isinstance(value, dict), within)


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Accept objects of known names; the checks run in the order of the names given."""
    every = {**required, **(optional or {})}

    def within(value: Any, name: str) -> None:
        inside = f"{name}." if name else ""
        for key in required:
            if key not in value:
                raise MalformedError(f"has wrong fields ({inside}{key} is missing)")
        for key in value:
            if key not in every:
                raise MalformedError(f"has wrong fields ({inside}{shown(key)} is not known to this version)")
        for key, check in every.items():
            if key in value:
                check(value[key], inside + key)

    return Check("an object", lambda value: isinstance(value, dict), within)
