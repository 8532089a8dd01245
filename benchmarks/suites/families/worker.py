"""One network in a process of its own, so that a crash of a library ends no other's: ``worker TASK.json``.

Rows go to a file as they come, each after a line for what was begun; what stands in it is not measured again.
"""

import hashlib
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....engine.sample import sample_images
from ...contract import Cells, Row, reason
from ...harness.datasets import procedural_images
from .exporters import Exporters, opset_of
from .measure import Images, Measurements, torch_features
from .networks import NETWORKS, Network, normalised, random_module

if TYPE_CHECKING:
    from torch import nn

MODULE = "module"
"""In place of an exporter: the module itself, which the project exports."""


@dataclass(frozen=True)
class Task:
    """What to measure of one network, and where rows are kept."""

    network: str
    rows: str
    exporters: list[str]
    opsets: list[int]
    int8_opsets: list[int]
    runtimes: list[str]
    data: str | None
    calibration_images: int
    test_images: int
    seed: int

    def steps(self) -> list[tuple[str, int | None]]:
        """Return every exporter with every opset; the module itself has that of its own export."""
        pairs = [(name, opset) for name in self.exporters if name != MODULE for opset in self.opsets]
        return [*pairs, *([(MODULE, None)] if MODULE in self.exporters else [])]

    def key(self, exporter: str, opset: int | None) -> str:
        """Return what a row is found by: its name, and all that its figures depend on."""
        aside = ("rows", "exporters", "opsets", "int8_opsets")
        settings = json.dumps({name: value for name, value in asdict(self).items() if name not in aside})
        compared = "fp32 and int8" if opset in self.int8_opsets else "fp32"
        return f"{exporter} {opset}, {compared}, settings {hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def find_network(name: str) -> Network:
    """Return a network by library and model."""
    return next(network for network in NETWORKS if network.name == name)


def read_lines(path: Path) -> list[Cells]:
    """Return the lines of a file of rows; one that a killed process left unfinished is passed over."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def append_line(path: Path, **cells: Any) -> None:
    """Add a line."""
    with path.open("a") as file:
        file.write(json.dumps(cells) + "\n")


class _Work:
    """A network, what measures it, and its rows."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(1)  # Others work beside.
        self.task, self.network, self.path = task, find_network(task.network), Path(task.rows)
        self.images = _images(task, self.network.size)

    @cached_property
    def module(self) -> "nn.Module":
        return random_module(self.network, self.images.calibration, self.task.seed)

    @cached_property
    def exporters(self) -> Exporters:
        import torch

        return Exporters(self.module, torch.from_numpy(normalised(self.images.test[:2])))

    @cached_property
    def reference(self) -> tuple[Any, float]:
        return torch_features(self.module, self.images.test)

    @cached_property
    def measurements(self) -> Measurements:
        return Measurements(self.images, self.task.runtimes, self.network.attention, self._begin)

    def _begin(self, stage: str) -> None:
        append_line(self.path, begun=self.key, stage=stage)

    def step(self, exporter: str, opset: int | None) -> None:
        self.key = self.task.key(exporter, opset)
        network = self.network
        row = Row({"family": network.family, "library": network.library, "model": network.model, "size": network.size})
        row.note(exporter=exporter, opset=opset)
        start = time.perf_counter()
        if exporter == MODULE:
            self._module(row)
        else:
            self._file(row, exporter, opset or 0)
        row.note(seconds=time.perf_counter() - start)
        append_line(self.path, key=self.key, row=row.to_json())

    def _file(self, row: Row, exporter: str, opset: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path, start = Path(folder) / "network.onnx", time.perf_counter()
            self._begin("torch's export")
            try:
                row.note(written_opset=self.exporters.write(exporter, opset, path))
            except Exception as error:  # torch raises errors of many kinds
                row.note(failed_in="torch")
                row.error = reason(error)
                return
            row.note(export_seconds=time.perf_counter() - start)
            with row.attempt():
                builder = self.measurements.builder(path, self.network.size)
                reference, own = self.reference
                row.note(torch_error=own, **self.measurements.fp32(builder, reference))
                if opset in self.task.int8_opsets:
                    int8 = self.measurements.int8(builder, reference)
                    row.note(**int8 | {"refused": row["refused"] | int8["refused"]})

    def _module(self, row: Row) -> None:
        with row.attempt():
            builder = self.measurements.builder(self.module, self.network.size, self.network.cut)
            exported = builder.exported
            row.note(opset=opset_of(exported.graph), cut=exported.cut)
            reference, own = torch_features(self.module, self.images.test, exported.cut)
            row.note(torch_error=own, **self.measurements.fp32(builder, reference))


def _images(task: Task, size: int) -> Images:
    count = task.calibration_images + task.test_images
    pixels = sample_images(task.data, (size, size), count) if task.data else procedural_images(count, size)
    # A folder's order is that of its classes: every few images one is set apart to compare on.
    test = range(0, len(pixels), max(1, len(pixels) // task.test_images))[: task.test_images]
    kept = [index for index in range(len(pixels)) if index not in test]
    return Images(pixels[kept], pixels[list(test)])


def main(path: str) -> None:
    """Do every step of a task that has no row yet."""
    task = Task(**json.loads(Path(path).read_text()))
    done = {line["key"] for line in read_lines(Path(task.rows)) if "row" in line}
    missing = [step for step in task.steps() if task.key(*step) not in done]
    if not missing:
        return
    work = _Work(task)
    for step in missing:
        work.step(*step)


if __name__ == "__main__":
    main(sys.argv[1])
