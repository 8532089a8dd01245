"""``aurevoir COMMAND``: arguments, exit codes, and output on stdout and stderr.

A command is a module of this package with ``add_arguments(parser)``, ``run(args)``, which returns
the dictionary that ``--json`` prints, and ``describe(result)``, which formats it as text. Only the
module of the given command is imported, and it imports heavy packages only when it runs.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from ..errors import AurevoirError

COMMANDS = {
    "cuts": "list the points where a backbone can be cut",
    "build": "build an engine of one precision",
    "calibrate": "set int8 thresholds from images and measure every tensor",
    "inspect": "print the contents of an engine file",
    "embed": "compute the sign bits or features of images",
    "fit": "train a classifier on a folder of class folders",
    "predict": "label images",
    "evaluate": "measure a model's accuracy on a folder of class folders",
    "doctor": "show which runtimes work on this machine and how to install the others",
    "bench": "run benchmarks against other libraries",
    "demo": "train and test on generated images in several precisions",
}


_VERBOSE = ("build", "calibrate", "fit", "bench")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser_for(command: str | None, name: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; only the given command, and for ``bench`` the given benchmark, has its arguments added."""
    parser = _Parser(prog="aurevoir", description="Image classifiers trained without backprop.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for each, summary in COMMANDS.items():
        own = commands.add_parser(each, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if each != "bench":
            own.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
        if each in _VERBOSE:
            own.add_argument("--verbose", action="store_true", help="show the log of NVIDIA's builder on stderr")
        if each == command:
            _module(each).add_arguments(own, *([name] if each == "bench" else []))
    return parser


def _module(command: str) -> Any:
    # Avoid module names that shadow the standard library.
    name = f"{command}_" if command in sys.stdlib_module_names else command
    return import_module(f".{name}", __package__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 failed, 2 usage, 3 a missing runtime, package or device, 4 a threshold missed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command, name, *_ = [*(word for word in arguments if not word.startswith("-")), None, None]
    args = parser_for(command, name).parse_args(arguments)
    _show_logs(getattr(args, "verbose", False))
    try:
        result = _module(args.command).run(args)
        _show(args, result)
        _check_thresholds(args, result)
    except AurevoirError as error:
        print(f"aurevoir {args.command}: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has left; what Python would still flush at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"aurevoir {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _show_logs(verbose: bool) -> None:
    import logging

    logging.basicConfig(format="%(message)s")
    logging.getLogger("aurevoir.tensorrt").setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    logging.getLogger("aurevoir.weights").setLevel(logging.INFO)


def _show(args: argparse.Namespace, result: dict[str, Any]) -> None:
    print(json.dumps(result) if args.json else _module(args.command).describe(result), flush=True)


def _check_thresholds(args: argparse.Namespace, result: dict[str, Any]) -> None:
    from ..errors import ThresholdMissedError

    for name in ("accuracy", "sign_agreement", "speedup"):
        minimum, found = getattr(args, f"min_{name}", None), result.get(name)
        option = f"--min-{name.replace('_', '-')}"
        if minimum is not None and found is None:
            raise ThresholdMissedError(
                f"{name.replace('_', ' ')} was not measured, so {option} {minimum} is not reached"
            )
        if minimum is not None and found is not None and found < minimum:
            raise ThresholdMissedError(f"{name.replace('_', ' ')} {found:.4g} is below {option} {minimum}")
