"""``aurevoir doctor``."""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check every runtime."""
    from ..engine.runtimes.base import RUNTIMES

    return {"runtimes": [_examine(name) for name in RUNTIMES]}


def _examine(name: str) -> dict[str, Any]:
    from ..engine.runtimes import builds_plans, installed, plan_runtime, runtime

    module = runtime(name)
    report: dict[str, Any] = {
        "name": name,
        "available": False,
        "version": None,
        "precisions": [],
        "devices": [],
        "targets": [],
        "why_not": None,
        "install": module.INSTALL,
    }
    if not installed(name):
        return {**report, "why_not": "not installed"}
    try:
        report["targets"] = list(plan_runtime(name).targets()) if builds_plans(name) else []
        report["version"] = module.version()
        if builds_plans(name) and (reason := plan_runtime(name).why_not()):
            return {**report, "why_not": reason}
        found = {"precisions": list(module.precisions()), "devices": list(module.devices())}
    except Exception as error:  # a broken installation may raise anything
        return {**report, "why_not": f"installed, but fails to load: {error}"}
    return {**report, **found, "available": True}


def describe(result: dict[str, Any]) -> str:
    """Format one line per runtime."""
    return "\n".join(_line(item) for item in result["runtimes"])


def _line(item: dict[str, Any]) -> str:
    head = f"{item['name']:12s} {item['version'] or '-':12s}"
    ahead = f"; builds ahead of time for {', '.join(item['targets'])}" if item["targets"] else ""
    if item["available"]:
        return f"{head} runs {', '.join(item['precisions'])} on {', '.join(item['devices'])}{ahead}"
    remedy = "" if item["targets"] else f"; {item['install']}"
    return f"{head} does not run here: {item['why_not']}{remedy}{ahead}"
