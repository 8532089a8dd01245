"""``aurevoir COMMAND``: arguments, exit codes, and output on stdout and stderr.

A command is a module of this package with ``add_arguments(parser)``, ``run(args)``, which returns
the dictionary that ``--json`` prints, and ``describe(result)``, which formats it as text; ``run`` may
also return an iterator of texts, which are printed as they come. `outputs` says how it writes files.
Only the module of the given command is imported, and it imports heavy packages only when it runs.
"""

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from ..errors import AurevoirError, AurevoirWarning, UsageError
from .faults import explain, unfit_process
from .process import Ended, own_process
from .text import one_line, shown

COMMANDS = {
    "cuts": "list the points where a backbone can be cut",
    "build": "build an engine of one precision",
    "calibrate": "set int8 thresholds from images and measure every tensor",
    "inspect": "print the contents of an engine file or a model folder",
    "profile": "show the time of each layer of an engine, from its runtime's own profiler",
    "export": "write an engine as ONNX, OpenVINO IR or a raw plan, for programs without Python",
    "sign": "sign an engine file or a model folder with a private key",
    "verify": "check the signature of an engine file or a model folder",
    "embed": "compute the sign bits or features of images",
    "fit": "train a classifier on a folder of class folders",
    "plan": "plan a fit of any number of images: time, memory, disk and network, from rates measured in seconds",
    "sweep": "compare cuts, precisions and kernels of backbones on a folder of class folders",
    "predict": "label images",
    "evaluate": "measure a model's accuracy on a folder of class folders",
    "review": "list training images to look at again: contradicted labels, copies, and leaks to test images",
    "refit": "refit a model without some of its training images, with other labels, or with more images",
    "doctor": "show what the processor has, which runtimes work on this machine and how to install the others",
    "cache": "list what earlier runs have kept for later ones, or delete it",
    "bench": "run benchmarks against other libraries",
    "demo": "train and test on generated images in several precisions",
}


