"""What fails keeps its row, with the reason: whatever one library raises, the others' rows stand."""

from collections.abc import Callable
from typing import Any


def reason(error: Exception) -> str:
    """Return what a row says of an error: its kind and its first line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def attempt(row: dict[str, Any], action: Callable[[], None]) -> None:
    """Run an action; note in the row why it failed, where it did."""
    try:
        action()
    except Exception as error:
        row["error"] = reason(error)
