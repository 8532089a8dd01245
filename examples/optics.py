"""The optics alone: a simulated random projection, its 8-bit camera, and the kernel that k tends to.

    python examples/optics.py features.npz

The file holds features X of shape (n, m) and labels y; without one, scikit-learn's digits pass a random layer.
The inner products of speckle |Rx|^2 come near the exact kernel |x|^2 |x'|^2 + <x, x'>^2 as its components grow in
number, and so does the accuracy; the exact kernel needs no projection at all.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import aurevoir
from aurevoir.kernels.projection import Hadamard, expose_sample


def main() -> None:
    """Compare projections to more and more components with the exact kernel."""
    parser = argparse.ArgumentParser()
    parser.add_argument("features", nargs="?", type=Path, help="an .npz file with X and y")
    args = parser.parse_args()
    X, y = (np.load(args.features)[name] for name in "Xy") if args.features else digits()
    train, test, y_train, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)
    bits = (test > 0).astype("float64")
    kernel = np.outer(bits.sum(axis=1), bits.sum(axis=1)) + (bits @ bits.T) ** 2
    for k in (64, 256, 1024, 4096):
        optical = aurevoir.OpticalClassifier(projection="hadamard", n_components=k).fit(train, y_train)
        projection = Hadamard(m=X.shape[1], k=k)
        camera = expose_sample(projection, np.packbits(train > 0, axis=1))
        speckle = projection.speckle(np.packbits(test > 0, axis=1), camera).astype("float64")
        likeness = np.corrcoef((speckle @ speckle.T).ravel(), kernel.ravel())[0, 1]
        print(f"k = {k}: accuracy {optical.score(test, y_test):.3f}, correlation with the exact kernel {likeness:.3f}")
    exact = aurevoir.OpticalClassifier(projection="exact").fit(train, y_train)
    print(f"exact: accuracy {exact.score(test, y_test):.3f}")


def digits(m: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Return digits through a random layer, whose signs tell on which side of m planes they lie."""
    images, labels = load_digits(return_X_y=True)
    layer = np.random.default_rng(0).normal(size=(images.shape[1], m))
    return (images - images.mean(axis=0)) @ layer, labels


if __name__ == "__main__":
    main()
