"""Images through an engine."""

import numpy as np
import pytest

from aurevoir import build_engine
from aurevoir.images.batches import ImageArray
from aurevoir.transfer.embed import Pace, embed


@pytest.mark.parametrize(("images", "counted"), [(40, 24), (16, 0), (3, 0)])
def test_the_pace_leaves_out_the_first_batch(tiny_onnx, images, counted):
    engine = build_engine(tiny_onnx, smoke=False)
    pixels = np.zeros((images, *engine.input_shape), "uint8")
    pace = Pace()
    embed(engine, ImageArray(pixels), pace=pace)
    assert pace.images == counted
    assert (pace.images_per_second is None) == (counted == 0)
    assert counted == 0 or pace.images_per_second == pace.images / pace.seconds > 0
