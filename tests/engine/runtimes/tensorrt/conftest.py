"""What the tests of TensorRT share: graphs, the installed TensorRT-RTX, and a fake with a plan loaded."""

import numpy as np
import pytest
from tensorrt_fake import fake_tensorrt

from aurevoir.calibration.graph.float16 import to_float16
from aurevoir.engine.assemble import quantized_graph
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.runtimes.tensorrt_run import PlanRunner


@pytest.fixture(scope="module")
def graphs(exported, pixels):
    """The graph of each precision that TensorRT runs."""
    table = calibrate(exported, pixels)
    return {
        "fp32": exported.graph.SerializeToString(),
        "fp16": to_float16(exported.graph).SerializeToString(),
        "int8": quantized_graph(exported, table, "int8", "conv-inputs", "fp16").SerializeToString(),
    }


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings")


@pytest.fixture
def trt():
    return fake_tensorrt()


@pytest.fixture
def runner(trt, graphs):
    return PlanRunner(trt, graphs["fp32"], trt.device)


@pytest.fixture(scope="module")
def many(pixels):
    """Images, and their features by ONNX Runtime."""
    random = np.random.default_rng(3)
    return random.integers(0, 256, (40, *pixels.shape[1:]), dtype="uint8")


@pytest.fixture(scope="module")
def wanted(graphs, many):
    import onnxruntime

    session = onnxruntime.InferenceSession(graphs["fp32"], providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": many})[0]
