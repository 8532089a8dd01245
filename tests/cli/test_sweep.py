"""``aurevoir sweep``, and ``aurevoir fit --cut auto``."""

import json

import pytest
from PIL import Image

from aurevoir.cli.main import main
from aurevoir.cli.sweep import describe
from aurevoir.kernels.fitting import AUTO, AUTO_POOLED


def test_a_sweep_has_a_row_for_each_cut_and_precision(staged_onnx, class_folder, tmp_path, capsys):
    figure, runtime = tmp_path / "sweep.png", ["--runtime", "openvino"]
    command = ["sweep", str(class_folder), "--backbone", str(staged_onnx), "--cuts", "3", *runtime]
    options = ["--precision", "fp32", "int8", "--calibration-images", "8", "--out", str(figure)]
    assert main([*command, *options, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    rows = result["rows"]
    assert [(row["precision"], row["features"]) for row in rows] == [
        (precision, features) for precision in ("fp32", "int8") for features in (6272, 3136, 1568)
    ]
    for row in rows:
        assert row["loo_accuracy"] == max(row["loo_accuracy_of"].values()) > 0.9
        assert row["loo_accuracy_of"].keys() == {*AUTO, *AUTO_POOLED}
        assert row["images_per_second"] > 0
        assert len(row["by_turn"]) == 3
    sizes = [row["megabytes"] for row in rows]
    assert sizes[0] < sizes[1] < sizes[2]
    assert (result["images"], result["of"], result["out"]) == (30, 30, str(figure))
    with Image.open(figure) as drawn:
        assert drawn.size[0] > 500
    text = describe(result)
    assert text.count("staged.onnx") == len(rows) + 1
    assert "leave-one-out accuracy by kernel on 30 of 30 images of 3 classes" in text
    header = ["backbone", "precision", "cut", "features", "GMACs", *AUTO, *AUTO_POOLED, "images/s", "MB"]
    assert text.splitlines()[1].split() == header
    best = max(rows, key=lambda row: (row["loo_accuracy"], row["images_per_second"]))
    assert f"test it with `aurevoir fit --precision {best['precision']} --cut {best['cut']}`" in text
    pooled = {**result, "rows": [{**best, "projection": "layers"}]}
    assert f"test it with `aurevoir fit --precision {best['precision']} --cut {best['cut']} --pool-layers`" in describe(
        pooled
    )
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "{tiny}"], "has only one cut to choose"),
        (["--cuts", "1"], "--cuts 1 compares nothing"),
        (["--backbone", "{staged}", "{staged}"], "names one twice"),
        (
            ["--backbone", "{staged}", "--precision", "fp32", "--method", "max"],
            "--method has no effect with precision fp32",
        ),
        (["--backbone", "{staged}", "--out", "{folder}/sweep.txt"], "--out {folder}/sweep.txt ends in .txt"),
        (["--backbone", "{staged}", "--cuts", "0"], "0 is less than 1"),
    ],
)
def test_what_cannot_be_swept(staged_onnx, tiny_onnx, class_folder, tmp_path, capsys, options, message):
    names = {"staged": staged_onnx, "tiny": tiny_onnx, "folder": tmp_path}
    try:
        code = main(["sweep", str(class_folder), *(each.format(**names) for each in options)])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert code == 2
    assert message.format(**names) in err
    assert not out


def test_a_fit_chooses_its_cut_and_says_why(staged_onnx, class_folder, capsys):
    command = ["fit", str(class_folder), "--backbone", str(staged_onnx), "--cut", "auto", "--runtime", "openvino"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    scored = {score["name"]: score for score in result["cut_scores"]}
    *cuts, pooled = (score["cut"] for score in result["cut_scores"])
    assert len(set(cuts)) == 6
    assert pooled == cuts[-1]
    assert [score["layers"] for score in result["cut_scores"]] == [0] * 6 + [1]
    assert result["cut"] in cuts
    assert result["cut_images"] == result["train_images"]
    assert result["cut_reason"] in err
    assert all(f"{name}: leave-one-out {score['loo_accuracy']:.4f}" in err for name, score in scored.items())
    from aurevoir.cli.fit import describe as described

    text = described(result)
    assert result["cut_reason"] in text
    assert text.count("GMACs") == 7
