"""Both of torch's ONNX exporters, as people call them: a free batch size, a named opset, else their own settings."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    import torch
    from torch import nn

EXPORTERS = ("torchscript", "dynamo")
OPSETS = tuple(range(11, 21))


class Exporters:
    """Exports a module again and again.

    Parameters
    ----------
    module : torch.nn.Module
    sample : torch.Tensor
        Two images or more: torch takes a batch of one for a constant.
    """

    def __init__(self, module: "nn.Module", sample: "torch.Tensor") -> None:
        self.module, self.sample = module, sample
        self._program: Any = None

    def write(self, exporter: str, opset: int, path: Path) -> int:
        """Write an ONNX file and return the opset that it has, which may be another than the one asked for."""
        import torch

        named: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "opset_version": opset}
        with _quiet():
            if exporter == "torchscript":
                axes = {"input": {0: "batch"}, "output": {0: "batch"}}
                torch.onnx.export(self.module, (self.sample,), str(path), dynamo=False, dynamic_axes=axes, **named)
            else:
                torch.onnx.export(self._traced(), (self.sample,), str(path), dynamo=True, verbose=False, **named)
        return opset_of(onnx.load(path, load_external_data=False))

    def _traced(self) -> Any:
        """Return the module traced, which takes longest and is the same for every opset."""
        import torch

        if self._program is None:
            batch = torch.export.Dim("batch")
            self._program = torch.export.export(self.module, (self.sample,), dynamic_shapes=({0: batch},))
        return self._program


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of a model's standard operators."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
