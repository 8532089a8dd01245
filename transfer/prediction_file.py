"""The CSV of predictions: a row an image, written as they come, and continued after an interruption."""

import csv
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import DataError, UsageError
from ..saving import explained, require_file_target
from .classifier import Classifier
from .csv_rows import csv_line, encoded, label_text, number_text
from .predictions import BlockEnds, Details, Record, predictions

_LONGEST_ROW = 1 << 20


def columns(details: Details) -> tuple[str, ...]:
    """Return the names of the columns: those of the label, of further ones by their rank, of details, and the error."""
    further = [f"{name}_{rank}" for rank in range(2, details.top + 1) for name in ("label", "probability", "score")]
    further += ["set", "coverage"] if details.coverage is not None else []
    further += ["familiarity", "nearest"] if details.familiarity else []
    return ("path", "label", "probability", "score", *further, "model", "error")


def same_cells(model: str, details: Details) -> dict[str, str]:
    """Return the cells that are the same in every row: of the model, and of how a prediction set is made."""
    if details.coverage is None:
        return {"model": model}
    return {"model": model, "coverage": f"{details.coverage:g}{' by class' if details.by_class else ''}"}


def csv_lines(records: Iterable[Record], names: Sequence[str], same: Mapping[str, str]) -> str:
    """Return rows of a CSV file, each with its line feed; `same` are the `same_cells`."""
    rows = ({**_cells(each), **same} for each in records)
    return "".join(csv_line(row.get(name, "") for name in names) for row in rows)


def _cells(record: Record) -> dict[str, str]:
    """Return the cells of a record by column; those that it lacks are empty."""
    cells = {"path": record["path"], "error": record.get("error", "")}
    labels = record.get("top") or ([record] if "label" in record else [])
    for rank, each in enumerate(labels, 1):
        end = "" if rank == 1 else f"_{rank}"
        cells[f"label{end}"] = label_text(each["label"])
        cells |= {f"{name}{end}": number_text(each[name]) for name in ("probability", "score")}
    cells |= {"set": label_text(record["set"])} if "set" in record else {}
    if "nearest" in record:
        cells |= {"familiarity": number_text(record["familiarity"]), "nearest": str(record["nearest"])}
    return cells


