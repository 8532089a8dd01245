"""The tables of `predictions.json`, as the results page shows them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCIKIT_LEARN = ("sigmoid", "isotonic", "temperature")
SETS = {"ours": "sets", "ours_by_class": "by class", "mapie_split": "MAPIE, split", "mapie_cross": "MAPIE, cross"}
SCORES = {
    "ours": "nearest by bits",
    "max_probability": "probability",
    "energy": "energy",
    "nearest": "nearest by channel means",
}


def rows() -> list[dict[str, Any]]:
    """Return the rows of the file."""
    found: list[dict[str, Any]] = json.loads((HERE / "predictions.json").read_bytes())["rows"]
    return sorted(found, key=lambda row: (row["data"], row["backbone"]))


def probabilities() -> list[str]:
    """Return the table of errors of probabilities."""
    head = ["data", "backbone", "expected calibration error", "scikit-learn's best", "log-loss", "scikit-learn's best"]
    body = [
        [
            *_named(row),
            f"{row['ece_ours']:.4f}",
            f"{min(row[f'ece_{method}'] for method in SCIKIT_LEARN):.4f}",
            f"{row['log_loss_ours']:.3f}",
            f"{min(row[f'log_loss_{method}'] for method in SCIKIT_LEARN):.3f}",
        ]
        for row in rows()
    ]
    return table(head, body)


def sets() -> list[str]:
    """Return the table of prediction sets: coverage and size."""
    head = ["data", "backbone", "asked", *SETS.values()]
    body = [
        [
            *_named(row),
            f"0.{level}",
            *(f"{row[f'coverage{level}_{each}']:.3f}, {row[f'size{level}_{each}']:.2f}" for each in SETS),
        ]
        for row in rows()
        for level in (90, 95)
    ]
    return table(head, body)


def unfamiliar() -> list[str]:
    """Return the table of areas under the ROC curve, and of shares that are called unfamiliar."""
    head = ["data", "strangers", "backbone", *SCORES.values(), "called unfamiliar: test images, strangers"]
    body = [
        [
            row["data"],
            row["strangers"],
            row["backbone"],
            *(f"{row[f'auroc_{each}']:.3f}" for each in SCORES),
            f"{row['flagged_test']:.1%}, {row['flagged_strangers']:.1%}",
        ]
        for row in rows()
    ]
    return table(head, body)


def _named(row: dict[str, Any]) -> list[str]:
    return [f"{row['data']} ({row['images']:,d})", row["backbone"]]


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def write_tables(*tables: Callable[[], list[str]]) -> None:
    """Write tables into the results page, each where its name is."""
    page = HERE.parent / "results.md"
    text = page.read_text()
    for made in tables:
        start, end = f"<!-- {made.__name__} -->\n", f"<!-- /{made.__name__} -->"
        before, _, rest = text.partition(start)
        text = before + start + "\n".join(made()) + "\n" + end + rest.partition(end)[2]
    page.write_text(text)


if __name__ == "__main__":
    write_tables(probabilities, sets, unfamiliar)
