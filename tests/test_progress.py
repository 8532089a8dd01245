"""Progress where stderr is a terminal, and where it is a pipe or a log."""

import io
import time

import pytest

from aurevoir import progress
from aurevoir.kernels.stopwatch import Stopwatch


@pytest.fixture
def quick(monkeypatch):
    """What takes 0.05 s is slow."""
    monkeypatch.setattr(progress, "SLOW", 0.05)
    monkeypatch.setattr(progress, "_INTERVAL", 0.05)


def test_what_is_quick_prints_nothing_in_a_log(capsys):
    with progress.progress_bar(total=3, desc="x", unit="img") as bar:
        bar.set_postfix(a=1)
        bar.update(3)
    assert list(progress.progress_bar(range(3), desc="y")) == [0, 1, 2]
    with Stopwatch(report=True)("build"):
        pass
    assert capsys.readouterr().err == ""


def test_what_is_slow_prints_plain_lines_in_a_log(quick, capsys):
    with progress.progress_bar(total=3, desc="x", unit="img") as bar:
        for _ in range(3):
            time.sleep(0.06)
            bar.update()
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert 2 <= len(lines) <= 3
    assert len({line.split(" img")[0] for line in lines}) == len(lines)
    assert "\r" not in err
    assert lines[-1].startswith("x: 3/3 img, 0 s, ")
    with Stopwatch(report=True)("build"):
        time.sleep(0.06)
    assert capsys.readouterr().err.startswith("build: 0.1 s\n")


def test_without_show_and_without_report_nothing_is_printed(quick, capsys):
    for _ in progress.progress_bar(range(2), desc="y", show=False):
        time.sleep(0.06)
    with Stopwatch()("build"):
        time.sleep(0.06)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars_and_no_lines(quick, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress.progress_bar(total=2, desc="x", unit="img", file=terminal) as bar:
        bar.update(2)
    with Stopwatch(report=True)("build"):
        time.sleep(0.06)
    assert "100%" in terminal.getvalue()
    assert "build" not in terminal.getvalue()
