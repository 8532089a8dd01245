"""Linear probes."""

import numpy as np

from aurevoir.benchmarks.harness.engines import Engines, open_network
from aurevoir.benchmarks.rivals.probes import _features, channels


def test_probes_pool_over_pixels_and_not_over_channels(tiny_onnx, pixels):
    engines = Engines.export(open_network(str(tiny_onnx)))
    assert channels(engines.exported) == 4
    engine = engines.build("fp32", "onnxruntime")
    expected = engine(pixels).reshape(20, 4, 49).mean(axis=2)
    np.testing.assert_allclose(_features(engine, pixels, 4), expected, rtol=1e-5, atol=1e-6)
