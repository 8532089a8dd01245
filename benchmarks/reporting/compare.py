"""What changed between two results of one benchmark, and which changes are more than chance.

A change is tested only where the benchmark's spreads say what is recorded of a number's chance, by kind:

- ``splits``: the number is the mean of a column's values over random splits of the same images, in one order. Student's
  t over the paired differences, its variance corrected for the images that splits share (Nadeau and Bengio, 2003). The
  spread names the share of test images where it is not that of `transfer.evaluate`.
- ``runs``: a column holds repeats that are independent of each other. Welch's t where the number is their mean,
  Mann-Whitney's U where it is their median.
- ``error``: a column is its standard error. The difference over the root of the summed squares, two-sided, normal, the
  two results taken as independent.

All else is not testable. Significant is what stays below `LEVEL` by Holm's correction for all tests of the comparison.
What a machine does differently from one day to the next is in no recorded spread.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from ...errors import UsageError
from ...transfer.evaluate import TEST_SHARE
from .. import registry
from ..contract import Benchmark, Cells, Json, Result, Row, Spread
from .tables import TEXTS, columns, facts, identifying, machine_of, read_result, tables
from .text import is_number, shown

LEVEL = 0.05

UNTESTABLE = "not testable: no spread recorded that a test can use"

Spreads = Mapping[str, Spread]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("before", metavar="A.json", help="a result file")
    parser.add_argument("after", metavar="B.json", help="another of the same benchmark")


def run(args: argparse.Namespace) -> Result:
    """Compare two result files."""
    found = compare(read_result(args.before), read_result(args.after))
    rows = [Row(row) for row in found.pop("rows")]
    return Result(found.pop("benchmark"), rows, {"files": [args.before, args.after]}, found)


def compare(before: Json, after: Json) -> Cells:
    """Compare two results of one benchmark.

    Parameters
    ----------
    before, after : mapping
        As `tables.read_result` returns them.

    Returns
    -------
    dict
        ``rows``: every cell that changed, with its ``table``, the ``key`` of its row, ``before`` and ``after``,
        ``change``, ``ratio``, ``test``, ``p`` and ``significant`` (None where it is not testable); ``only_before``
        and ``only_after``: rows in one result only; ``unchanged``: how many cells stayed; ``tested``: how many cells
        could be tested, changed or not; ``warnings``.

    Raises
    ------
    UsageError
        If the results are of two benchmarks.
    """
    kinds = [result.get("benchmark") for result in (before, after)]
    if kinds[0] != kinds[1] or kinds[0] is None:
        raise UsageError(f"results of {kinds[0]} and {kinds[1]} cannot be compared; give two of one benchmark")
    found: dict[str, list[Cells]] = {"rows": [], "only_before": [], "only_after": []}
    benchmark = registry.find(before["benchmark"])
    whole = [{name: cell for name, cell in facts(each).items() if isinstance(cell, float)} for each in (before, after)]
    pairs = {"": ([whole[0]], [whole[1]])} | _pair_up(tables(before), tables(after))
    for name, (ours, theirs) in pairs.items():
        keys = identifying([ours, theirs], benchmark)
        _compare_tables(found, name, keys, ours, theirs, benchmark.spreads if benchmark else {})
    cells = found["rows"]
    _judge(cells)
    changed = [cell for cell in cells if not _same(cell["before"], cell["after"])]
    return {
        "benchmark": "compare",
        "of": kinds[0],
        **found,
        "rows": changed,
        "unchanged": len(cells) - len(changed),
        "warnings": _warnings(before, after),
        "level": LEVEL,
        "tested": sum(cell["p"] is not None for cell in cells),
    }


def _pair_up(
    before: Mapping[str, list[Cells]], after: Mapping[str, list[Cells]]
) -> dict[str, tuple[list[Cells], list[Cells]]]:
    return {name: (before.get(name, []), after.get(name, [])) for name in dict.fromkeys([*before, *after])}


def _compare_tables(
    found: dict[str, list[Cells]],
    table: str,
    keys: Sequence[str],
    ours: Sequence[Cells],
    theirs: Sequence[Cells],
    spreads: Spreads,
) -> None:
    left = list(theirs)
    for row in ours:
        key = {name: row[name] for name in keys if name in row}
        match = _match(key, row, left, keys)
        if match is None:
            found["only_before"].append({"table": table, "key": key})
            continue
        left.remove(match)
        key |= {name: match[name] for name in keys if name in match}
        found["rows"] += [{"table": table, "key": key, **cell} for cell in _cells(row, match, keys, spreads)]
    found["only_after"] += [{"table": table, "key": {name: row[name] for name in keys if name in row}} for row in left]


def _match(key: Cells, row: Cells, others: Sequence[Cells], keys: Sequence[str]) -> Cells | None:
    """Return the row of the same key; a failed row lacks what was to be measured, and may lack a part of its key."""
    for other in others:
        shared = [name for name in keys if name in key and name in other]
        failed = "error" in row or "error" in other
        alike = all(key[name] == other[name] for name in shared)
        if alike and ((failed and shared) or all((name in key) == (name in other) for name in keys)):
            return other
    return None


def _cells(before: Cells, after: Cells, keys: Sequence[str], spreads: Spreads) -> Iterator[Cells]:
    aside = {*keys, *(spread.column for spread in spreads.values())}
    for name in columns([before, after]):
        pair: tuple[Any, Any] = (before.get(name), after.get(name))
        if name in aside or any(isinstance(value, list) for value in pair):
            continue
        found = {"cell": name, "before": pair[0], "after": pair[1], **dict.fromkeys(("change", "ratio", "test", "p"))}
        if is_number(pair[0]) and is_number(pair[1]):
            test, p = _test(name, before, after, spreads.get(name))
            found |= {"change": pair[1] - pair[0], "ratio": pair[1] / pair[0] if pair[0] else None}
            # A spread of nothing would make any change sure.
            found |= {"test": test, "p": p} if p is not None and math.isfinite(p) else {"test": UNTESTABLE}
        yield found


def _same(before: Any, after: Any) -> bool:
    both_nan = all(isinstance(value, float) and math.isnan(value) for value in (before, after))
    return both_nan or before == after


def _test(name: str, before: Cells, after: Cells, spread: Spread | None) -> tuple[str, float | None]:
    """Return what the change of a number is tested by, and p; None where the rows do not hold what the test needs."""
    if spread is None:
        return UNTESTABLE, None
    recorded: list[Any] = [row.get(spread.column) for row in (before, after)]
    if spread.kind == "error" and all(is_number(value) and value > 0 for value in recorded):
        return "normal, standard errors as independent", _over_errors(after[name] - before[name], *recorded)
    if not all(isinstance(values, list) and len(values) > 1 for values in recorded):
        return UNTESTABLE, None
    if spread.kind == "splits" and _paired(before, after, recorded) and _are(np.mean, name, before, after, recorded):
        p = _over_splits(recorded[0], recorded[1], spread.test_share or TEST_SHARE)
        return f"paired t over {len(recorded[0])} splits, corrected", p
    return _over_runs(name, before, after, recorded) if spread.kind == "runs" else (UNTESTABLE, None)


def _over_errors(change: float, ours: float, theirs: float) -> float:
    from scipy import stats

    return float(2 * stats.norm.sf(abs(change) / math.hypot(ours, theirs)))


def _paired(before: Cells, after: Cells, values: Sequence[Any]) -> bool:
    """Tell whether splits can be the same ones: as many, and no whole number, of images say, differs."""
    settings = [{key: value for key, value in row.items() if isinstance(value, int)} for row in (before, after)]
    return len(values[0]) == len(values[1]) and settings[0] == settings[1]


def _are(statistic: Any, name: str, before: Cells, after: Cells, values: Sequence[Any]) -> bool:
    """Tell whether numbers are that statistic of their values."""
    pairs = zip((before, after), values, strict=True)
    return all(math.isclose(float(statistic(own)), row[name], rel_tol=1e-9, abs_tol=1e-12) for row, own in pairs)


def _over_splits(ours: Sequence[float], theirs: Sequence[float], test_share: float) -> float | None:
    from scipy import stats

    differences = np.subtract(theirs, ours)
    if np.ptp(differences) == 0:
        return None if differences.any() else 1.0
    count = len(differences)
    error = math.sqrt(np.var(differences, ddof=1) * (1 / count + test_share / (1 - test_share)))
    return float(2 * stats.t.sf(abs(differences.mean()) / error, count - 1))


def _over_runs(name: str, before: Cells, after: Cells, values: Sequence[Any]) -> tuple[str, float | None]:
    from scipy import stats

    counts = f"{len(values[0])} and {len(values[1])} runs"
    if _are(median, name, before, after, values):
        return f"Mann-Whitney U over {counts}", float(stats.mannwhitneyu(*values).pvalue)
    if not _are(np.mean, name, before, after, values):
        return UNTESTABLE, None
    return f"Welch t over {counts}", float(stats.ttest_ind(*values, equal_var=False).pvalue)


def _judge(rows: Sequence[Cells]) -> None:
    """Note what is significant: Holm's correction, smallest p first, each held to at least the one before."""
    for row in rows:
        row["significant"] = None
    tested = sorted((row for row in rows if row["p"] is not None), key=lambda row: float(row["p"]))
    before = 0.0
    for index, row in enumerate(tested):
        before = row["p_holm"] = max(before, min(1.0, (len(tested) - index) * row["p"]))
        row["significant"] = before < LEVEL


