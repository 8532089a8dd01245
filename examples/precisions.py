"""One backbone as engines of several precisions: how large, how near to fp32, how fast.

    python examples/precisions.py photos --backbone mobilenetv2.onnx

Sign agreement is the share of features that keep fp32's sign, which is all that the classifier sees of them. It is
measured on images that calibration did not use. Compare the speeds with one another: they are this machine's.
"""

import argparse
import tempfile
import timeit
from pathlib import Path

import numpy as np

import aurevoir
from aurevoir.errors import UsageError
from aurevoir.images.procedural import write_class_folders

DRAWN = {"backbone": "squeezenet1_1", "cut": "features.5", "weights": "random", "size": 112}


def main() -> None:
    """Build an engine in each precision that this processor runs, and measure it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, help="a folder of images to calibrate on")
    parser.add_argument("--backbone", help="an ONNX file, or a torchvision name for its pretrained weights")
    args = parser.parse_args()
    network = {"backbone": args.backbone} if args.backbone else DRAWN
    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or write_class_folders(Path(scratch), per_class=10, size=112).paths
        for precision in ("fp32", "bf16", "int8"):
            try:
                engine = aurevoir.build_engine(**network, precision=precision, runtime="openvino", calibration=data)
            except UsageError as error:  # older processors have no bf16
                print(f"{precision}: {error}")
                continue
            kept = engine.manifest.sign_agreement or 1
            speed = images_per_second(engine)
            print(f"{precision}: {engine.megabytes:.1f} MB, sign agreement {kept:.3f}, {speed:.0f} images/s")


def images_per_second(engine: aurevoir.Engine) -> float:
    """Return the speed of the fastest of six batches; what the images show makes no difference."""
    noise = np.random.default_rng(0).integers(0, 256, (engine.batch_size, *engine.input_shape), dtype="uint8")
    return len(noise) / min(timeit.repeat(lambda: engine.bits(noise), number=1, repeat=6))


if __name__ == "__main__":
    main()
