"""From a folder of class folders to a classifier, its predictions and its model folder.

    python examples/classify_folder.py photos --backbone mobilenetv2.onnx

Without a folder it draws images of ten patterns, and tells them apart by the first layers of a network with random
weights. Leave-one-out over the training images picks the ridge's alpha and estimates the accuracy before any test
image is looked at.
"""

import argparse
import tempfile
from pathlib import Path

import aurevoir
from aurevoir.images.procedural import write_class_folders
from aurevoir.transfer.evaluate import train_and_test

DRAWN = {"backbone": "squeezenet1_1", "cut": "features.5", "weights": "random", "size": 112}


def main() -> None:
    """Train on four fifths of the images, test on the others, save the model and load it again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, help="a folder of class folders")
    parser.add_argument("--backbone", help="an ONNX file, or a torchvision name for its pretrained weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or write_class_folders(Path(scratch, "drawn"), per_class=20, size=112).paths[0].parents[1]
        train, test = train_and_test(data)
        network = {"backbone": args.backbone} if args.backbone else DRAWN
        classifier = aurevoir.OpticalClassifier(**network, precision="int8").fit(train.paths, train.labels)
        print(f"{len(train.paths)} training images of {len(classifier.classes_)} classes")
        print(f"accuracy by leave-one-out {classifier.loo_accuracy_:.3f}")
        print(f"accuracy on {len(test.paths)} test images {classifier.score(test.paths, test.labels):.3f}")

        classifier.save(Path(scratch, "model"))
        loaded = aurevoir.load(Path(scratch, "model"))
        for path, label in zip(test.paths[:3], loaded.predict(test.paths[:3]), strict=True):
            print(f"{path.parent.name}/{path.name}: {label}")


if __name__ == "__main__":
    main()
