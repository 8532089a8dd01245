"""The threads of native libraries do not survive a fork: what the parent used hangs or ends the child."""

import os

from ..errors import AurevoirError

_USED_IN: dict[str, int] = {}


def check_process(library: str) -> None:
    """Note that this process uses a library.

    Raises
    ------
    AurevoirError
        If this process was forked from one that had used it.
    """
    own = os.getpid()
    if _USED_IN.setdefault(library, own) != own:
        raise AurevoirError(
            f"this process was forked from one that had used {library}, whose threads do not survive that; start "
            'processes with multiprocessing.get_context("spawn"), or use engines and models only in the children'
        )
