"""One run of the post's full size on the CPU, in a process of its own: what `full` starts."""

import json
import sys
import time

from ....kernels.fitting import fit_readout
from ...contract import Cells, Row
from ...harness.synthetic_bits import generated_bits
from .fit import CLASSES, TEST_ROWS, fit_and_predict

# Enough for every path that the full size takes.
WARM_ROWS = 2100


def measure(kind: str, search: str, n: int, m: int, k: int, budget: int) -> Cells:
    """Generate bits, fit and predict."""
    # What is compiled on first use.
    few, few_labels = generated_bits(WARM_ROWS, m, 2)
    fit_readout(few, m, few_labels, 2, kind, 2 * WARM_ROWS)[0].scores(few[:64])
    start = time.perf_counter()
    bits, labels = generated_bits(n + TEST_ROWS, m, CLASSES)
    seconds = time.perf_counter() - start
    _say(f"{kind}: {n} x {m} bits generated in {seconds:.1f} s")
    found = fit_and_predict(kind, search, "cpu", (bits[:n], labels[:n], bits[n:], labels[n:]), m, k, budget)
    _say(f"{kind}, {search}: fitted in {found['total']:.1f} s")
    return found | {"seconds": {"generate": seconds, **found["seconds"]}}


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def _main(kind: str, search: str, *numbers: str) -> None:
    row = Row({})
    with row.attempt():
        row.note(**measure(kind, search, *map(int, numbers)))
    sys.stdout.write(json.dumps(row.to_json()) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