class PredictionFile:
    """A CSV file of predictions that is written block by block; a context manager, which locks it.

    Parameters
    ----------
    path : path
    classifier : OpticalClassifier
    model : str
        What tells the model from others; see `transfer.model.model_digest`.
    details : Details
    resume : bool
        Whether to go on after the rows that are there; else the file may not exist, or is empty.

    Attributes
    ----------
    rows : int
        The number of rows, header aside.
    unreadable : int
        How many of them are of images that could not be read.
    first_unreadable : dict
        The first of these, and why.

    Raises
    ------
    UsageError
        If it cannot be written, another process writes it, or it holds something and shall not be continued.
    """

    def __init__(
        self,
        path: Path | str,
        classifier: Classifier,
        model: str,
        details: Details | None = None,
        resume: bool = False,
    ) -> None:
        self._classifier, self._details, self._resume = classifier, details or Details(), resume
        self._same = same_cells(model, self._details)
        self.path, self.columns = path, columns(self._details)
        self._file: BinaryIO | None = None
        self.rows = self.unreadable = 0
        self.first_unreadable: dict[str, str] = {}

    def __enter__(self) -> "PredictionFile":
        require_file_target(self.path)
        with explained(self.path):
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
            self._file = os.fdopen(descriptor, "rb+", buffering=0)
        try:
            self._lock()
            if not self._resume and os.fstat(descriptor).st_size:
                raise UsageError(
                    f"{self.path} exists; continue it with --resume {self.path}, give another name, or remove it"
                )
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def _lock(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.path} is being written by another process; give another name") from None
        except OSError:
            # Where nothing can be locked, one process at a time is up to the user.
            pass

    def write(self, paths: Iterable[Path | str]) -> Iterator[list[Record]]:
        """Write the rows of images that have none yet, and yield their records block by block.

        What was written by half is cut. The rows that are there must be those of the first paths and of the same model;
        the images of a block that was written in part are computed again, so that all are in the batches in which they
        would have been.

        Raises
        ------
        DataError
            If the rows that are there are of other images, of another model, or of other columns; the file stays as it
            was.
        SaveError
            If it cannot be written; what is in it can be continued.
        """
        given = map(str, paths)
        begun, head = self._begin(given)
        again, following = len(begun), next(given, None)
        if following is None:
            return
        for records in predictions(self._classifier, chain(begun, [following], given), self._details):
            new = records[again:]
            again = max(0, again - len(records))
            self._append(head + encoded(csv_lines(new, self.columns, self._same)))
            head = b""
            for record in new:
                self._count(record["path"], record.get("error", ""))
            yield new

    def _count(self, path: str, error: str) -> None:
        self.rows += 1
        if error:
            self.unreadable += 1
            self.first_unreadable = self.first_unreadable or {path: error}

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        left = memoryview(data)
        with explained(self.path):
            while left:
                left = left[os.write(self._file.fileno(), left) :]

    def _begin(self, given: Iterator[str]) -> tuple[list[str], bytes]:
        """Take the paths that have rows; return those of the block that was begun, and a header that is yet to come.

        The file ends behind them.
        """
        assert self._file is not None
        header = encoded(csv_line(self.columns))
        with Path(self.path).open("rb") as file:
            rows = _rows(file, self.path)
            first = next(rows, None)
            if first is None:
                self._refuse_foreign_head(header)
                end, begun = 0, list[str]()
            elif tuple(first[1]) != self.columns:
                raise DataError(
                    f"{self.path} has the columns {', '.join(first[1])[:200]}, and these options write "
                    f"{', '.join(self.columns)}; give the options of before, or another name"
                )
            else:
                end, begun = self._checked(rows, given, first[0])
        with explained(self.path):
            os.ftruncate(self._file.fileno(), end)
            os.lseek(self._file.fileno(), end, os.SEEK_SET)
        return begun, b"" if end else header

    def _refuse_foreign_head(self, header: bytes) -> None:
        """Refuse a file whose first line is not whole, unless it is the beginning of our own."""
        assert self._file is not None
        head = os.pread(self._file.fileno(), len(header), 0)
        if not header.startswith(head):
            raise DataError(f"{self.path} is not a CSV file of predictions; give another name")

    def _checked(self, rows: Iterator[tuple[int, list[str]]], given: Iterator[str], end: int) -> tuple[int, list[str]]:
        """Return the end of the last row, and the paths of the block that was begun."""
        ends, begun = BlockEnds(self._classifier), list[str]()
        for number, (after, cells) in enumerate(rows, 1):
            if len(cells) != len(self.columns):
                raise DataError(f"row {number} of {self.path} is damaged; predict the images anew, to another name")
            row = dict(zip(self.columns, cells, strict=True))
            for name, cell in self._same.items():
                if row[name] != cell:
                    raise DataError(
                        f"row {number} of {self.path} is of the {name} {row[name][:80]}, and this one is {cell}; give "
                        f"the {name} of before, or another name"
                    )
            path = next(given, None)
            if path is None or encoded(path) != encoded(row["path"]):
                what = f"image {number} is {path}" if path is not None else f"only {number - 1} images are given"
                raise DataError(
                    f"row {number} of {self.path} is of {row['path']}, and {what}; give the images of before, in "
                    "their order, or another name"
                )
            begun.append(path)
            end = after
            self._count(path, row["error"])
            if ends(not row["error"]):
                begun = []
        return end, begun


def _rows(file: BinaryIO, path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Yield the end and the cells of each whole row of a CSV file."""
    end, held, quoted = 0, bytearray(), False
    while piece := file.readline(_LONGEST_ROW):
        held += piece
        quoted ^= piece.count(b'"') % 2 == 1
        if len(held) >= _LONGEST_ROW:
            raise DataError(f"{path} is not a CSV file of predictions: a row is too long; give another name")
        if quoted or not piece.endswith(b"\n"):
            continue
        end += len(held)
        try:
            cells = next(csv.reader([held.decode("utf-8", "surrogateescape")]), [])
        except csv.Error as error:
            raise DataError(f"{path} is not a CSV file of predictions: {error}; give another name") from None
        held.clear()
        yield end, cells
