"""Truncate torch modules after calls of their submodules, and export them to ONNX."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from torch import nn

from ...errors import AurevoirError
from .cut_points import Call, features_of, first_line
from .streams import redirected
from .torch_trace import OPSET, trace

_LOG = logging.getLogger("aurevoir.export")
_CHATTY = ("torch.onnx", "onnxscript", "torch.export", "torch.fx", "torch._subclasses")
_ROUNDING = 1e-3
"""Of the size of an image's features: what other orders of summation may change."""


class _Reached(BaseException):  # no forward that catches exceptions of its own may catch this one
    """All cuts have been computed."""


class Truncated(nn.Module):
    """A network up to its last cut, which returns the features at its cut, or a tuple of those at several."""

    def __init__(self, network: nn.Module, cuts: Sequence[Call]) -> None:
        super().__init__()
        self.network, self.cuts = network, list(cuts)
        self.eval()

    def forward(self, image: torch.Tensor) -> Any:
        """Return the features of normalised images."""
        found: dict[str, torch.Tensor] = {}
        counts: dict[str, int] = {}

        def note(path: str, layer: nn.Module, inputs: Any, output: Any) -> None:
            index = counts[path] = counts.get(path, -1) + 1
            for cut in self.cuts:
                if (cut.path, cut.index) == (path, index):
                    features = features_of(layer, inputs, output)
                    # Later layers may work in place.
                    found[cut.name] = features if len(self.cuts) == 1 else features.clone()
            if len(found) == len({cut.name for cut in self.cuts}):
                raise _Reached

        paths = {cut.path for cut in self.cuts}
        hooks = [self.network.get_submodule(path).register_forward_hook(partial(note, path)) for path in paths]
        try:
            with _untracked():
                self.network(image)
        except _Reached:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return found[self.cuts[0].name] if len(self.cuts) == 1 else tuple(found[cut.name] for cut in self.cuts)

    def drop_unused(self, used: set[str]) -> "Truncated":
        """Take out, in place, the layers that have parameters or buffers and use none of those named."""
        for path, layer in list(self.network.named_modules()):
            own = [name for name, _ in [*layer.named_parameters(path, False), *layer.named_buffers(path, False)]]
            if own and not used.intersection(own):
                parent, _, name = path.rpartition(".")
                setattr(self.network.get_submodule(parent), name, nn.Identity())
        return self


@contextmanager
def _untracked() -> Iterator[None]:
    """Let torch.export not follow which module it is in: it loses count where `_Reached` leaves several at once."""
    if not torch.compiler.is_exporting():
        yield
        return
    with mock.patch.object(nn.Module, "__call__", nn.Module._wrapped_call_impl):
        yield


def set_batch_norm_statistics(module: nn.Module, images: np.ndarray, batch_size: int = 16) -> None:
    """Set the running statistics of every batch norm to their averages over images, in place.

    Parameters
    ----------
    module : torch.nn.Module
    images : float32 array of shape (n, channels, height, width)
        Normalised.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            module(torch.from_numpy(images[start : start + batch_size]))
    module.eval()


def check_repeatable(module: Truncated, shape: tuple[int, ...], name: str) -> None:
    """Check that an image has the same features each time, alone and inside a batch; no exporter does.

    Raises
    ------
    AurevoirError
        If it has not.
    """
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            alone, again, among = (_flat(module(each)) for each in (images[:1], images[:1], images))
    except Exception:  # whatever a module's own code raises; the exporter meets it too
        return
    where = f"{name} up to {module.cuts[-1].name!r}"
    if not _close(alone, again):
        raise AurevoirError(
            f"{where} gives the same image other features each time, as where its forward draws random numbers; take "
            "them out, or draw them in training only, as F.dropout(x, training=self.training) does, or cut before them"
        )
    if alone.shape[1:] != among.shape[1:] or not _close(alone, among[:1]):
        raise AurevoirError(
            f"{where} gives an image other features alone than in a batch of 2: its forward mixes the images of a "
            "batch, or depends on their number; treat every image alike there, or cut before it"
        )


def _flat(features: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    tensors = features if isinstance(features, tuple) else (features,)
    return torch.cat([tensor.flatten(1) for tensor in tensors], 1)


def _close(features: torch.Tensor, others: torch.Tensor) -> bool:
    # What is not finite is told by the first inference.
    return not (features - others).norm() > _ROUNDING * features.norm()


def export(module: Truncated, shape: tuple[int, ...], name: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """Export a truncated network for any number of images of shape (channels, height, width).

    `torch_trace` writes networks of common operators in a tenth of the time that torch's exporter takes for the others.

    Raises
    ------
    AurevoirError
        If neither can follow the network's code.
    """
    try:
        with _quiet():
            return trace(module, shape, outputs)
    except Exception as error:  # of any type; torch's exporter says what is wrong with the network's code
        _LOG.debug("%s is exported by torch.onnx: %s", name, first_line(error))
    return _export_by_torch(module, shape, name, outputs)


def _export_by_torch(module: Truncated, shape: tuple[int, ...], name: str, outputs: Sequence[str]) -> onnx.ModelProto:
    sample, batch = torch.zeros(2, *shape), {0: torch.export.Dim("batch")}
    try:
        with _quiet():
            captured = torch.export.export(module, (sample,), dynamic_shapes=(batch,), strict=False)
            program = torch.onnx.export(
                captured,
                dynamo=True,
                input_names=["image"],
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises errors of many types on code it cannot follow
        cuts, why = "; ".join(cut.name for cut in module.cuts), first_line(error)
        if why.startswith("Constraints violated (batch)"):
            why = "its forward branches on the number of images"
        raise AurevoirError(
            f"torch.export cannot follow {name} to {cuts!r} for any number of images: {why}; cut "
            "earlier, or export the truncated network to ONNX yourself and give that file as the backbone"
        ) from None
    if program is None:
        raise AurevoirError("torch.onnx.export returned no program; give an ONNX file as the backbone")
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of torch, and what it prints where it fails."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    with redirected(io.StringIO(), io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
