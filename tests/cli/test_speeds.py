"""How a build reports speeds: with their spread, and a verdict only beyond it."""

import pytest

from aurevoir.cli.build import speed_lines


@pytest.mark.parametrize(
    ("int8", "peer", "line"),
    [
        (
            [110.0, 120.0, 130.0],
            [100.0, 100.0, 100.0],
            "int8 on this machine: 120.0 images/s (110.0 to 130.0 in 3 turns), 1.20 x (1.10 to 1.30) bf16, "
            "100.0 images/s (100.0 to 100.0 in 3 turns)",
        ),
        (
            [90.0, 120.0, 130.0],
            [100.0, 100.0, 100.0],
            "int8 on this machine: 120.0 images/s (90.0 to 130.0 in 3 turns), as fast as bf16 within the spread: "
            "1.20 x (0.90 to 1.30) its 100.0 images/s (100.0 to 100.0 in 3 turns)",
        ),
        (
            [50.0, 60.0, 70.0],
            [100.0, 100.0, 100.0],
            "int8 on this machine: 60.0 images/s (50.0 to 70.0 in 3 turns), NOT faster than bf16: 0.60 x (0.50 to "
            "0.70) its 100.0 images/s (100.0 to 100.0 in 3 turns)",
        ),
    ],
)
def test_the_verdict_is_beyond_the_spread(int8, peer, line):
    speeds = {"int8": sorted(int8)[1], "bf16": sorted(peer)[1]}
    assert speed_lines(speeds, 0, {"int8": int8, "bf16": peer}) == [line]


def test_speeds_of_an_engine_that_was_kept_say_that_their_spread_was_not():
    (line,) = speed_lines({"int8": 120.0, "bf16": 100.0}, 0, {})
    assert line == (
        "int8 on this machine: 120.0 images/s (its spread was not kept), 1.20 x bf16, 100.0 images/s (its spread was "
        "not kept)"
    )
    assert speed_lines({}, 0, {}) == []
    _, cost = speed_lines({"int8": 90.0, "bf16": 80.0, "int8 throughout": 100.0}, 2, {})
    assert cost.startswith(
        "throughput falls from 100.0 to 90.0 images/s (-10%) because 2 tensors stay in float; before"
    )