_VERBOSE = ("build", "calibrate", "fit", "sweep", "bench")
TRACEBACK = "AUREVOIR_TRACEBACK"
"""Environment variable that lets unexpected exceptions through, with their traceback."""
_LONGEST_MESSAGE = 4000
_HERE = ("out", "report", "csv", "html", "plot", "resume", "from", "work", "rates", "trace", "cache", "onnx")
"""Options whose files are of this machine, where a URL would be taken for a folder of its name."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        # An abbreviation would mean another option as soon as one is added.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        _say(f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own passes over an error.
        if file is not sys.stdout:
            super()._print_message(message, file)
        elif code := _printed(self.prog, f"{shown(message.removesuffix(chr(10)))}\n"):
            self.exit(code)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _suggestion(value, action.choices or ())
            raise


def _suggestion(word: Any, known: Any) -> str:
    near = get_close_matches(str(word), [str(each) for each in known], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def parser_for(command: str | None, name: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; only the given command, and for ``bench`` the given benchmark, has its arguments added."""
    parser = _Parser(
        prog="aurevoir",
        description="Low-precision CNN engines, and image classifiers trained on them without backprop.",
        epilog="Begin with `aurevoir fit PHOTOS --out MODEL` and `aurevoir predict MODEL IMAGES`, or with `aurevoir "
        "build BACKBONE --out F.engine`. `aurevoir COMMAND --help` has the options; docs/cli.md says what is printed.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for each, summary in COMMANDS.items():
        own = commands.add_parser(each, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        own.set_defaults(parser=own)
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

    0 done, 1 failed, 2 usage, 3 a missing runtime, package or device, 4 a threshold missed, 128 and the signal's number
    where one ended it: 130 interrupted, 143 terminated, 129 the terminal closed.

    Parameters
    ----------
    argv : sequence of str, optional
        The words behind the program's name; without them this is the program, whose streams and signals it sets.
    """
    if argv is not None:
        return _main(list(argv))
    try:
        with own_process():
            return _main(sys.argv[1:])
    except KeyboardInterrupt as ended:
        # Before the command, or behind it.
        return 128 + getattr(ended, "number", signal.SIGINT)


def _main(arguments: list[str]) -> int:
    command, name, *_ = [*(word for word in arguments if not word.startswith("-")), None, None]
    program = f"aurevoir {command}" if command in COMMANDS else "aurevoir"
    try:
        with warnings.catch_warnings():
            _show_notes(program)
            return _run(arguments, command, name)
    except AurevoirError as error:
        return _failed(program, error, error.exit_code)
    except Ended as ended:
        _say(f"{program}: ended by {signal.Signals(ended.number).name}")
        return 128 + ended.number
    except KeyboardInterrupt:
        _say(f"{program}: interrupted")
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        return _unexpected(program, error)


def _run(arguments: list[str], command: str | None, name: str | None) -> int:
    if command == "bench" and name is not None:
        # The options of a benchmark are its module's, which imports what it measures.
        _check_process()
    args = _parsed(arguments, command, name)
    _show_logs(getattr(args, "verbose", False))
    _check_process()
    with _cache(args):
        result = _module(args.command).run(args)
    if isinstance(result, Iterator):
        return _printed_as_they_come(f"aurevoir {args.command}", result)
    text = json.dumps(result) if args.json else _module(args.command).describe(result)
    code = _printed(f"aurevoir {args.command}", f"{shown(text)}\n")
    for reason in (unsaved := result.get("unsaved", [])):
        code = _failed(f"aurevoir {args.command}", reason)
    if not unsaved:
        _check_thresholds(args, result)
    return code


def _check_process() -> None:
    if fault := unfit_process():
        raise AurevoirError(fault)


def _parsed(arguments: list[str], command: str | None, name: str | None) -> argparse.Namespace:
    args, unknown = parser_for(command, name).parse_known_args(arguments)
    if unknown:
        parser = args.parser
        near = _suggestion(unknown[0].partition("=")[0], parser._option_string_actions)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
    for option, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise UsageError(f"{option.replace('_', '-')} is an empty text; give a value")
        if option in _HERE and isinstance(value, str) and "://" in value:
            raise UsageError(f"{option} {value} is a URL, and only images are read from there; give a path")
    return args


def _show_notes(program: str) -> None:
    """Show our warnings as lines on stderr; Pillow's limit on pixels is reported where a file exceeds it."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, AurevoirWarning):
            _say(f"{program}: note: {one_line(_cut(str(message)))}")
        else:
            original(one_line(str(message)), category, *where, **options)

    original = warnings.showwarning
    warnings.showwarning = show
    warnings.simplefilter("always", AurevoirWarning)
    # What is odd in a file that it decodes, such as its EXIF data.
    warnings.filterwarnings("ignore", module="PIL[.]")


def _show_logs(verbose: bool) -> None:
    import logging

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return shown(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(Lines("%(message)s"))
    logging.basicConfig(handlers=[handler])
    # A log that cannot be written would print a traceback.
    logging.raiseExceptions = False
    logging.getLogger("aurevoir.tensorrt").setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    logging.getLogger("aurevoir.weights").setLevel(logging.INFO)


def _cache(args: argparse.Namespace) -> AbstractContextManager[object]:
    """Return a context without the cache, if that is asked for."""
    if not getattr(args, "no_cache", False):
        return nullcontext()
    # Whoever asks for help does without it.
    from ..cache import without_cache

    return without_cache()


def _printed_as_they_come(program: str, texts: Iterator[str]) -> int:
    """Print texts, and stop the work on the next ones when one cannot be written."""
    for text in texts:
        if code := _printed(program, text):
            return code
    return 0


def _printed(program: str, text: str) -> int:
    """Print on stdout and return the exit code: 1 if it cannot be written, with no word if its reader has left."""
    if sys.stdout is None:
        return _failed(program, "stdout is closed; nothing was printed")
    try:
        print(text, end="", flush=True)
    except OSError as error:
        # What Python would still flush at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _failed(program, f"stdout cannot be written: {(error.strerror or str(error)).lower()}")
        return 1
    return 0


def _say(line: str) -> None:
    """Print a line on stderr, if there is one that takes it."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _cut(message: str) -> str:
    """Return a message without its middle where names that it quotes have no end."""
    half = _LONGEST_MESSAGE // 2
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[:half]} ... {message[-half:]}"


def _failed(program: str, message: object, code: int = 1) -> int:
    _say(f"{program}: error: {one_line(_cut(str(message)))}")
    return code


def _unexpected(program: str, error: Exception) -> int:
    """Say in one line what went wrong; where nobody foresaw it, how to see where."""
    if reason := explain(error):
        return _failed(program, reason)
    what = f"{type(error).__name__}: {error}"
    return _failed(program, f"unexpected {what}; set {TRACEBACK}=1 to see where, and report it")


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
