"""The README's picture, and the table of bits and probes, from the result files.

python docs/figures/overview.py    # writes docs/figures/overview.png and prints the table
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ENGINES = HERE.parents[1] / "benchmarks" / "results" / "engines-cpu.json"
OURS, PEERS = "#0b6e8f", "#c2571a"
SHOWN = {
    "openvino fp32": ("fp32", (8, -3), "left"),
    "openvino bf16": ("bf16", (8, -3), "left"),
    "openvino int8": ("int8", (0, 8), "center"),
    "openvino int8, concat-inputs": ("int8, concat-inputs", (-8, -3), "right"),
    "openvino int8, shared-concat": ("int8, shared-concat", (-8, -3), "right"),
    "onnxruntime fp32": ("ONNX Runtime fp32", (-4, -14), "left"),
    "ORT minmax U8": ("ONNX Runtime int8", (8, -3), "left"),
    "NNCF": ("NNCF int8, convolutions only", (8, -3), "left"),
    "NNCF, all": ("NNCF int8", (0, 8), "center"),
    "torch.compile bf16": ("torch.compile bf16", (0, -14), "center"),
}
"""What is drawn: its label, where that is in points from the dot, and how it is aligned."""


def main() -> None:
    """Draw the picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    draw_engines(left)
    draw_accuracies(right)
    for label, colour in (
        ("aurevoir, on OpenVINO", OURS),
        ("other runtimes; the better linear probe on pooled features", PEERS),
    ):
        left.plot([], [], "o", color=colour, label=label)
    figure.legend(fontsize=9, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(HERE / "overview.png", dpi=150)
    print("\n".join(table()))


def draw_engines(axes: Any) -> None:
    """Draw throughput against sign agreement, ours and the peers'."""
    for row in json.loads(ENGINES.read_bytes())["rows"]:
        if row["name"] in SHOWN:
            ours = row["name"].startswith("openvino")
            place = row["throughput"][0]["times_onnxruntime_fp32"]["median"], row["sign_agreement"]
            axes.plot(*place, "o", color=OURS if ours else PEERS, markersize=7)
            label, offset, aligned = SHOWN[row["name"]]
            axes.annotate(label, place, offset, textcoords="offset points", ha=aligned, fontsize=8)
    axes.set_xlabel("images per second, x ONNX Runtime fp32")
    axes.set_ylabel("sign agreement with fp32")
    axes.set_title("Engines: DenseNet169 cut, two cores with AMX", fontsize=10)
    axes.set_xlim(0, 7)
    axes.margins(y=0.09)
    axes.grid(alpha=0.25)


def draw_accuracies(axes: Any) -> None:
    """Draw the accuracy of the classifier and of the better probe, a line for each backbone and data set."""
    rows = sorted(read(), key=lambda row: (row["data"], row["backbone"]), reverse=True)
    for height, row in enumerate(rows):
        probe, ours = better(row), np.array(row["auto"])
        axes.plot([probe.mean(), ours.mean()], [height, height], color="#cccccc", linewidth=3, zorder=0)
        for values, colour in ((probe, PEERS), (ours, OURS)):
            axes.errorbar(values.mean(), height, xerr=error(values), fmt="o", color=colour, markersize=6, linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row['data']}, {row['backbone']}" for row in rows], fontsize=7.5)
    axes.set_xlabel(f"accuracy, mean and standard error of {len(rows[0]['auto'])} splits")
    axes.set_title("Classifiers, int8: 400 to 1,800 images a data set", fontsize=10)
    axes.grid(axis="x", alpha=0.25)


def read() -> list[dict[str, Any]]:
    """Return a row for each pair of backbone and data set."""
    rows: list[dict[str, Any]] = json.loads((HERE / "bits-and-probes.json").read_bytes())["rows"]
    return rows


def better(row: dict[str, Any]) -> np.ndarray:
    """Return the accuracies of the probe that is better on average."""
    return max((np.array(row[name]) for name in ("ridge", "logistic")), key=lambda found: float(found.mean()))


def error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def table() -> list[str]:
    """Return the rows as Markdown, and their mean differences."""
    header = ["data (images)", "backbone", "`auto`", "bits alone", "ridge, pooled", "logistic, pooled"]
    lines = [_row([*header, "`auto` less the better probe, paired", "less bits alone", "leave-one-out less test"])]
    lines.append("|---" * 9 + "|")
    differences = []
    for row in sorted(read(), key=lambda row: (row["data"], row["backbone"])):
        ours = np.array(row["auto"])
        less = [ours - better(row), ours - np.array(row["bits"]), np.array(row["auto_loo"]) - ours]
        differences.append([each.mean() for each in less])
        accuracies = [f"{np.mean(row[name]):.3f}" for name in ("auto", "bits", "ridge", "logistic")]
        paired = [f"{each.mean():+.3f} ± {error(each):.3f}" for each in less]
        lines.append(_row([f"{row['data']} ({row['images']:,d})", row["backbone"], *accuracies, *paired]))
    means = [f"{mean:+.3f}" for mean in np.mean(differences, axis=0)]
    return [*lines, _row([f"mean of {len(differences)}", *[""] * 5, *means])]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
