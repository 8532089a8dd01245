"""Accuracy over k of every projection, beside its limits, and what camera noise costs.

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
from tqdm import tqdm

from ...errors import UsageError
from ...kernels.bits import unpack
from ...kernels.camera import Camera, NoisyCamera
from ...kernels.memory import Budget, memory_budget, require
from ...kernels.projection import Dense, Projection, expose_sample
from ...kernels.readout import PROJECTORS, Projector, fit_readout
from ...transfer.opu import opu_projector
from ..harness.failures import reason
from ..harness.scaling import MARKERS
from ..harness.splits import standard_error
from ..harness.synthetic_bits import LabelledBits, digits, photographs
from ..reporting.tables import markdown, plus_minus

COMPONENTS = (64, 256, 1024, 4096, 16_384)
LIMITS = ("none", "exact")
FLOAT = "dense-float32"
# Electrons at white, and what reading adds, in electrons.
NOISE = ((100_000.0, 10.0), (10_000.0, 10.0), (10_000.0, 100.0), (1000.0, 10.0), (100.0, 3.0), (10.0, 1.0))

Cell = Callable[[np.ndarray, int], str | Projector]
"""From the training bits and a seed to what `fit_readout` takes for a projection."""


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


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every projection at every k on every data set; a cell that fails keeps its row, with the reason."""
    if args.accuracy and not args.backbone:
        raise UsageError(f"data {' '.join(args.accuracy)} has no bits without a network; give --backbone")
    sets = [digits(args.splits)]
    sets += photographs(args.accuracy, args.backbone, args.splits) if args.accuracy else []
    memory = memory_budget(args.memory)
    rows = [row for data in sets for row in _measure(data, args, memory)]
    return {
        "part": "accuracy",
        "backbone": Path(args.backbone).name if args.accuracy else None,
        "splits": args.splits,
        "rows": rows,
    }


def _measure(data: LabelledBits, args: argparse.Namespace, memory: int) -> list[dict[str, Any]]:
    cells = list(_cells(data, args.components, args.noise_components, memory))
    rows = []
    for row, cell in (bar := tqdm(cells, desc=data.name)):
        bar.set_postfix_str(f"{row['projection']} k={row['k']}")
        rows.append(
            {"data": data.name, "images": len(data.labels), "m": data.m} | row | _accuracy(data, row, cell, memory)
        )
    _compare(rows, next((row for row in rows if row["projection"] == "exact"), None), "less_exact")
    noisy = [row for row in rows if "full_well" in row]
    _compare(noisy, next((row for row in noisy if row["full_well"] is None), None), "less_noiseless")
    return rows


def _cells(
    data: LabelledBits, components: Sequence[int], noise_components: int, memory: int
) -> Iterator[tuple[dict[str, Any], Cell]]:
    for kind in LIMITS:
        yield {"projection": kind, "k": None}, partial(_given, kind)
    makers: dict[str, Projector] = {
        **PROJECTORS,
        FLOAT: partial(_gaussian, memory),
        "opu-simulated": opu_projector("opu-simulated", memory),
    }
    for kind, make in makers.items():
        for k in components:
            yield {"projection": kind, "k": k}, partial(_given, make)
    for full_well, readout in ((None, None), *NOISE):
        row = {"projection": "dense", "k": noise_components, "full_well": full_well, "readout": readout}
        yield row, partial(_filmed, data.m, noise_components, full_well, readout)


def _given(projection: str | Projector, bits: np.ndarray, seed: int) -> str | Projector:
    return projection


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


def _accuracy(data: LabelledBits, row: dict[str, Any], cell: Cell, memory: int) -> dict[str, Any]:
    accuracies, loo = [], []
    try:
        for seed, (train, test) in enumerate(data.parts):
            bits = data.bits[train]
            projection = cell(bits, seed)
            readout, path = fit_readout(
                bits, data.m, data.labels[train], data.classes, projection, row["k"], seed=seed, budget=memory
            )
            scores = readout.scores(data.bits[test], memory)
            accuracies.append(float((scores.argmax(axis=1) == data.labels[test]).mean()))
            loo.append(path.loo_accuracy)
    except Exception as error:  # Whatever a library raises, the others' rows stand.
        return {"error": reason(error)}
    return {
        "accuracy": float(np.mean(accuracies)),
        "standard_error": standard_error(accuracies),
        "accuracies": accuracies,
        "loo_accuracy": float(np.mean(loo)),
    }


