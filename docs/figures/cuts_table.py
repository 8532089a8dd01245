"""The tables of `cuts.json`, as the results page shows them, beside the probes of `bits-and-probes.json`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from prediction_table import table, write_tables

HERE = Path(__file__).parent


def rows() -> list[dict[str, Any]]:
    """Return the rows of the file."""
    found: list[dict[str, Any]] = json.loads((HERE / "cuts.json").read_bytes())["rows"]
    return sorted(found, key=lambda row: (row["data"], row["backbone"]))


def cuts() -> list[str]:
    """Return the table of cuts: the default, the best one by test accuracy, and the chosen one."""
    head = ["data (images)", "backbone", "default cut", "best cut", "`--cut auto`", "less default", "less best"]
    head += ["less probe", "times images/s", "chosen"]
    body, every, known = [], [], []
    for row in rows():
        default, best, chosen = _at(row, -1), _at(row, int(np.mean(row["at_cuts"], axis=0).argmax())), _accuracy(row)
        highest = max(best.mean(), np.mean(row["layers"]))
        known.append([highest - each.mean() for each in (default, best, _probe(row))])
        names = _chosen(row)
        pace = np.mean([row["images_per_second"][name] for name in names])
        times = pace / row["images_per_second"][row["cuts"][-1]]
        less = [chosen - each for each in (default, best, _probe(row))]
        every.append([*(each.mean() for each in less), times])
        most = Counter(names).most_common(2)
        body.append(
            [
                *_named(row),
                *(f"{each.mean():.3f}" for each in (default, best, chosen)),
                *map(_paired, less),
                f"{times:.2f}",
                ", ".join(f"{name} {count}" for name, count in most),
            ]
        )
    means = np.mean(every, axis=0)
    shown = [*(f"{each:+.3f}" for each in means[:3]), f"{means[3]:.2f}", ""]
    afterwards = [*(f"{each:+.3f}" for each in np.mean(known, axis=0)), "", ""]
    count = len(body)
    body.append([f"mean of {count}", "", "", "", "", *shown])
    body.append([f"mean of {count}, of the best of the seven by test accuracy", "", "", "", "", *afterwards])
    return table(head, body)


def layers() -> list[str]:
    """Return the table of earlier layers: `auto` with and without them."""
    head = ["data (images)", "backbone", "layers", "`auto`", "with `--pool-layers`", "difference, paired"]
    head += ["`layers` chosen", "times images/s"]
    body, every = [], []
    for row in rows():
        default, found = _at(row, -1), np.array(row["layers"])
        times = row["images_per_second"]["layers"] / row["images_per_second"][row["cuts"][-1]]
        every.append([(found - default).mean(), times])
        taken = f"{row['kernels'].get('layers', 0)} of {len(found)}"
        number = str(len(row["pooled_layers"]) - 1) if row["pooled_layers"] else "0"
        shown = [f"{default.mean():.3f}", f"{found.mean():.3f}", _paired(found - default), taken, f"{times:.2f}"]
        body.append([*_named(row), number, *shown])
    means = np.mean(every, axis=0)
    body.append([f"mean of {len(body)}", "", "", "", "", f"{means[0]:+.3f}", "", f"{means[1]:.2f}"])
    return table(head, body)


def _at(row: dict[str, Any], cut: int) -> np.ndarray:
    found: np.ndarray = np.array(row["at_cuts"])[:, cut]
    return found


def _chosen(row: dict[str, Any]) -> list[str]:
    """Return the cut that was chosen in each split, or that it is the default one with earlier layers."""
    return ["layers" if layers else cut for cut, layers in zip(row["chosen"], row["chosen_layers"], strict=True)]


def _accuracy(row: dict[str, Any]) -> np.ndarray:
    """Return the accuracy of what was chosen in each split."""
    each = zip(_chosen(row), row["at_cuts"], row["layers"], strict=True)
    return np.array(
        [layers if name == "layers" else at_cuts[row["cuts"].index(name)] for name, at_cuts, layers in each]
    )


def _probe(row: dict[str, Any]) -> np.ndarray:
    """Return the accuracies of the better linear probe at the default cut, on the same splits."""
    known = json.loads((HERE / "bits-and-probes.json").read_bytes())["rows"]
    found = next(each for each in known if (each["data"], each["backbone"]) == (row["data"], row["backbone"]))
    better = max(("ridge", "logistic"), key=lambda name: float(np.mean(found[name])))
    return np.array(found[better][: len(row["chosen"])])


def _paired(differences: np.ndarray) -> str:
    return f"{differences.mean():+.3f} ± {differences.std(ddof=1) / np.sqrt(len(differences)):.3f}"


def _named(row: dict[str, Any]) -> list[str]:
    return [f"{row['data']} ({row['images']:,d})", row["backbone"]]


if __name__ == "__main__":
    write_tables(cuts, layers)
