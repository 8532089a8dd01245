"""Numbers of bytes as people write them."""

import re

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: object) -> float | None:
    """Return the bytes of a number or a text such as ``4GiB``, or None if it is neither."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if match is None or match[2].upper() not in _UNITS:
        return None
    return float(match[1]) * _UNITS[match[2].upper()]
