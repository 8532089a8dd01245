"""Text for a terminal: control characters and what no encoding holds are escaped."""

import re

# Controls, which may be commands to a terminal, and surrogates, which stand for bytes of names that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(text: str) -> str:
    """Escape what cannot be shown, except line feeds."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def name(text: object) -> str:
    """Escape the name of a file or class so that it stays on its line."""
    return shown(str(text)).replace("\n", "\\n")


def one_line(text: str) -> str:
    """Join lines into one, and escape what cannot be shown."""
    return shown(" ".join(filter(None, (line.strip() for line in text.split("\n")))))
