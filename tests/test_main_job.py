"""The main job on real photographs with pretrained weights, through the command line."""

import json
from functools import cache

import numpy as np
import pytest

from aurevoir.cli.main import main
from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.engine.sample import sample_images
from aurevoir.images.batches import ImageArray, ImageFiles, collect
from aurevoir.images.sources import class_folders
from aurevoir.kernels.fitting import fit_readout
from aurevoir.transfer.embed import embed_bits
from aurevoir.transfer.evaluate import split


def _fit(capsys, *arguments):
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def caltech(data, resnet):
    """Sign bits of all of caltech10 by the same backbone in fp32 and int8, each image once."""
    exported = export_backbone(open_backbone(resnet))
    labelled = class_folders(data("caltech10"))
    table = calibrate(exported, sample_images(data("calibration500"), exported.size, 64))
    engines = {"fp32": assemble(exported, "fp32"), "int8": assemble(exported, "int8", table=table)}
    images = ImageArray(collect(ImageFiles(labelled.paths, exported.size))[1])
    bits = {name: embed_bits(engine, images)[1] for name, engine in engines.items()}
    return labelled, bits, exported.features


@pytest.fixture(scope="module")
def accuracy(caltech):
    """The accuracy on a split, by precision, seed and projection; each is fitted once."""
    labelled, bits, m = caltech
    places = {path: place for place, path in enumerate(labelled.paths)}
    labels = np.unique(labelled.labels, return_inverse=True)[1]

    @cache
    def fitted(precision, seed, projection):
        train, test = (np.array([places[path] for path in part.paths]) for part in split(labelled, seed))
        readout, _ = fit_readout(bits[precision][train], m, labels[train], 10, projection, seed=seed)
        return (readout.scores(bits[precision][test]).argmax(axis=1) == labels[test]).mean()

    return fitted


@pytest.mark.parametrize(("projection", "least"), [("auto", 0.95), ("none", 0.95), ("exact", 0.95), ("hadamard", 0.92)])
def test_ten_animals_are_told_apart(accuracy, projection, least):
    assert accuracy("fp32", 0, projection) >= least


def test_int8_is_as_accurate_as_fp32(accuracy):
    accuracies = {precision: [accuracy(precision, seed, "auto") for seed in range(5)] for precision in ("fp32", "int8")}
    assert abs(np.mean(accuracies["int8"]) - np.mean(accuracies["fp32"])) <= 0.01


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_ants_and_bees(capsys, data, resnet, precision):
    folder = data("hymenoptera")
    result = _fit(capsys, folder / "train", "--test", folder / "val", "--backbone", resnet, "--precision", precision)
    assert result["accuracy"] >= 0.83
    assert (result["train_images"], result["test_images"], result["skipped"]) == (244, 153, {})


def test_satellite_tiles(capsys, data, mobilenet):
    assert _fit(capsys, data("eurosat1000"), "--backbone", mobilenet, "--precision", "int8")["accuracy"] >= 0.80


def test_squeezenet_with_weights_from_a_file(capsys, data):
    folder = data("hymenoptera")
    weights = data("backbones/squeezenet1_1.pth")
    result = _fit(
        capsys, folder / "train", "--test", folder / "val", "--backbone", "squeezenet1_1", "--weights", weights,
        "--precision", "int8",
    )  # fmt: skip
    assert result["accuracy"] >= 0.80
    assert result["features"] == 512 * 13 * 13
