"""``aurevoir plan``."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import AurevoirError, BudgetError, UsageError
from ..saving import write_atomically
from .options import CUT, DATA, above_zero, pixels, positive, refuse_unused
from .outputs import check_outputs, save
from .text import name

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..transfer.rates import Rates

_KIND = "a file of rates"
_OF_ENGINE = ("backbone", "cut", "precision", "runtime", "device", "size")
_CLASSES = 10
_DRAWN, _DRAWN_SIZE = 80, 320
"""Images that are drawn where none are given, and their height and width."""
_CALIBRATION_IMAGES = 32
_TIMES = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (120, 60, "min"))
"""Seconds from which a unit is used, and the seconds of one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        "Seconds are computed from rates that are measured here in seconds, kept in the cache, or read from a file "
        "made on another machine. Building the engine and what else does not grow with the images is not counted. "
        "`decode`, `engine` and what the ridge does for each of many rows divide among workers; one of them solves it."
    )
    parser.add_argument(
        "--images",
        type=positive,
        nargs="+",
        metavar="N",
        help="numbers of images to plan for (default: those of --data)",
    )
    parser.add_argument("--data", metavar="DATA", help=f"photographs to measure with, instead of drawn ones; {DATA}")
    parser.add_argument("--classes", type=positive, help=f"number of classes (default: that of --data, or {_CLASSES})")
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--backbone",
        default="densenet169",
        help="torchvision name, efficientnet_lite0 (or 1, 2), timm:NAME or ONNX file (default: %(default)s); a name's "
        "weights are random, which are as fast",
    )
    group.add_argument("--engine", metavar="F", help="an engine file to use instead of a backbone")
    group.add_argument("--cut", help=CUT)
    group.add_argument("--size", type=pixels, help="input height and width (default: the backbone's)")
    group.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 or int8 (default: fp32)")
    group.add_argument("--runtime", default="auto", help="runtime of the engine (default: auto)")
    group.add_argument("--device", help="device of the engine, such as cpu or cuda (default: the runtime's first)")
    group = parser.add_argument_group("ridge")
    group.add_argument(
        "--projection",
        default="auto",
        help="auto (default), none, exact, pooled, rbf, layers, bits+rbf, exact+rbf or hadamard",
    )
    group.add_argument("--components", type=positive, metavar="K", help="number of projection outputs, as of fit")
    group.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory limit of projection and ridge (default: AUREVOIR_MEMORY, or 4GiB; less in a small container)",
    )
    group.add_argument(
        "--no-test", action="store_true", help="train on all images at once, without a test and a second ridge"
    )
    group = parser.add_argument_group("machines")
    group.add_argument(
        "--workers", type=positive, default=1, metavar="W", help="machines like the measured one (default: 1)"
    )
    group.add_argument("--gpus", type=positive, metavar="G", help="GPUs of all of them (default: one a worker, if any)")
    group.add_argument("--rates", metavar="F.json", help="a file of rates that --out has written, on any machine")
    group.add_argument(
        "--solver-rates", metavar="F.json", help="those of the machine that solves the ridge (default: a worker's)"
    )
    group.add_argument("--decode-rate", type=above_zero, metavar="R", help="images/s decoded by a worker, instead")
    group.add_argument(
        "--engine-rate", type=above_zero, metavar="R", help="images/s of an engine, of one GPU if --gpus is given"
    )
    group.add_argument("--measure", action="store_true", help="measure the rates, even if the cache has them")
    group.add_argument(
        "--no-cache", action="store_true", help="take no graph, engine or rates from the cache, and keep none there"
    )
    group.add_argument("--out", metavar="F.json", help="write the rates into this file")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure or read the rates, and plan."""
    from ..kernels.memory import memory_budget
    from ..transfer.rates import read_rates

    _check(args)
    listed = _listed(args.data)
    images = args.images or ([len(listed.paths)] if listed else [])
    classes = args.classes or (len(listed.names) if listed else _CLASSES)
    jobs = [_job(args, n, classes) for n in images]
    rates = read_rates(args.rates) if args.rates else _measured(args, listed.paths if listed else [])
    used = rates.with_solver(read_rates(args.solver_rates)) if args.solver_rates else rates
    used = used.with_rates(decode=args.decode_rate, engine=args.engine_rate)
    if args.gpus and args.engine_rate:
        used = replace(used, device="cuda")
    result: dict[str, Any] = {
        "classes": classes,
        "projection": args.projection,
        "memory_budget": memory_budget(args.memory),
        "tested": not args.no_test,
        "workers": args.workers,
        "rates": asdict(used),
        "plans": _planned(jobs, used),
        "out": args.out,
    }
    if args.out:
        content = rates.to_json().encode()
        save(result, args.out, lambda: write_atomically(args.out, content), _KIND, "out")
    return result


def _check(args: argparse.Namespace) -> None:
    from ..kernels.memory import memory_budget

    if not (args.images or args.data or args.measure or args.out):
        raise UsageError("there is nothing to plan; give --images N, or --data, whose images are counted")
    if args.rates:
        refuse_unused(args, (*_OF_ENGINE, "engine", "measure", "out"), "rates of a file (--rates)", add_arguments)
    if args.engine:
        refuse_unused(args, _OF_ENGINE, "a built engine (--engine)", add_arguments)
    if args.projection != "hadamard":
        refuse_unused(args, ["components"], f"projection {args.projection}", add_arguments)
    memory_budget(args.memory)
    check_outputs(args, {"out": _KIND}, (args.data, args.backbone, args.engine))


def _listed(data: str | None) -> Any:
    from ..images.labelled import labelled_images

    return None if data is None else labelled_images(data)


def _job(args: argparse.Namespace, images: int, classes: int) -> Any:
    from ..transfer.fit_plan import Job

    return Job(
        images=images,
        classes=classes,
        projection=args.projection,
        n_components=args.components,
        budget=args.memory,
        tested=not args.no_test,
        workers=args.workers,
        gpus=args.gpus,
    )


def _planned(jobs: Sequence[Any], rates: "Rates") -> list[dict[str, Any]]:
    """Return the plan of each job, or why it does not fit; raise that if none does."""
    from ..transfer.fit_plan import plan_fit

    found: list[dict[str, Any]] = []
    refused: list[BudgetError] = []
    for job in jobs:
        try:
            found.append(plan_fit(job, rates).to_json())
        except BudgetError as error:
            refused.append(error)
            found.append({"images": job.images, "error": str(error)})
    if refused and len(refused) == len(jobs):
        raise refused[0]
    return found


def _measured(args: argparse.Namespace, paths: Sequence[Path]) -> "Rates":
    """Return the rates of this machine, of the cache or measured now."""
    from ..cache import user_cache
    from ..engine.reuse import images_part
    from ..kept import key_of
    from ..kernels.backends.numba.ahead import compile_ahead
    from ..transfer.rates import SCHEMA, Rates, measure_rates

    compile_ahead(["products"], True)
    cache = user_cache(True)
    with _files(paths) as (files, what):
        engine = _engine(args, files)
        key = key_of(SCHEMA, engine.digest(), engine.runtime, engine.device, args.projection, images_part(files))
        kept = cache.get("rates", key) if cache and not args.measure else None
        if cache and kept is not None:
            # What holds none is measured again.
            with suppress(AurevoirError):
                rates = Rates.from_json(kept, "an entry of the cache")
                cache.say("the rates of this machine")
                return rates
        rates = measure_rates(engine, files, what, args.projection, True)
    if cache:
        cache.put("rates", key, rates.to_json().encode())
    return rates


@contextmanager
def _files(paths: Sequence[Path]) -> Iterator[tuple[list[Path], str]]:
    """Yield some of the photographs, or drawn ones, and what they are."""
    from ..engine.sample import choose_images
    from ..images.procedural import PATTERNS, write_class_folders
    from ..transfer.rates import PHOTOGRAPHS

    if paths:
        chosen = choose_images(paths, PHOTOGRAPHS, 0)
        yield chosen, f"{len(chosen)} of {len(paths)} photographs"
        return
    with TemporaryDirectory(prefix="aurevoir-plan-") as folder:
        drawn = write_class_folders(Path(folder), _DRAWN // len(PATTERNS), _DRAWN_SIZE)
        yield drawn.paths, f"{_DRAWN} drawn images of {_DRAWN_SIZE} x {_DRAWN_SIZE}"


def _engine(args: argparse.Namespace, files: list[Path]) -> "Engine":
    """Return the engine that is given, or one as fit builds it, of thresholds that need not be good."""
    from ..cache import user_cache
    from ..engine.backbone import is_file
    from ..engine.build import EngineBuilder
    from ..engine.load import load_engine
    from ..engine.spec import CalibrationSpec, EngineSpec, NetworkSpec

    if args.engine:
        engine = load_engine(args.engine)
        if engine.manifest.labels:
            raise UsageError(f"{args.engine} is a whole classifier; give the engine of a network, or --backbone")
        return engine
    weights = "default" if is_file(args.backbone) else "random"
    network = NetworkSpec(backbone=args.backbone, cut=args.cut, weights=weights, size=args.size)
    spec = EngineSpec(
        precision=args.precision, runtime=args.runtime, device=args.device, measure=False, compare_speed=False
    )
    source = CalibrationSpec(images=_CALIBRATION_IMAGES, held_out=0)
    return EngineBuilder(network, source, data=files, progress=True, cache=user_cache(True)).build(spec)


def describe(result: dict[str, Any]) -> str:
    """Lay the plans out as a table, one in a column."""
    from ..benchmarks.reporting.text import aligned
    from ..kernels.memory import format_bytes

    rates, plans = result["rates"], result["plans"]
    known = rates["per_second"]
    channels = f", {rates['channels']:,d} channel means" if rates["channels"] else ""
    lines = [
        f"{name(rates['backbone'])} {rates['precision']} on {rates['runtime']} ({rates['device']}), "
        f"{rates['features']:,d} features{channels}",
        f"rates of {name(rates['machine'])}, measured {rates['measured']} with {name(rates['images'])} of "
        f"{format_bytes(round(rates['image_bytes']))}: decode {known['decode']:,.0f} and engine "
        f"{known['engine']:,.0f} images/s",
    ]
    fitting = [plan for plan in plans if "error" not in plan]
    if fitting:
        lines += [_settings(result), *aligned(["", *(f"{plan['images']:,d}" for plan in fitting)], _rows(fitting))]
    lines += [f"{plan['images']:,d} images: {plan.get('error') or plan['form']['reason']}" for plan in plans]
    if result["out"]:
        lines.append(f"rates: {result['out']}")
    return "\n".join(lines)


def _settings(result: dict[str, Any]) -> str:
    from ..kernels.memory import format_bytes

    kernels = {plan["kernel"] for plan in result["plans"] if "error" not in plan}
    counted = f", counted as {kernels.pop()}" if result["projection"] == "auto" and len(kernels) == 1 else ""
    workers = f"{result['workers']:,d} workers, " if result["workers"] > 1 else ""
    test = "a fifth of the images tests, then all are fitted" if result["tested"] else "no test"
    return (
        f"{workers}{result['classes']:,d} classes, projection {result['projection']}{counted}, memory budget "
        f"{format_bytes(result['memory_budget'])}, {test}; without building the engine"
    )


def _rows(plans: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the rows of the table."""
    from ..kernels.memory import format_bytes
    from ..transfer.fit_plan import STAGES

    def row(title: str, values: Iterator[str]) -> list[str]:
        return [title, *values]

    def sizes(title: str, values: Sequence[int]) -> list[list[str]]:
        return [row(title, map(format_bytes, values))] if any(values) else []

    rows = [row("ridge", (f"{plan['form']['name']} {plan['form']['order']:,d}" for plan in plans))]
    for stage in STAGES:
        seconds = [plan["seconds"].get(stage, 0.0) for plan in plans]
        if any(seconds):
            rows.append(row(stage, map(_duration, seconds)))
    rows.append(row("total", (_duration(plan["total_seconds"]) for plan in plans)))
    if any(plan["gpus"] for plan in plans):
        rows.append(row("GPU-hours", (f"{plan['gpu_hours']:,.2f}" for plan in plans)))
    for title, part, key in (
        ("memory, embedding", "memory", "embedding"),
        ("memory, ridge", "memory", "ridge"),
        ("temporary files", "disk", "files"),
        ("model folder", "disk", "model"),
        ("with a work folder", "disk", "work"),
        ("rows over the network", "network", "rows"),
        ("ridge over the network", "network", "passes"),
    ):
        rows += sizes(title, [plan[part][key] for plan in plans])
    return [*rows, *sizes("image files", [plan["read"] for plan in plans])]


def _duration(seconds: float) -> str:
    for least, each, unit in _TIMES:
        if seconds >= least:
            return f"{seconds / each:,.1f} {unit}"
    return f"{seconds:.1f} s"
