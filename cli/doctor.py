"""``aurevoir doctor``."""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check the processor and every runtime."""
    from ..engine.runtimes.base import RUNTIMES

    return {"processor": _processor(), "runtimes": [_examine(name) for name in RUNTIMES]}


def _processor() -> dict[str, Any]:
    """Return the instruction sets that matter to engines, and what they mean for int8 on each runtime."""
    from ..engine.runtimes import ON_HOST
    from ..engine.runtimes.processor import describe_int8, instruction_sets, isa_limit

    return {
        "instruction_sets": instruction_sets(),
        "onednn_limit": isa_limit(),
        "int8": {name: describe_int8(name) for name in ON_HOST},
    }


def _examine(name: str) -> dict[str, Any]:
    from ..engine.runtimes import NO_GPU, builds_plans, installed, plan_runtime, runtime

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
    if not found["precisions"]:
        return {**report, "why_not": NO_GPU}
    return {**report, **found, "available": True}


def describe(result: dict[str, Any]) -> str:
    """Format the processor and one line per runtime."""
    found = result["processor"]
    has = ", ".join(name for name, there in found["instruction_sets"].items() if there) or "none of those that matter"
    lacks = ", ".join(name for name, there in found["instruction_sets"].items() if not there)
    meaning = [*dict.fromkeys(found["int8"].values())]
    lines = meaning if len(meaning) == 1 else [f"{name}: {remark}" for name, remark in found["int8"].items()]
    return "\n".join(
        [
            f"{'processor':12s} {has}" + (f"; not {lacks}" if lacks else ""),
            *(f"{'int8':12s} {line}" for line in lines),
            *(_line(item) for item in result["runtimes"]),
        ]
    )


def _line(item: dict[str, Any]) -> str:
    head = f"{item['name']:12s} {item['version'] or '-':12s}"
    ahead = f"; builds ahead of time for {', '.join(item['targets'])}" if item["targets"] else ""
    if item["available"]:
        return f"{head} runs {', '.join(item['precisions'])} on {', '.join(item['devices'])}{ahead}"
    # Installing what is there already would not help.
    missing = item["version"] is None or item["why_not"].startswith("installed, but")
    remedy = f"; {item['install']}" if missing and not item["targets"] else ""
    return f"{head} does not run here: {item['why_not']}{remedy}{ahead}"
