"""An engine inside another program: built once, loaded from its file, shared by threads.

    python examples/embed_in_a_program.py photos --backbone mobilenetv2.onnx

The program needs no more than the engine file. Batches may be of any size and come from any thread, since each
thread has buffers of its own.
"""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import aurevoir
from aurevoir.images.batches import ImageFiles, collect
from aurevoir.images.procedural import write_class_folders
from aurevoir.images.sources import list_files

DRAWN = {"backbone": "squeezenet1_1", "cut": "features.5", "weights": "random", "size": 112}


def main() -> None:
    """Build and load an engine, then give it a batch, and single images from four threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, help="a folder of images")
    parser.add_argument("--backbone", help="an ONNX file, or a torchvision name for its pretrained weights")
    args = parser.parse_args()
    network = {"backbone": args.backbone} if args.backbone else DRAWN
    with tempfile.TemporaryDirectory() as scratch:
        paths = list_files(args.data) if args.data else write_class_folders(Path(scratch), per_class=2, size=112).paths
        file = Path(scratch, "network.engine")
        aurevoir.build_engine(**network, calibration=paths, out=file)

        engine = aurevoir.load_engine(file)
        pixels = collect(ImageFiles(paths[:16], engine.input_shape[:2]))[1]
        features, bits = engine(pixels), engine.bits(pixels)
        print(f"images {pixels.shape} {pixels.dtype}")
        print(f"features {features.shape} {features.dtype}, bits {bits.shape} {bits.dtype}")
        print(f"bits are the packed signs of the features: {np.array_equal(bits, np.packbits(features > 0, axis=1))}")
        with ThreadPoolExecutor(4) as pool:
            alone = np.concatenate(list(pool.map(engine.bits, pixels[:, None])))
        print(f"share of bits that one image at a time changes: {np.bitwise_count(alone ^ bits).mean() / 8:.4f}")


if __name__ == "__main__":
    main()
