"""``aurevoir embed``."""

import argparse
import time
from pathlib import Path
from typing import Any

from .options import add_rebuild, none_readable, skipped_lines
from .outputs import check_outputs, save

_KIND = "an archive of bits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("engine", help="an engine file (see `aurevoir build`)")
    parser.add_argument("images", nargs="+", help="image files, or folders, tables of paths or tar files of them")
    parser.add_argument("--out", required=True, metavar="F.npz", help="output file of paths and bits (or features)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--features", action="store_true", help="write float32 features instead of packed sign bits")
    kind.add_argument("--pooled", action="store_true", help="write float32 channel means instead of packed sign bits")
    add_rebuild(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compute bits or features and write them to one file."""
    import io

    import numpy as np

    from ..engine.load import load_engine
    from ..errors import UsageError
    from ..images.batches import ImageFiles
    from ..images.labelled import list_images
    from ..kernels.memory import memory_budget, require
    from ..saving import write_atomically
    from ..transfer.embed import embed

    if Path(args.out).suffix.lower() != ".npz":
        raise UsageError(f"--out {args.out} must end in .npz, the format that is written; give {args.out}.npz")
    check_outputs(args, {"out": _KIND}, (args.engine, *args.images))
    engine = load_engine(args.engine, rebuild=args.rebuild)
    made = engine.manifest
    if made.labels:
        raise UsageError(f"{args.engine} is a whole classifier, which has no features; give the engine of a network")
    if args.pooled and not made.pooled:
        raise UsageError(f"{args.engine} is of an earlier version, which had no channel means: build it again")
    height, width, channels = made.input_shape
    listed = list_images(args.images, keep_missing=True)
    files = ImageFiles(listed, (height, width), made.resize, description="embed", channels=channels)
    if args.features:
        needed = 4 * len(files) * engine.features
        require(
            needed,
            memory_budget(),
            "the features of these images",
            "omit --features, or give fewer images",
        )
    name = "features" if args.features else "pooled" if args.pooled else "bits"
    start = time.perf_counter()
    indices, values = embed(engine, files, [name])
    seconds = time.perf_counter() - start
    if not len(indices):
        raise none_readable(len(files), files.skipped)
    buffer = io.BytesIO()
    paths = np.array([str(files.paths[index]) for index in indices])
    arrays: dict[str, Any] = {"paths": paths, "m": np.array(engine.features), **values}
    np.savez(buffer, **arrays)
    result = {
        "images": len(indices),
        "features": engine.features,
        "images_per_second": len(indices) / seconds,
        "out": args.out,
        "skipped": files.skipped,
    }
    save(result, args.out, lambda: write_atomically(args.out, buffer.getbuffer()), _KIND, "out")
    return result


def describe(result: dict[str, Any]) -> str:
    """Summarize the output file."""
    done = f"{result['out'] or 'not saved'}: {result['images']} images, {result['features']:,d} features each, "
    return "\n".join([*skipped_lines(result["skipped"]), f"{done}{result['images_per_second']:.1f} images/s"])
