"""``aurevoir bench scale``: seconds and memory over the number of rows."""

from types import SimpleNamespace

from PIL import Image

SMALL = ["--features", "512", "--memory", "4MiB"]


def test_each_size_is_measured_in_its_own_process_and_checked(bench, tmp_path):
    figure = tmp_path / "s.png"
    code, result, err = bench("scale", "--sizes", "900", "1800", *SMALL, "--plot", figure)
    assert code == 0, err
    assert Image.open(figure).width > 500
    assert [(row["n"], row["form"]) for row in result["rows"]] == [
        (900, "landmarks"),
        (1800, "landmarks"),
    ]
    for row in result["rows"]:
        assert row["planned"] <= 4 * 2**20
        assert row["checked_rows"] == 3
        assert row["largest_difference"] < 1e-4
        assert row["total"] >= row["seconds"]["solve"] > 0
        assert row["loo_accuracy"] > 0.5 < row["test_accuracy"]
    assert result["exponents"].keys() == {"landmarks"}


def test_what_is_too_large_says_so(bench, monkeypatch):
    code, result, err = bench("scale", "--sizes", "400", *SMALL[:2], "--memory", "20KiB")
    assert code == 0, err
    assert "the memory budget is 20.0 KiB" in result["rows"][0]["error"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**10))
    code, _, err = bench("scale", "--sizes", "400", *SMALL)
    assert code == 2
    assert "where 1.0 KiB are free" in err
