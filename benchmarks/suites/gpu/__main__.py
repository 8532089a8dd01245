"""One part, in the process that `benchmark` starts: its rows on stdout, a line each."""

import argparse
import json
import sys
from pathlib import Path

from .benchmark import ROW
from .parts import PARTS


def _main(name: str, settings: str) -> None:
    args = argparse.Namespace(**json.loads(settings))
    args.data = Path(args.data)
    for row in PARTS[name][0](args):
        sys.stdout.write(f"{ROW}{json.dumps(row.to_json(), default=float)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(*sys.argv[1:])
