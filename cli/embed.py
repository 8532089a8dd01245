"""``aurevoir embed``."""

import argparse
import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_cluster_options, add_rebuild, cluster_of, none_readable, skipped_lines
from .outputs import check_outputs, save

if TYPE_CHECKING:
    import numpy as np

_KIND = "an archive of bits"
_BLOCK = 1 << 24
"""Bytes that are written at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("engine", help="an engine file (see `aurevoir build`)")
    parser.add_argument("images", nargs="+", help="image files, or folders, tables of paths or tar files of them")
    parser.add_argument("--out", required=True, metavar="F.npz", help="output file of paths and bits (or features)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--features", action="store_true", help="write float32 features instead of packed sign bits")
    kind.add_argument("--pooled", action="store_true", help="write float32 channel means instead of packed sign bits")
    add_rebuild(parser)
    add_cluster_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Compute bits or features and write them to one file."""
    import numpy as np

    from ..engine.load import load_engine
    from ..errors import UsageError
    from ..images.batches import ImageFiles
    from ..images.labelled import list_images
    from ..saving import write_atomically
    from ..transfer.embed import embed

    if Path(args.out).suffix.lower() != ".npz":
        raise UsageError(f"--out {args.out} must end in .npz, the format that is written; give {args.out}.npz")
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
    save(result, args.out, lambda: write_atomically(args.out, _archive(arrays)), _KIND, "out")
    return result


class _Pending(io.RawIOBase):
    """What was written and not taken yet."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._held.append(bytes(data))
        return len(self._held[-1])

    def take(self) -> bytes:
        taken, self._held = b"".join(self._held), []
        return taken


def _archive(arrays: "dict[str, np.ndarray]") -> Iterator[bytes]:
    """Yield an archive as `numpy.savez` writes it, of arrays that may be larger than memory."""
    import numpy as np

    pending = _Pending()
    with zipfile.ZipFile(pending, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(member, header)
                rows = np.atleast_1d(array)
                length = max(1, _BLOCK // max(1, rows[:1].nbytes))
                for start in range(0, len(rows), length):
                    member.write(rows[start : start + length].tobytes())
                    yield pending.take()
    yield pending.take()


def describe(result: dict[str, Any]) -> str:
    """Summarize the output file."""
    done = f"{result['out'] or 'not saved'}: {result['images']} images, {result['features']:,d} features each, "
    return "\n".join([*skipped_lines(result["skipped"]), f"{done}{result['images_per_second']:.1f} images/s"])
