"""Calibration tables as JSON."""

import pytest

from aurevoir.calibration.table import CalibrationTable
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.float_graph import export_backbone
from aurevoir.errors import AurevoirError


def test_a_table_goes_through_json(tiny_onnx, pixels):
    table = calibrate(export_backbone(open_backbone(tiny_onnx)), pixels)
    assert CalibrationTable.from_json(table.to_json()) == table


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
