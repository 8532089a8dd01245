"""``aurevoir cache``."""

import argparse
import os
import time
from typing import Any

_NAMES = {
    "engine": "engines",
    "compiled": "compiled engines",
    "graph": "exported graphs",
    "table": "calibration tables",
    "tiles": "sizes of tiles",
    "rates": "rates of plans",
    "numba": "compiled kernels",
    "checked-engines": "record of checked engines",
}
_AGES = ((86400, "days"), (3600, "hours"), (60, "minutes"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "The cache is $AUREVOIR_CACHE, or aurevoir in $XDG_CACHE_HOME or ~/.cache. AUREVOIR_CACHE_SIZE bounds its "
        "engines, graphs, tables and rates, 2GiB by default: what was not used for longest goes first; 0 keeps none."
    )
    parser.add_argument(
        "action", nargs="?", default="list", choices=("list", "clear", "warm"),
        help="list (default), clear to delete all of it, or warm to compile the kernels, such as when a container's "
        "image is made",
    )  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """List what is there, or what was deleted."""
    from ..cache import cache_folder, clear, contents, fault, size_limit

    folder, started, limit = cache_folder(), time.time(), size_limit()
    if args.action == "warm":
        _warm()
    found = [] if folder is None else (clear if args.action == "clear" else contents)(folder)
    kinds = []
    for kind in _NAMES:
        own = [each for each in found if each.kind == kind]
        if own:
            used = [max(0.0, started - each.used) for each in own]
            sizes = sum(each.size for each in own)
            kinds.append({"kind": kind, "files": len(own), "bytes": sizes, "used_seconds_ago": [min(used), max(used)]})
    return {
        "folder": None if folder is None else str(folder),
        "limit": limit,
        "why_not": fault(),
        "action": args.action,
        "bytes": sum(each.size for each in found),
        "kinds": kinds,
    }


def _warm() -> None:
    from ..cache import fault
    from ..errors import UsageError
    from ..kernels.backends.numba.ahead import kernels_folder
    from ..kernels.backends.numba.warm import warm

    if kernels_folder() is None and not os.environ.get("NUMBA_CACHE_DIR"):
        raise UsageError(f"compiled kernels can be kept nowhere: {fault()}")
    warm()


def describe(result: dict[str, Any]) -> str:
    """Lay the kinds out as a table."""
    from ..cache import KINDS
    from ..kernels.memory import format_bytes
    from .text import name

    place = "no folder" if result["folder"] is None else name(result["folder"])
    if result["action"] == "clear":
        files = sum(each["files"] for each in result["kinds"])
        return f"{place}: deleted {files:,d} files, {format_bytes(result['bytes'])}"
    bounded = sum(each["bytes"] for each in result["kinds"] if each["kind"] in KINDS)
    others = f", and {format_bytes(rest)} without a limit" if (rest := result["bytes"] - bounded) else ""
    lines = [f"{place}: {format_bytes(bounded)}, of at most {format_bytes(result['limit'])}{others}"]
    if result["why_not"]:
        lines.append(f"not in use: {name(result['why_not'])}")
    for each in result["kinds"]:
        files = f"{each['files']:,d} file{'s' if each['files'] > 1 else ''}"
        newest, oldest = map(_age, each["used_seconds_ago"])
        used = f"used {newest} ago" if newest == oldest else f"used {newest} to {oldest} ago"
        lines.append(f"{_NAMES[each['kind']]:26s} {files:>10s} {format_bytes(each['bytes']):>12s}  {used}")
    return "\n".join(lines)


def _age(seconds: float) -> str:
    for each, unit in _AGES:
        if seconds >= 2 * each:
            return f"{seconds / each:.0f} {unit}"
    return f"{seconds:.0f} seconds"
