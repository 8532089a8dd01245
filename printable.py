"""Text for a terminal and for Markdown: what could command a terminal, reorder a line or begin a tag is escaped."""

import re

# Controls, which may be commands to a terminal; surrogates, which stand for bytes of names that are not UTF-8; and what
# is invisible or reorders what is around it. The joiners U+200C and U+200D belong to the spelling of some languages.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:@-])")


def shown(text: str) -> str:
    """Escape what cannot be shown, except line feeds."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Join lines into one, and escape what cannot be shown."""
    return shown(" ".join(filter(None, (line.strip() for line in text.split("\n")))))


def in_markdown(text: object) -> str:
    """Escape a name so that it is plain text on one line of Markdown, in a table as well."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", shown(str(text)).replace("\n", "\\n"))