def _compare(rows: Sequence[dict[str, Any]], reference: dict[str, Any] | None, name: str) -> None:
    """Note accuracy less that of a reference, split by split."""
    for row in rows:
        if reference is not None and "error" not in row and "error" not in reference:
            differences = np.subtract(row["accuracies"], reference["accuracies"])
            row[name] = {"mean": float(differences.mean()), "standard_error": standard_error(differences)}


def summary(result: dict[str, Any]) -> list[str]:
    """Return the README's lines: accuracy over k, and what camera noise takes."""
    rows = [row for row in result["rows"] if "error" not in row]
    plain, noisy = [row for row in rows if "full_well" not in row], [row for row in rows if row.get("full_well")]
    sizes = sorted({row["k"] for row in plain if row["k"] is not None})
    lines = [
        [data, kind, *(_cell(plain, _shown, data=data, projection=kind, k=k) for k in (None, *sizes))]
        for data, kind in dict.fromkeys((row["data"], row["projection"]) for row in plain)
    ]
    header = ["data", "projection", "any k", *(f"k = {k:,d}" for k in sizes)]
    caption = f"Mean and standard error over {result['splits']} splits, each with an R of its own:"
    sets = list(dict.fromkeys(row["data"] for row in noisy))
    noise = [
        [
            f"{well:,g}",
            f"{readout:g}",
            *(_cell(noisy, _lost, data=data, full_well=well, readout=readout) for data in sets),
        ]
        for well, readout in dict.fromkeys((row["full_well"], row["readout"]) for row in noisy)
    ]
    found = [caption, "", *markdown(header, lines)]
    if noise:
        k = noisy[0]["k"]
        found += ["", f"`dense`, k = {k:,d}, accuracy less that without camera noise:", ""]
        found += markdown(["electrons at white", "read-out noise, electrons", *sets], noise)
    return found


def _cell(rows: Sequence[dict[str, Any]], show: Callable[[dict[str, Any]], str], **wanted: Any) -> str:
    found = next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)
    return show(found) if found else ""


def _shown(row: dict[str, Any]) -> str:
    return plus_minus(row["accuracy"], row["standard_error"], 3)


def _lost(row: dict[str, Any]) -> str:
    return plus_minus(row["less_noiseless"]["mean"], row["less_noiseless"]["standard_error"], 3, "+")


def describe(result: dict[str, Any]) -> str:
    """Lay the rows out as a table."""
    lines = [
        f"Mean and standard error over {result['splits']} splits, each with its own R; they share images, so that the "
        "error is somewhat too small. Digits: signs of a random layer, no network. "
        f"Photographs: {result['backbone'] or 'none'}."
    ]
    return "\n".join([*lines, *(_line(row) for row in result["rows"])])


def _line(row: dict[str, Any]) -> str:
    head = f"{row['data']:12s} {row['projection']:14s} {'' if row['k'] is None else row['k']:>6}"
    if row.get("full_well"):
        head += f" full well {row['full_well']:g} e-, read-out {row['readout']:g} e-"
    if "error" in row:
        return f"{head} {row['error']}"
    line = f"{head} accuracy {row['accuracy']:.4f} +- {row['standard_error'] or 0:.4f}"
    for name, words in (("less_exact", "less exact"), ("less_noiseless", "less without noise")):
        if name in row:
            line += f", {words} {row[name]['mean']:+.4f} +- {row[name]['standard_error'] or 0:.4f}"
    return f"{line}, leave-one-out {row['loo_accuracy']:.4f}"


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw accuracy over k with error bars, a panel a data set; the limits are lines across."""
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "error" not in row and "full_well" not in row]
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(7 * len(names), 5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _panel(axes, [row for row in rows if row["data"] == name])
        axes.set_title(f"{name}, m = {next(row['m'] for row in rows if row['data'] == name):,d}")
    figure.savefig(path, dpi=150)


def _panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    for kind, style in zip(LIMITS, (":", "--"), strict=True):
        for row in rows:
            if row["projection"] == kind:
                axes.axhline(row["accuracy"], linestyle=style, color="0.4", label=kind)
    kinds = [kind for kind in dict.fromkeys(row["projection"] for row in rows) if kind not in LIMITS]
    for place, kind in enumerate(kinds):
        own = [row for row in rows if row["projection"] == kind]
        axes.errorbar(
            # Beside one another, so that the bars can be told apart.
            [row["k"] * 1.04 ** (place - len(kinds) / 2) for row in own],
            [row["accuracy"] for row in own],
            [row["standard_error"] or 0 for row in own],
            fmt=MARKERS[place % 8] + "-",
            markersize=4,
            capsize=2,
            label=kind,
        )
    axes.set_xscale("log")
    axes.set_xlabel("components k")
    axes.set_ylabel("accuracy, ± its standard error")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
