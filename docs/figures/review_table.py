"""The table of `review.json`, as the results page shows it; run it to write it there."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).parent
METHODS = {
    "review": "review",
    "cleanlab_same": "cleanlab, this classifier",
    "cleanlab_logistic": "cleanlab, logistic regression",
}
START, END = "<!-- review -->\n", "<!-- /review -->"


def table() -> list[str]:
    """Return the lines of the table: mean shares of flipped labels with the standard error, and copies."""
    rows = json.loads((HERE / "review.json").read_bytes())["rows"]
    head = ["data", "backbone", *METHODS.values(), "copies found", "of them right", "in the set before"]
    lines = [_line(row) for row in sorted(rows, key=lambda row: (row["data"], row["backbone"]))]
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]


def _line(row: dict[str, Any]) -> list[str]:
    shares = [f"{fmean(row[each]):.3f} ± {stdev(row[each]) / len(row[each]) ** 0.5:.3f}" for each in METHODS]
    named = [f"{row['data']} ({row['images']:,d})", row["backbone"]]
    return [*named, *shares, *_copies(row)]


def _copies(row: dict[str, Any]) -> list[str]:
    found, right = (f"{row[each]:.1%}" for each in ("copies_found", "copies_precision"))
    return [f"{found} of {row['planted']}", right, str(len(row["copies_before"]))]


def main() -> None:
    """Write the table into the results page."""
    page = HERE.parent / "results.md"
    before, _, rest = page.read_text().partition(START)
    page.write_text(before + START + "\n".join(table()) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
