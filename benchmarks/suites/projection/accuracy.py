"""Accuracy over k of every projection, compared with its limits, and what camera noise costs.

The bits of a data set are computed once. Every projection then sees the same splits, and split s
draws R by seed s, so that the standard error is over images and R alike.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....errors import UsageError
from ....kernels.bits import unpack
from ....kernels.camera import Camera, NoisyCamera
from ....kernels.memory import Budget, memory_budget, require
from ....kernels.projection import Dense, Projection, expose_sample
from ....kernels.readout import PROJECTORS, Projector
from ....progress import progress_bar
from ....transfer.opu import opu_projector
from ...contract import Cells, Json, Result, Row
from ...harness.labelled_bits import Choose, LabelledBits, fit_splits, photographs
from ...harness.splits import paired
from ...harness.synthetic_bits import digits
from ...reporting.figures import MARKERS, Axes, drawn, figure, legend_below, sound
from ...reporting.text import aligned, markdown_table, plus_minus

COMPONENTS = (64, 256, 1024, 4096, 16_384)
LIMITS = ("none", "exact")
FLOAT = "dense-float32"
# Electrons at white, and what reading adds, in electrons.
NOISE = ((100_000.0, 10.0), (10_000.0, 10.0), (10_000.0, 100.0), (1000.0, 10.0), (100.0, 3.0), (10.0, 1.0))


@dataclass(frozen=True)
class GaussianProjection(Projection):
    """|Rx|^2 with R complex Gaussian in float32, held whole: the reference in plain NumPy."""

    m: int
    k: int
    seed: int = 0
    kind: ClassVar[str] = FLOAT

    @cached_property
    def matrix(self) -> np.ndarray:
        """R, float32 of shape (2, m, k): real part, imaginary part."""
        return np.random.default_rng(self.seed).standard_normal((2, self.m, self.k), dtype="float32")

    def row_bytes(self) -> int:
        """Return the working memory of one row; see `Projection`."""
        return 5 * self.m + 12 * self.k

    def intensities(self, bits: np.ndarray, budget: Budget = None) -> np.ndarray:
        """Return float32 intensities of shape (n, k); see `Projection`."""
        x = unpack(bits, self.m, "float32")
        found: np.ndarray = np.square(x @ self.matrix[0]) + np.square(x @ self.matrix[1])
        return found


@dataclass(frozen=True)
class FilmedProjection(Dense):
    """`Dense` before a camera of its own."""

    camera: Camera | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this part."""
    parser.add_argument(
        "--accuracy",
        nargs="*",
        metavar="DATA",
        help="measure accuracy over k instead, on scikit-learn's digits and on these folders of class folders",
    )
    parser.add_argument("--backbone", help="of --accuracy DATA: a torchvision name or an ONNX file")
    parser.add_argument("--components", type=int, nargs="+", default=list(COMPONENTS), help="k (default: 64 to 16384)")
    parser.add_argument("--splits", type=int, default=5, help="80:20 splits, seeds from 0, of R too (default: 5)")
    parser.add_argument("--noise-components", type=int, default=1024, help="k under camera noise (default: 1024)")


def run(args: argparse.Namespace) -> Result:
    """Measure every projection at every k on every data set; a cell that fails keeps its row, with the reason."""
    if args.accuracy and not args.backbone:
        raise UsageError(f"data {' '.join(args.accuracy)} has no bits without a network; give --backbone")
    datasets = [digits(args.splits)]
    datasets += photographs(args.accuracy, args.backbone, args.splits) if args.accuracy else []
    memory = memory_budget(args.memory)
    rows = [row for data in datasets for row in _measure(data, args, memory)]
    backbone = Path(args.backbone).name if args.accuracy else None
    return Result("projection", rows, {"part": "accuracy", "backbone": backbone, "splits": args.splits})


def _measure(data: LabelledBits, args: argparse.Namespace, memory: int) -> list[Row]:
    cells = list(_cells(data, args.components, args.noise_components, memory))
    rows = []
    for own, projection in (bar := progress_bar(cells, desc=data.name)):
        bar.set_postfix_str(f"{own['projection']} k={own['k']}")
        row = Row({"data": data.name, "images": len(data.labels), "m": data.m} | own)
        with row.attempt():
            row.note(**fit_splits(data, projection, own["k"], memory, reseed=True))
        rows.append(row)
    _compare(rows, next((row for row in rows if row["projection"] == "exact"), None), "less_exact")
    noisy = [row for row in rows if "full_well" in row.cells]
    _compare(noisy, next((row for row in noisy if row["full_well"] is None), None), "less_noiseless")
    return rows


def _cells(
    data: LabelledBits, components: Sequence[int], noise_components: int, memory: int
) -> Iterator[tuple[Cells, str | Choose]]:
    for kind in LIMITS:
        yield {"projection": kind, "k": None}, kind
    makers: dict[str, Projector] = {
        **PROJECTORS,
        FLOAT: partial(_gaussian, memory),
        "opu-simulated": opu_projector("opu-simulated", memory),
    }
    for kind, make in makers.items():
        for k in components:
            yield {"projection": kind, "k": k}, partial(_always, make)
    for full_well, readout in ((None, None), *NOISE):
        row = {"projection": "dense", "k": noise_components, "full_well": full_well, "readout": readout}
        yield row, partial(_filmed, data.m, noise_components, full_well, readout)


def _always(projector: Projector, bits: np.ndarray, seed: int) -> Projector:
    return projector


