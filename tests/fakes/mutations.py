"""Damaged and hostile variants of what the package reads, for tests by hypothesis."""

import json
from copy import deepcopy

from hypothesis import strategies as st

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**64, 10**400, 0.5, -0.5, 1e308, 1e-320, float("nan"), float("inf")),
    *("", "x", "zzz", "\ud800", "a" * 5000, "../../x", "<U100000000", "|O", "<c16", "exact", "hadamard", "opu"),
    *([], [1], [[]], [None], ["a", 1], [{}], {}, {"a": 1}, {"a": {"b": [1]}}),
]


@st.composite
def damaged_bytes(draw, data):
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if kind == "set" and changed:
            changed[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[at : at + draw(st.sampled_from([1, 4, 50]))]
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[at:]
    return bytes(changed)


def _places(value, here=()):
    yield here
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value[:8]):
            yield from _places(entry, (*here, key))


@st.composite
def damaged_json(draw, data):
    """JSON whose values are replaced, removed or added, or whose bytes are damaged."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes(data))
    content = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(content) if place]
        if not places:
            break
        *before, last = draw(st.sampled_from(places))
        holder = content
        for key in before:
            holder = holder[key]
        kind = draw(st.sampled_from(["set", "set", "remove", "add"]))
        if kind == "remove":
            del holder[last]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["foo", "error", "rows"]))] = deepcopy(draw(st.sampled_from(VALUES)))
        else:
            holder[last] = deepcopy(draw(st.sampled_from(VALUES)))
    return json.dumps(content).encode()
