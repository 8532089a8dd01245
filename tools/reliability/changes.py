"""Changes to bytes and JSON documents, from a random generator: what files of every format are mutated with."""

import contextlib
import json
import struct
from random import Random
from typing import Any

NUMBERS = (0, -1, 1, 2, 127, 128, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**32, 2**33, 2**62, 2**63 - 1, 2**64)


def changed_bytes(random: Random, data: bytes) -> bytes:
    """Change bytes: single bits, runs, integers, pieces cut out, doubled or moved, an end cut off."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        at = random.randrange(len(found) + 1)
        size = random.choice((1, 2, 4, 8, 64, 1000))
        kind = random.randrange(7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            found[at : at + size] = random.randbytes(size)
        elif kind == 2:
            found[at : at + 8] = struct.pack("<Q", random.choice(NUMBERS) & (2**64 - 1))[: random.choice((2, 4, 8))]
        elif kind == 3:
            del found[at : at + size]
        elif kind == 4:
            found[at:at] = found[at : at + size]
        elif kind == 5:
            found[at:at] = random.randbytes(size)
        elif random.random() < 0.3:
            del found[at:]
    return bytes(found)


def changed_json(random: Random, data: bytes) -> bytes:
    """Change a JSON document: values, keys, lengths, depth; now and then its bytes."""
    if random.random() < 0.15:
        return changed_bytes(random, data)
    document = json.loads(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        document = _changed(random, document)
    return json.dumps(document).encode() if random.random() < 0.99 else _deep(random)


def _deep(random: Random) -> bytes:
    depth = random.choice((100, 990, 1100, 100_000))
    return random.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))


def _changed(random: Random, value: Any) -> Any:
    """Change one place of a document, or all of it."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.75:
            return value | {key: _changed(random, value[key])}
        return _other_keys(random, value, key)
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        if random.random() < 0.6:
            return [*value[:at], _changed(random, value[at]), *value[at + 1 :]]
        return random.choice(
            (value[:at], value[:at] + value[at + 1 :], [*value, value[at]], value * 3, value[::-1], [])
        )
    return _value(random, value)


def _other_keys(random: Random, value: dict[str, Any], key: str) -> dict[str, Any]:
    rest = {name: each for name, each in value.items() if name != key}
    other = random.choice(list(value))
    return random.choice(
        (
            rest,
            value | {odd_text(random): value[key]},
            rest | {odd_text(random): value[key]},
            value | {other: value[key]},
            value | {key: value},
            {},
        )
    )


def odd_text(random: Random) -> str:
    """Return a text that is rarely a name."""
    odd = ("", "\ud800", "\x1b[31m", "\n", "../../x", "/etc/passwd", "a" * 5000, "\0", "schema", "é", "%s{0}", "nan")
    return random.choice(odd)


def _value(random: Random, value: Any) -> Any:
    if isinstance(value, str) and value and random.random() < 0.5:
        at = random.randrange(len(value))
        return random.choice(
            (value[:at], value + odd_text(random), value[:at] + chr(random.randrange(1, 300)) + value[at:])
        )
    if isinstance(value, int | float) and not isinstance(value, bool) and random.random() < 0.4:
        with contextlib.suppress(OverflowError):
            return random.choice((value + 1, value - 1, -value, value * 2, value / 2, value * 1e9, float(value)))
    odd: tuple[Any, ...] = (
        None,
        True,
        False,
        10**400,
        1e308,
        5e-324,
        -0.0,
        float("nan"),
        float("inf"),
        float("-inf"),
        [],
        {},
        [[]],
    )
    more = ([None], {"": None}, 0.5, 1.5, "0", "1", "int8", "<U100000000", "|O8", "<U3")
    return random.choice((*odd, *more, odd_text(random), random.choice(NUMBERS)))
