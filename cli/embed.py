"""``aurevoir embed``."""

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_cluster_options,
    add_rebuild,
    cluster_of,
    none_readable,
    positive,
    refuse_unused,
    skipped_lines,
)
from .outputs import check_outputs, save

if TYPE_CHECKING:
    from ..cluster.spec import Cluster
    from ..engine.engine import Engine
    from ..images.batches import ImageFiles

_KIND = "an archive of bits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("engine", help="an engine file (see `aurevoir build`)")
    parser.add_argument("images", nargs="+", help="image files, or folders, tables of paths or tar files of them")
    parser.add_argument(
        "--out",
        required=True,
        metavar="F.npz|DIR/",
        help="output file of paths and bits (or features); or a folder of such files with an index, written as they "
        "come, and continued by the same command after an interruption",
    )
    parser.add_argument(
        "--shard-rows", type=positive, metavar="N", help="rows of each file in a folder (default: 128 MiB of them)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--features", action="store_true", help="write float32 features instead of packed sign bits")
    kind.add_argument("--pooled", action="store_true", help="write float32 channel means instead of packed sign bits")
    add_rebuild(parser)
    add_cluster_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compute bits or features and write them to one file, or to shards in a folder."""
    from ..engine.load import load_engine
    from ..errors import UsageError
    from ..images.batches import ImageFiles
    from ..images.labelled import list_images

    folder = _is_folder(args.out)
    if folder:
        if read := next((each for each in args.images if os.path.realpath(each) == os.path.realpath(args.out)), None):
            raise UsageError(f"--out {args.out} is the input {read}; give another folder")
    else:
        if Path(args.out).suffix.lower() != ".npz":
            raise UsageError(
                f"--out {args.out} must end in .npz, the format that is written, or in / for a folder of shards; give "
                f"{args.out}.npz"
            )
        refuse_unused(args, ["shard_rows"], f"one file (--out {args.out}); end it in / for a folder", add_arguments)
        check_outputs(args, {"out": _KIND}, (args.engine, *args.images))
    cluster = cluster_of(args)
    engine = load_engine(args.engine, rebuild=args.rebuild)
    made = engine.manifest
    if made.labels:
        raise UsageError(f"{args.engine} is a whole classifier, which has no features; give the engine of a network")
    if args.pooled and not made.pooled:
        raise UsageError(f"{args.engine} is of an earlier version, which had no channel means: build it again")
    height, width, channels = made.input_shape
    listed = list_images(args.images, keep_missing=True)
    files = ImageFiles(listed, (height, width), made.resize, description="embed", channels=channels)
    name = "features" if args.features else "pooled" if args.pooled else "bits"
    return (_in_shards if folder else _in_one)(args, engine, files, name, cluster)


def _is_folder(out: str) -> bool:
    return out.endswith("/") or Path(out).is_dir()


def _in_one(
    args: argparse.Namespace, engine: "Engine", files: "ImageFiles", name: str, cluster: "Cluster | None"
) -> dict[str, Any]:
    import numpy as np

    from ..saving import write_atomically
    from ..transfer.embed import embed
    from ..transfer.embedded_shards import archive

    start = time.perf_counter()
    indices, values = embed(engine, files, [name], cluster=cluster)
    seconds = time.perf_counter() - start
    if not len(indices):
        raise none_readable(len(files), files.skipped)
    paths = np.array([str(files.paths[index]) for index in indices])
    arrays: dict[str, Any] = {"paths": paths, "m": np.array(engine.features), **values}
    result = {
        "images": len(indices),
        "features": engine.features,
        "images_per_second": len(indices) / seconds,
        "out": args.out,
        "skipped": files.skipped,
    }
    save(result, args.out, lambda: write_atomically(args.out, archive(arrays)), _KIND, "out")
    return result


def _in_shards(
    args: argparse.Namespace, engine: "Engine", files: "ImageFiles", name: str, cluster: "Cluster | None"
) -> dict[str, Any]:
    from ..images.sources import warn
    from ..transfer.embedded_shards import EmbeddedShards

    start = time.perf_counter()
    with EmbeddedShards(args.out, engine, files, name, args.shard_rows) as shards:
        if shards.taken_over:
            warn(f"the rows of {shards.taken_over} images are in {args.out} and are taken over")
        try:
            for _ in shards.write(cluster):
                pass
        except KeyboardInterrupt:
            warn(f"the rows of {shards.done} images are in {args.out}; the same command goes on")
            raise
    if not shards.done:
        raise none_readable(len(files), files.skipped)
    new = shards.done - shards.taken_over
    return {
        "images": shards.done,
        "new": new,
        "shards": shards.shards,
        "features": engine.features,
        "images_per_second": new / (time.perf_counter() - start),
        "out": args.out,
        "skipped": files.skipped,
    }


def describe(result: dict[str, Any]) -> str:
    """Summarize what was written."""
    done = f"{result['out'] or 'not saved'}: {result['images']} images, {result['features']:,d} features each, "
    if "shards" in result:
        done += f"{result['shards']} shards, {result['new']} new images, "
    return "\n".join([*skipped_lines(result["skipped"]), f"{done}{result['images_per_second']:.1f} images/s"])
