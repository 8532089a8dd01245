"""Text for a terminal: names stay on their line, and lines are joined to one."""

from ..printable import one_line, shown

__all__ = ["name", "one_line", "shown"]


def name(text: object) -> str:
    """Escape the name of a file or class so that it stays on its line."""
    return shown(str(text)).replace("\n", "\\n")
