"""``aurevoir doctor``."""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Look at every runtime."""
    from ..engine.runtimes import RUNTIMES

    return {"runtimes": [_examine(name) for name in RUNTIMES]}


def _examine(name: str) -> dict[str, Any]:
    from ..engine.runtimes import installed, runtime

    module = runtime(name)
    report = {"name": name, "available": False, "version": None, "precisions": [], "why_not": None}
    if not installed(name):
        return {**report, "why_not": f"not installed; {module.INSTALL}"}
    try:
        return {
            **report,
            "available": True,
            "version": module.version(),
            "precisions": list(module.precisions()),
        }
    except Exception as error:  # a broken installation fails in ways of its own; that is what to report
        return {**report, "why_not": f"installed, but does not load: {error}; {module.INSTALL}"}


def describe(result: dict[str, Any]) -> str:
    """One line a runtime."""
    lines = []
    for item in result["runtimes"]:
        if item["available"]:
            lines.append(f"{item['name']:12s} {item['version']:12s} runs {', '.join(item['precisions'])}")
        else:
            lines.append(f"{item['name']:12s} {item['why_not']}")
    return "\n".join(lines)
