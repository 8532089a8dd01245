"""Progress bars on stderr."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """Return a tqdm progress bar; it is disabled without `show` or if stderr is not a terminal."""
    return tqdm(items, disable=None if show else True, **options)
