"""Checkpoints of a training run, with the identity of the run."""

import io
from pathlib import Path
from typing import Any

import torch

from ...errors import AurevoirError
from ...saving import write_atomically


def read_checkpoint(path: Path, identity: dict[str, Any], device: str) -> dict[str, Any]:
    """Return the state of a run.

    Raises
    ------
    AurevoirError
        If the file is damaged, or of a run with another identity.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        found = state["identity"]
        other = [name for name, value in identity.items() if found[name] != value]
    except Exception as error:  # unpickling, zip and file errors share no base class
        reason = str(error).partition("\n")[0]
        raise AurevoirError(
            f"{path} is not a checkpoint of this trainer ({reason}); remove it to train again"
        ) from None
    if other:
        raise AurevoirError(
            f"{path} is the checkpoint of a run with another {' and '.join(other)}; remove it or name another file"
        )
    return state


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, its ``identity`` within, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())
