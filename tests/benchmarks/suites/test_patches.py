"""``aurevoir bench patches`` on drawn photographs with boxes."""

import json

import numpy as np
import pytest
from PIL import Image

from aurevoir.benchmarks.suites import patches
from aurevoir.cli.main import main


@pytest.fixture
def boxed_folder(tmp_path):
    """Sixteen noisy images, each with a square of one of two colours, and one broken file."""
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "boxed" / name).mkdir(parents=True)
    for number in range(16):
        pixels = random.integers(0, 80, size=(40, 60, 3), dtype="uint8")
        pixels[10:30, 20:40, 2 * (number % 2)] += 150
        Image.fromarray(pixels).save(tmp_path / "boxed" / "images" / f"{number:02d}.png")
        (tmp_path / "boxed" / "labels" / f"{number:02d}.txt").write_text(f"{5 + number % 2} 0.5 0.5 0.3333 0.5\n")
    (tmp_path / "boxed" / "images" / "broken.png").write_bytes(b"broken")
    return tmp_path / "boxed"


def test_bench_patches_compares_both_ways_on_every_split(tiny_onnx, boxed_folder, tmp_path, capsys):
    options = ["--backbone", str(tiny_onnx), "--seeds", "2", "--scales", "1", "2", "--out", str(tmp_path / "p.json")]
    assert main(["bench", "patches", "--data", str(boxed_folder), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "p.json").read_text()) == result
    assert (result["images"], result["classes"], result["patches"]) == (16, 2, 16 * (2 + 15))
    assert list(result["skipped"]) == [str(boxed_folder / "images" / "broken.png")]
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {"whole image", "patches", "both", "whole image, alpha by squared error"}
    assert [(split["train_images"], split["test_images"]) for split in result["splits"]] == [(10, 6)] * 2
    for name, row in rows.items():
        assert row["mean_average_precision"] == pytest.approx(np.mean(row["mean_average_precisions"]))
        less = np.subtract(row["mean_average_precisions"], rows["whole image"]["mean_average_precisions"])
        assert row["less_whole_image"] == pytest.approx(less.mean())
        assert row["mean_average_precision"] > 0.7, name
    assert set(rows["patches"]["seconds"]) == {"decode", "engine", "fit", "score"}
    assert [each["class"] for each in result["per_class"]] == [5, 6]
    assert "patches                             mAP" in patches.describe(result)
    whole = rows["whole image"] | {"standard_error": None, "less_whole_image_standard_error": None}
    line = f"| whole image | {whole['mean_average_precision']:.3f} | +0.000 |"
    assert patches.markdown({"rows": [whole]})[-1] == line


def test_bench_patches_names_a_malformed_label(tiny_onnx, boxed_folder, capsys):
    (boxed_folder / "labels" / "03.txt").write_text("5 0.5 0.5 0.3\n")
    assert main(["bench", "patches", "--data", str(boxed_folder), "--backbone", str(tiny_onnx)]) == 1
    assert "03.txt, line 1: 4 fields instead of 5" in capsys.readouterr().err
