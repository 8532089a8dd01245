"""The results of the model families as tables: a line a network."""

import re
from collections.abc import Iterable, Sequence

from ...contract import Cells, Json
from ...reporting.text import aligned, markdown_table
from .exporters import EXPORTERS
from .worker import MODULE

LIMIT = 1e-5
"""Relative error of fp32 up to which features are those of torch."""

HEADER = [
    "network",
    *EXPORTERS,
    "as a module",
    "fp32 error",
    "torch's own",
    "int8 error",
    "NNCF's best",
    "refused, and why",
]


def equal_to_torch(row: Json) -> bool:
    """Return whether every runtime that takes a graph has torch's features: to 1e-5, or twice torch's own rounding."""
    errors = row.get("fp32", {}).values()
    return bool(errors) and max(errors) <= max(LIMIT, 2 * row["torch_error"])


def within_nncf(row: Json) -> bool:
    """Return whether int8 is as exact as NNCF's best: not behind by more than twice the standard error over images."""
    behind = row["behind_nncf"]
    return bool(behind["mean"] <= 2 * (behind["standard_error"] or 0.0))


def summary(rows: Sequence[Json]) -> Cells:
    """Count what all rows come to."""
    compared = [row for row in rows if "behind_nncf" in row]
    return {
        "graphs": len(rows),
        "refused_by_torch": sum(_by_torch(row) for row in rows),
        "refused": sum("error" in row and not _by_torch(row) for row in rows),
        "refused_by_a_runtime": sum(bool(row.get("refused")) for row in rows),
        "equal_to_torch": sum(equal_to_torch(row) for row in rows),
        "int8_compared": len(compared),
        "int8_within_nncf": sum(within_nncf(row) for row in compared),
    }


def _by_torch(row: Json) -> bool:
    return row.get("failed_in") == "torch"


def in_words(result: Json) -> str:
    """Return the counts in words."""
    count = result["summary"]
    words = (
        f"{count['graphs']} graphs: torch does not export {count['refused_by_torch']}, {count['equal_to_torch']} have "
        f"torch's features in fp32, {count['refused']} are refused, and a runtime or quantizer refuses "
        f"{count['refused_by_a_runtime']}"
    )
    if not count["int8_compared"]:
        return f"{words}; int8 was not compared"
    return f"{words}; int8 is within NNCF's error in {count['int8_within_nncf']} of {count['int8_compared']}"


def describe(result: Json) -> str:
    """Return a line a network, and the counts."""
    return "\n".join([in_words(result), *aligned(HEADER, _lines(result)), *_notes(result)])


def markdown(result: Json) -> list[str]:
    """Return a line a network, and the counts."""
    caption = (
        f"Random weights; {result['calibration_images']} images of {result['data']} to calibrate on and "
        f"{result['test_images']} to compare on. {in_words(result)}."
    )
    return [*[f"{note}." for note in _notes(result)], caption, "", *markdown_table(HEADER, _lines(result))]


def _notes(result: Json) -> list[str]:
    return list(dict.fromkeys(row["nncf_not_run"] for row in result["rows"] if "nncf_not_run" in row))


def _lines(result: Json) -> list[list[str]]:
    by_network: dict[str, list[Json]] = {}
    for row in result["rows"]:
        by_network.setdefault(f"{row['library']} {row['model']}, {row['size']} px", []).append(row)
    return [[name, *_cells(rows)] for name, rows in by_network.items()]


def _cells(rows: Sequence[Json]) -> list[str]:
    errors = [error for row in rows for error in row.get("fp32", {}).values()]
    return [
        *(_opsets([row for row in rows if row["exporter"] == exporter]) for exporter in EXPORTERS),
        "-"
        if not (own := [row for row in rows if row["exporter"] == MODULE])
        else ("yes" if equal_to_torch(own[0]) else "no"),
        f"{max(errors):.1e}" if errors else "-",
        f"{max(row['torch_error'] for row in rows if 'torch_error' in row):.1e}" if errors else "-",
        *_int8(rows),
        _reasons(rows),
    ]


def _opsets(rows: Sequence[Json]) -> str:
    """Return the opsets at which features are torch's, and as what others were written."""
    works = [row for row in rows if equal_to_torch(row)]
    if not rows or not works:
        return "none" if rows else "-"
    others = [row for row in works if row["written_opset"] != row["opset"]]
    found = _ranges(row["opset"] for row in works)
    written = dict.fromkeys(row["written_opset"] for row in others)
    marks = [f"{_ranges(r['opset'] for r in others if r['written_opset'] == opset)} as {opset}" for opset in written]
    return f"{found} ({', '.join(marks)})" if marks else found


def _ranges(opsets: Iterable[int]) -> str:
    """Return numbers as ranges: ``11, 13-20``."""
    runs: list[list[int]] = []
    for opset in sorted(opsets):
        if runs and opset == runs[-1][-1] + 1:
            runs[-1].append(opset)
        else:
            runs.append([opset])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _int8(rows: Sequence[Json]) -> list[str]:
    """Return the largest error of int8 over graphs and runtimes, and NNCF's of the same graph."""
    compared = [row for row in rows if row.get("int8")]
    if not compared:
        return ["-", "-"]
    worst = max(compared, key=lambda row: max(row["int8"].values()))
    best = worst.get("nncf_best")
    return [f"{max(worst['int8'].values()):.3f}", f"{worst['nncf'][best]:.3f} ({best})" if best else "-"]


def _reasons(rows: Sequence[Json]) -> str:
    """Return each reason once, with the graphs that it is of."""
    found: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        reasons = (
            [f"torch: {_brief(row['error'])}" if _by_torch(row) else _brief(row["error"])] if "error" in row else []
        )
        reasons += [f"{where}: {_brief(reason)}" for where, reason in row.get("refused", {}).items()]
        if row.get("fp32") and not equal_to_torch(row):
            reasons.append("unequal to torch")
        for reason in reasons:
            found.setdefault(reason, {}).setdefault(row["exporter"], []).append(row["opset"])
    return "; ".join(f"{_graphs(where)}: {reason}" for reason, where in found.items()) or "nothing"


def _graphs(where: dict[str, list[int]]) -> str:
    return ", ".join(name if name == MODULE else f"{name} {_ranges(opsets)}" for name, opsets in where.items())


def _brief(reason: str) -> str:
    """Return a reason without the error's kind, the node and the advice."""
    found = re.sub(r"^\w*(Error|Exception): ", "", reason).partition("; ")[0]
    found = re.sub(r" \(node '[^']*'\)", "", found)
    return found if len(found) <= 160 else f"{found[:157]}..."
