"""One size, in a process of its own: what `benchmark` starts."""

import json
import sys

from ...contract import Row
from .measure import measure


def _main(n: str, m: str, projection: str, budget: str) -> None:
    row = Row({})
    with row.attempt():
        row.note(**measure(int(n), int(m), projection, int(budget)))
    sys.stdout.write(json.dumps(row.to_json()) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
