"""The contract between the benchmarks, the command line and the reports.

A suite is a module or package in ``suites`` whose ``BENCHMARK`` is a `Benchmark`; `registry` lists them. What it finds
is a `Result` of rows. Reports and figures read results as JSON objects, since most come from files.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..saving import write_atomically
from .harness.machine import Machine

SCHEMA = "aurevoir-result/1"

Cells = dict[str, Any]
"""JSON values by name."""

Json = Mapping[str, Any]
"""A result, or a row of one, as a file holds it."""


@dataclass
class Row:
    """A row of a table: what it is of, what was measured, and if it failed, why.

    Parameters
    ----------
    cells : dict
        JSON values by name.
    error : str, optional
        The kind and first line of the error that ended the row's work.
    """

    cells: Cells
    error: str | None = None

    def __getitem__(self, name: str) -> Any:
        return self.cells[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a cell, or the default where there is none."""
        return self.cells.get(name, default)

    def note(self, **cells: Any) -> None:
        """Add cells, or replace them."""
        self.cells.update(cells)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep an error of the ``with`` block in the row, so that the other rows are measured nevertheless."""
        try:
            yield
        except Exception as error:  # Libraries raise what they like.
            self.error = reason(error)

    def to_json(self) -> Cells:
        """Return the row as a JSON object."""
        return self.cells if self.error is None else {**self.cells, "error": self.error}


def reason(error: Exception) -> str:
    """Return what a row says of an error: its kind and its first line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@dataclass
class Result:
    """What a benchmark found.

    Parameters
    ----------
    benchmark : str
        Its name in the registry.
    rows : list of Row
    settings : dict
        What was measured, ahead of the rows.
    findings : dict
        What follows from all rows.
    machine : Machine
        Where and by which command; by default this process's.
    """

    benchmark: str
    rows: Sequence[Row]
    settings: Cells = field(default_factory=dict)
    findings: Cells = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine.here)

    def to_json(self) -> Cells:
        """Return the result as the JSON object that ``--out`` writes."""
        return {
            "schema": SCHEMA,
            "benchmark": self.benchmark,
            **self.settings,
            "rows": [row.to_json() for row in self.rows],
            **self.findings,
            "machine": self.machine.to_json(),
        }


def write_result(result: Json, path: str | Path) -> None:
    """Write a result file."""
    write_atomically(Path(path), (json.dumps(result, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Spread:
    """What is recorded of a number's chance; `compare` tests changes by it.

    Parameters
    ----------
    kind : {"splits", "runs", "error"}
    column : str
        Holds the values of which the number is the mean or median; of kind ``error`` its standard error.
    test_share : float, optional
        Share of the images in each split's test set; None means that of `transfer.evaluate`.
    """

    kind: Literal["splits", "runs", "error"]
    column: str
    test_share: float | None = None


@dataclass(frozen=True)
class Benchmark:
    """What a suite offers.

    Parameters
    ----------
    name : str
        As in the registry.
    add_arguments : callable
        Declares its arguments.
    run : callable
        Measures. A row that fails stays, with the reason.
    describe : callable
        Returns a result as text.
    markdown : callable, optional
        Returns the lines of a result for the documentation; without it all rows make one table.
    plot : callable, optional
        Draws a result into a file.
    keys : sequence of str
        The columns that identify rows; without any all columns of text do.
    spreads : mapping from str to Spread
        Of the columns whose changes can be tested.
    """

    name: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Result]
    describe: Callable[[Json], str]
    markdown: Callable[[Json], list[str]] | None = None
    plot: Callable[[Json, Path], None] | None = None
    keys: Sequence[str] = ()
    spreads: Mapping[str, Spread] = field(default_factory=dict)
