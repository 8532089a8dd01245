"""The tool that draws the figures of the result files."""

import importlib.util
import shutil

from PIL import Image


def test_figures_are_drawn_next_to_their_results(root, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("figures_tool", root / "tools" / "figures.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    paths = [tmp_path / f"{name}.json" for name in ("threads", "startup")]
    for path in paths:
        shutil.copy(root / "benchmarks" / "results" / path.name, path)
    assert tool.main([str(path) for path in paths]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "threads.png")]
    assert [path.name for path in tmp_path.glob("*.png")] == ["threads.png"]
    with Image.open(tmp_path / "threads.png") as drawn:
        assert drawn.width > 500
    assert tool.main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
