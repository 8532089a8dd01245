"""The whole post end to end: from JPEG files through an engine and the optics to a classifier with 15 alphas."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from ....engine.engine import Engine
from ....images.batches import ImageFiles, collect
from ....images.sources import class_folders
from ....kernels.arrays import on_device, on_host
from ....kernels.fitting import fit_readout
from ....kernels.stopwatch import Stopwatch
from ....transfer.embed import embed_bits
from ....transfer.evaluate import split
from ...contract import Cells, Row
from ..ridge.fit import POST_SECONDS
from .data import PHOTOGRAPHS, posts_network

_CALIBRATED_ON, _DECODED_AT_ONCE = 128, 256
# The post's whole training with int8 convolutions in TensorRT, data loading included; see its figures.
_POST_TOTAL = POST_SECONDS + 15.01


@dataclass(frozen=True)
class _Photographs:
    """Files to train on, repeated up to the post's number of images, and others to test on."""

    train: Sequence[Path]
    labels: np.ndarray
    test: Sequence[Path]
    test_labels: np.ndarray
    distinct: int


def measure_post(args: argparse.Namespace) -> Iterator[Row]:
    """Time decoding alone, on the CPU and by nvJPEG, and whole trainings, each of them twice."""
    data = _photographs(args.data / PHOTOGRAPHS, args.full_size[0], args.images)
    network = posts_network(args.data)
    size, few = network.exported.size, data.train[: args.images]
    row = Row({"name": "decode, threads of the CPU", "images": len(few)})
    with row.attempt():
        row.note(images_per_second=_rate(lambda: _decode_in_threads(few, size), len(few)))
    yield row
    row = Row({"name": "decode, nvJPEG", "images": len(few)})
    with row.attempt():
        row.note(images_per_second=_rate(lambda: _decode_on_gpu(few, size, args.device), len(few)))
    yield row
    pixels = collect(ImageFiles(data.train[: min(_CALIBRATED_ON, data.distinct)], size))[1]
    engines = posts_network(args.data, pixels)
    # Triton's engine last: it times its kernels when it is loaded.
    for runtime, precision in (("torch", "bf16" if args.device == "cpu" else "fp16"), ("triton", "int8")):
        row = Row({"name": f"{runtime} {precision}", "images": len(data.train), "distinct": data.distinct})
        with row.attempt():
            start = time.perf_counter()
            engine = engines.build(precision, runtime, args.device)
            row.note(build_seconds=time.perf_counter() - start)
            first = _trained(engine, size, data, args)["total"]
            row.note(**_trained(engine, size, data, args), first_total=first)
        yield row


def _photographs(folder: Path, count: int, tested: int) -> _Photographs:
    train, test = split(class_folders(folder))
    names = sorted({*map(str, train.labels)})
    number = {name: index for index, name in enumerate(names)}
    labels, test_labels = (np.array([number[str(each)] for each in part.labels]) for part in (train, test))
    # In an order of chance, so that any number of them is of every class.
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = np.fromiter(islice(cycle(order), count), dtype="int64")
    return _Photographs(
        [train.paths[index] for index in chosen],
        labels[chosen],
        test.paths[:tested],
        test_labels[:tested],
        min(count, len(labels)),
    )


def _trained(engine: Engine, size: tuple[int, int], data: _Photographs, args: argparse.Namespace) -> Cells:
    """Train from files once and label the others; return seconds by stage, of which decoding is what engines wait."""
    watch = Stopwatch(args.device)
    bits = embed_bits(engine, ImageFiles(data.train, size), watch)[1]
    rows, labels = (on_device(part, args.device) for part in (bits, data.labels))
    classes = int(data.labels.max()) + 1
    readout, path = fit_readout(
        rows, engine.features, labels, classes, "hadamard", budget=args.memory, search="all", timer=watch
    )
    seconds = watch.total()
    others = on_device(embed_bits(engine, ImageFiles(data.test, size))[1], args.device)
    predicted = on_host(readout.scores(others, args.memory)).argmax(axis=1)
    total = seconds.pop("total")
    return {
        "seconds": seconds,
        "total": total,
        "images_per_second": len(data.train) / total,
        "alphas": int(np.isfinite(path.loo_accuracies).sum()),
        "alpha": path.alpha,
        "accuracy": float((predicted == data.test_labels).mean()),
        "post_seconds": _POST_TOTAL,
    }


def _rate(decode: Callable[[], None], count: int) -> float:
    """Return images/s of a second pass, whose files are in memory."""
    decode()
    start = time.perf_counter()
    decode()
    return count / (time.perf_counter() - start)


def _decode_in_threads(paths: Sequence[Path], size: tuple[int, int]) -> None:
    for _ in ImageFiles(paths, size).batches(_DECODED_AT_ONCE):
        pass


def _decode_on_gpu(paths: Sequence[Path], size: tuple[int, int], device: str) -> None:
    """Read, decode and resize batches; the pixels differ a little from Pillow's."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    if device == "cpu":
        raise ValueError("nvJPEG needs a GPU")
    for start in range(0, len(paths), _DECODED_AT_ONCE):
        files = [read_file(str(path)) for path in paths[start : start + _DECODED_AT_ONCE]]
        for image in decode_jpeg(files, mode=ImageReadMode.RGB, device=device):
            torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
    torch.cuda.synchronize()
