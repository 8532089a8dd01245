"""Find a network's tensors in a checkpoint, under whatever names and in whatever dictionaries they are."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

_DEPTH = 5
_AS_WELL = 0.9
"""Share of the tensors of those that fit best: one of two copies of a network may be without its head."""
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?)(?:$|[._])")
# Not weights: counters of batch norms, of torch's averaged models and of profilers, and what state dicts say besides.
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params", "_extra_state")
# Other names of the same tensors: torchvision's DenseNets before torch 0.4, and transformers' ResNets.
_RENAMED = [
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), lambda m: m[1] + m[2]),
    (re.compile(r"^embedder\.embedder\.convolution\."), lambda m: "conv1."),
    (re.compile(r"^embedder\.embedder\.normalization\."), lambda m: "bn1."),
    (
        re.compile(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(conv|n)(?:olution|ormalization)\."),
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.{'conv' if m[4] == 'conv' else 'bn'}{int(m[3]) + 1}.",
    ),
    (
        re.compile(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(conv|n)(?:olution|ormalization)\."),
        lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.{int(m[3] != 'conv')}.",
    ),
]


@dataclass(frozen=True)
class Found:
    """What a checkpoint holds of a network.

    Attributes
    ----------
    tensors : dict
        Those that fit, by the network's names.
    place : str
        The keys of the dictionary that they are in, and the prefix of their names there.
    misfits : dict
        The network's names whose tensors are of another shape or dtype, and how.
    missing, extra : list of str
        Names of the network that are not in the checkpoint, and of the checkpoint that are not in the network.
    rivals : list of str
        Places of other tensors in the checkpoint that fit as well, and have other values.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    place: str = ""
    misfits: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    rivals: list[str] = field(default_factory=list)


def find(own: Mapping[str, torch.Tensor], checkpoint: Any) -> Found:
    """Return where in a checkpoint most of a network's tensors are; of equals, averages of weights (EMA) first."""
    best, most, tried = Found(missing=_counted(own)), (0, 0, False), []
    for place, state in _dictionaries(checkpoint):
        for prefix in _prefixes(own, state):
            found = _fit(own, state, place, prefix)
            tried.append(found)
            fits = len(_counted(found.tensors))
            score = (fits, fits + len(found.misfits), bool(_AVERAGED.search(found.place)))
            if score > most:
                best, most = found, score
    return replace(best, rivals=[each.place for each in tried if each is not best and _rivals(each, best)])


def _rivals(other: Found, best: Found) -> bool:
    """Return whether tensors fit as well, or all but for a head, and have other values."""
    shared = other.tensors.keys() & best.tensors.keys()
    if len(_counted(other.tensors)) < _AS_WELL * max(1, len(_counted(best.tensors))):
        return False
    return any(not torch.equal(other.tensors[name], best.tensors[name]) for name in _counted(shared))


def _counted(names: Any) -> list[str]:
    return [name for name in names if not name.endswith(_COUNTERS)]


def _dictionaries(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield every dictionary with tensors in a checkpoint, and where it is."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content[:8]))
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    state = {_plain(key): torch.as_tensor(value) for key, value in content.items() if _is_tensor(key, value)}
    if state:
        yield place, state
    for key, value in content.items():
        yield from _dictionaries(value, f"{place}.{key}".lstrip("."), depth + 1)


def _is_tensor(key: object, value: object) -> bool:
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return isinstance(key, str) and (isinstance(value, torch.Tensor) or numbers)


def _plain(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _renamed(name: str, own: Mapping[str, torch.Tensor]) -> str:
    for pattern, new in _RENAMED:
        if name not in own and (other := pattern.sub(new, name)) in own:
            return other
    return name


def _prefixes(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the prefixes under which a state dict has most names of a network, at most four."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for index in range(len(parts)):
            if _renamed(".".join(parts[index:]), own) in own:
                counts["".join(f"{part}." for part in parts[:index])] += 1
    return [prefix for prefix, _ in counts.most_common(4)]


def _fit(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], place: str, prefix: str) -> Found:
    renamed = {
        _renamed(name.removeprefix(prefix), own): tensor for name, tensor in state.items() if name.startswith(prefix)
    }
    found = Found(place=".".join(filter(None, [place, prefix.rstrip(".")])))
    for name, tensor in own.items():
        other = renamed.get(name)
        if other is None:
            # Integers, such as the indices of Swin's position biases, are computed and not trained.
            if tensor.is_floating_point() and not name.endswith(_COUNTERS):
                found.missing.append(name)
        elif reason := _misfit(tensor, other):
            if not name.endswith(_COUNTERS):
                found.misfits[name] = reason
        else:
            found.tensors[name] = other
    found.extra.extend(
        name
        for name, tensor in renamed.items()
        if name not in own and not name.endswith(_COUNTERS) and tensor.is_floating_point()
    )
    return found


def _misfit(own: torch.Tensor, other: torch.Tensor) -> str | None:
    if own.shape != other.shape:
        return f"{tuple(other.shape)} instead of {tuple(own.shape)}"
    if own.is_floating_point() and not (other.is_floating_point() and other.dtype.itemsize > 1):
        return f"{other.dtype} instead of {own.dtype}".replace("torch.", "")
    if other.is_meta or other.layout != torch.strided:
        return "without values" if other.is_meta else "sparse instead of dense"
    return None