def _gaussian(memory: int, m: int, k: int, seed: int) -> Projection:
    require(8 * m * k, memory, f"the {m} x {k} matrix of {FLOAT!r}", "lower --components")
    return GaussianProjection(m, k, seed)


def _filmed(
    m: int, k: int, full_well: float | None, readout: float | None, bits: np.ndarray, seed: int
) -> str | Projector:
    camera = expose_sample(Dense(m, k, seed), bits)
    if full_well is not None and readout is not None:
        camera = NoisyCamera(camera.gain, full_well, readout, np.random.default_rng(seed))
    return lambda m, k, seed: FilmedProjection(m, k, seed, camera)


def _compare(rows: Sequence[Row], reference: Row | None, name: str) -> None:
    """Note accuracy less that of a reference, split by split."""
    for row in rows:
        if reference is not None and row.error is None and reference.error is None:
            row.note(**{name: paired(row["accuracies"], reference["accuracies"])})


def markdown(result: Json) -> list[str]:
    """Return accuracy over k, and what camera noise takes."""
    rows = sound(result["rows"])
    plain, noisy = [row for row in rows if "full_well" not in row], [row for row in rows if row.get("full_well")]
    sizes = sorted({row["k"] for row in plain if row["k"] is not None})
    lines = [
        [data, kind, *(_cell(plain, _shown, data=data, projection=kind, k=k) for k in (None, *sizes))]
        for data, kind in dict.fromkeys((row["data"], row["projection"]) for row in plain)
    ]
    header = ["data", "projection", "any k", *(f"k = {k:,d}" for k in sizes)]
    caption = f"Mean and standard error over {result['splits']} splits, each with an R of its own:"
    datasets = list(dict.fromkeys(row["data"] for row in noisy))
    noise = [
        [
            f"{well:,g}",
            f"{readout:g}",
            *(_cell(noisy, _lost, data=data, full_well=well, readout=readout) for data in datasets),
        ]
        for well, readout in dict.fromkeys((row["full_well"], row["readout"]) for row in noisy)
    ]
    found = [caption, "", *markdown_table(header, lines)]
    if noise:
        k = noisy[0]["k"]
        found += ["", f"`dense`, k = {k:,d}, accuracy less that without camera noise:", ""]
        found += markdown_table(["electrons at white", "read-out noise, electrons", *datasets], noise)
    return found


def _cell(rows: Sequence[Json], show: Callable[[Json], str], **wanted: Any) -> str:
    found = next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)
    return show(found) if found else ""


def _shown(row: Json) -> str:
    return plus_minus(row["accuracy"], row["standard_error"], 3)


def _lost(row: Json) -> str:
    return _difference(row["less_noiseless"], 3)


def describe(result: Json) -> str:
    """Lay the rows out as a table."""
    note = (
        f"Mean and standard error over {result['splits']} splits, each with its own R; they share images, so that the "
        "error is somewhat too small. Digits: signs of a random layer, no network. "
        f"Photographs: {result['backbone'] or 'none'}."
    )
    header = ["", "projection", "k", "accuracy", "leave-one-out"]
    return "\n".join([note, *aligned(header, [_line(row) for row in result["rows"]])])


def _line(row: Json) -> list[str]:
    head = [row["data"], row["projection"], "" if row["k"] is None else str(row["k"])]
    if "error" in row:
        return [*head, row["error"]]
    remarks = [f"{words} {_difference(row[name], 4)}" for name, words in _LESS.items() if name in row]
    if row.get("full_well"):
        remarks.append(f"full well {row['full_well']:g} e-, read-out {row['readout']:g} e-")
    cells = [plus_minus(row["accuracy"], row["standard_error"], 4), f"{row['loo_accuracy']:.4f}"]
    return [*head, *cells, *([", ".join(remarks)] if remarks else [])]


_LESS = {"less_exact": "less exact", "less_noiseless": "less without noise"}


def _difference(found: Json, digits: int) -> str:
    return plus_minus(found["mean"], found["standard_error"], digits, "+")


def plot(result: Json, path: Path) -> None:
    """Draw accuracy over k with error bars, a panel a data set; the limits are lines across."""
    rows = [row for row in sound(result["rows"]) if "full_well" not in row]
    names = list(dict.fromkeys(row["data"] for row in rows))
    with figure(path, (max(7, 5 * len(names)), 5), (1, len(names))) as (whole, panels):
        for axes, name in zip(panels[0], names, strict=True):
            _panel(axes, [row for row in rows if row["data"] == name])
            axes.set_title(f"{name}, m = {next(row['m'] for row in rows if row['data'] == name):,d}")
        legend_below(whole, drawn(panels[0]), columns=7)


def _panel(axes: Axes, rows: list[Json]) -> None:
    for kind, style in zip(LIMITS, (":", "--"), strict=True):
        for row in rows:
            if row["projection"] == kind:
                axes.axhline(row["accuracy"], linestyle=style, color="0.4", label=f"{kind} (any k)")
    kinds = [kind for kind in dict.fromkeys(row["projection"] for row in rows) if kind not in LIMITS]
    for index, kind in enumerate(kinds):
        own = [row for row in rows if row["projection"] == kind]
        axes.errorbar(
            # Next to one another, so that the bars can be distinguished.
            [row["k"] * 1.04 ** (index - len(kinds) / 2) for row in own],
            [row["accuracy"] for row in own],
            [row["standard_error"] or 0 for row in own],
            fmt=MARKERS[index % 8] + "-",
            markersize=4,
            capsize=2,
            label=kind,
        )
    axes.set_xscale("log")
    axes.set_xlabel("components k")
    axes.set_ylabel("accuracy, ± its standard error")