def _warnings(before: Json, after: Json) -> list[str]:
    """Say what else differs: machine, versions, command, settings, columns."""
    machines = [facts(machine_of(result)) for result in (before, after)]
    settings = [
        {name: cell for name, cell in facts(each).items() if not isinstance(cell, float)} for each in (before, after)
    ]
    return [
        f"{where}{name} differs: {shown(ours.get(name))} / {shown(theirs.get(name))}"
        for where, (ours, theirs) in (("machine: ", machines), ("", settings))
        for name in columns([ours, theirs])
        if ours.get(name) != theirs.get(name) and (where, name) != ("machine: ", "date")
    ] + _schema_warnings(before, after)


def _schema_warnings(before: Json, after: Json) -> list[str]:
    pairs = _pair_up(tables(before), tables(after))
    return [
        f"only {which} has the column {column} of {table}"
        for table, (ours, theirs) in pairs.items()
        for which, here, there in (("the first", ours, theirs), ("the second", theirs, ours))
        for column in _only(here, there)
    ]


def _only(here: Sequence[Cells], there: Sequence[Cells]) -> list[str]:
    """Return the columns that the other table lacks."""
    others = {*columns(there), *TEXTS}
    return [column for column in columns(here) if column not in others]


def describe(result: Json) -> str:
    """Lay the changes out row by row."""
    lines = [f"{result['of']}: {' -> '.join(map(str, result['files']))}"]
    lines += [f"warning: {text}" for text in result["warnings"]]
    before = None
    for row in result["rows"]:
        if (row["table"], row["key"]) != before:
            before = (row["table"], row["key"])
            lines.append(_named(row))
        lines.append(_line(row))
    for which, text in (("only_before", "only in the first: "), ("only_after", "only in the second: ")):
        lines += [text + _named(row) for row in result[which]]
    significant = sum(bool(row["significant"]) for row in result["rows"])
    return "\n".join(
        [
            *lines,
            f"{len(result['rows'])} cells changed, {result['unchanged']} did not; "
            f"{result['tested']} could be tested, {significant} significant at {result['level']} (Holm)",
        ]
    )


def _named(row: Json) -> str:
    return " ".join([row["table"] or "result", *(f"{name}={shown(value)}" for name, value in row["key"].items())])


def _line(row: Json) -> str:
    line = f"  {row['cell']}: {shown(row['before'])} -> {shown(row['after'])}"
    if row["change"] is None:
        return line
    line += f", {row['change']:+.4g}" + (f", x {row['ratio']:.4g}" if row["ratio"] is not None else "")
    if row["p"] is None:
        return f"{line} ({row['test']})"
    verdict = "significant" if row["significant"] else "not significant"
    return f"{line}, {verdict}: p {row['p']:.2g}, by Holm {row['p_holm']:.2g} ({row['test']})"


BENCHMARK = Benchmark("compare", add_arguments, run, describe)
