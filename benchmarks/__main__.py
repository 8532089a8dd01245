"""``python -m aurevoir.benchmarks NAME [--out FILE.json]``."""

import argparse
import json
import sys
from pathlib import Path

from ..engine.file import write_atomically
from . import accuracy, calibration, engines, startup

BENCHMARKS = {"engines": engines, "accuracy": accuracy, "calibration": calibration, "startup": startup}


def main() -> int:
    """Run one benchmark; print its table on stderr and, with ``--out``, write its JSON."""
    parser = argparse.ArgumentParser(prog="python -m aurevoir.benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        own = names.add_parser(name, help=(module.__doc__ or "").partition("\n")[0])
        own.add_argument("--out", help="where to write the result as JSON")
        module.add_arguments(own)
    args = parser.parse_args()
    module = BENCHMARKS[args.name]
    result = module.run(args)
    print(module.describe(result), file=sys.stderr)
    if args.out:
        write_atomically(Path(args.out), (json.dumps(result, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
