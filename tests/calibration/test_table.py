"""Calibration tables as JSON."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from mutations import damaged_json

from aurevoir.calibration.table import CalibrationTable
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError


def test_a_table_goes_through_json(tiny_onnx, pixels):
    table = calibrate(export_backbone(open_backbone(tiny_onnx)), pixels)
    assert CalibrationTable.from_json(table.to_json()) == table


def test_the_table_of_a_shallower_cut_has_the_thresholds_of_a_calibration_there(staged_onnx, pixels):
    backbone = open_backbone(staged_onnx)
    earlier, whole = (export_backbone(backbone, cut) for cut in (backbone.cuts()[3].name, None))
    table, own = calibrate(whole, pixels).of_part(earlier.graph), calibrate(earlier, pixels)
    table.check(earlier.graph)
    assert table.thresholds == pytest.approx(own.thresholds, rel=1e-5)
    assert table.means.keys() == own.means.keys()
    assert len(own.thresholds) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a calibration table"),
        ("[]", "not a calibration table"),
        ('{"schema": "aurevoir-calibration/9", "method": "", "graph": "", "images": "", "thresholds": {}}', "schema"),
        ('{"schema": "aurevoir-calibration/1", "method": "max"}', "not a calibration table"),
        (
            '{"schema": "aurevoir-calibration/1", "method": "", "graph": "", "images": "", "thresholds": [1]}',
            "must be objects, by tensor name",
        ),
        (
            '{"schema": "aurevoir-calibration/1", "method": "", "graph": "", "images": "", "thresholds": {"t": NaN}}',
            "threshold nan of t",
        ),
    ],
)
def test_a_damaged_table_is_refused(text, message):
    with pytest.raises(AurevoirError, match=message):
        CalibrationTable.from_json(text)


BEGIN = '{"schema": "aurevoir-calibration/1", "method": "max", "graph": "' + "0" * 64 + '", "images": ""'


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (', "thresholds": {"t": 1}, "placement": "zzz"', "placement 'zzz' is not one of"),
        (', "thresholds": {"t": 1}, "means": {"t": [1e30]}', r"means of t\[0\] 1e\+30 is not a number from -1e\+06"),
        (', "thresholds": {"t": 1}, "means": {"t": [NaN]}', "nan is not a number"),
        (', "thresholds": {"t": 1}, "means": {"t": 3}', "means 3 of t is not an array"),
        (', "thresholds": {"t": 1}, "means": {"t": ["3"]}', "'3' is not a number"),
        (', "thresholds": {"t": -1}', "threshold -1 of t"),
        (', "thresholds": {"t": true}', "threshold True of t"),
        (', "thresholds": {"t": 1e300}', r"threshold 1e\+300 of t"),
        (', "thresholds": {"t": 1, "t": 2}', "the name 't' is repeated"),
        (', "thresholds": {"t": 1}, "extra": 1', "'extra' is not known"),
        (', "thresholds": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_hostile_table_is_refused(rest, message):
    with pytest.raises(AurevoirError, match=message) as error:
        CalibrationTable.from_json(BEGIN + rest + "}")
    assert "\n" not in str(error.value)


def test_a_table_of_a_newer_version_says_so():
    with pytest.raises(AurevoirError, match="written by a newer version of aurevoir; upgrade"):
        CalibrationTable.from_json(BEGIN.replace("tion/1", "tion/2") + "}")


@settings(deadline=None)
@given(
    damaged_json((BEGIN + ', "thresholds": {"t": 1.5}, "means": {"t": [0.5, 1]}, "placement": "conv-inputs"}').encode())
)
def test_no_damage_raises_anything_else(data):
    with suppress(AurevoirError):
        CalibrationTable.from_json(data)
