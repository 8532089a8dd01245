"""NVIDIA's parser and builder take our graphs: TensorRT-RTX builds ahead of time, without a GPU.

It installs with ``pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings``.
"""

import pytest

from aurevoir.calibration.half import half_body
from aurevoir.engine.assemble import quantized_graph
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.build import export_backbone, sample_images
from aurevoir.engine.calibrate import calibrate

trt = pytest.importorskip("tensorrt_rtx_bindings")

TARGETS = ("SM80", "SM86", "SM89", "SM120")
BATCHES = (1, 8, 32)


class _Log(trt.ILogger):
    """Keeps the messages, for the report of a failure."""

    def __init__(self):
        trt.ILogger.__init__(self)
        self.messages = []

    def log(self, severity, message):
        if severity <= trt.ILogger.Severity.WARNING:
            self.messages.append(message)


@pytest.fixture(scope="module", params=["tiny", "mobilenetv2", "resnet50v2_stage3", "squeezenet1_1", "linear"])
def exported(request, tiny_onnx, pixels, data):
    """A float graph, and a table for its int8 form."""
    if request.param == "tiny":
        backbone, images, cut = open_backbone(tiny_onnx), pixels, None
    elif request.param == "linear":
        from torch import nn

        net = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 32), nn.ReLU())
        net.append(nn.Linear(32, 24))
        backbone, images, cut = open_backbone(net, size=28), pixels, "5"
    else:
        squeezed = request.param == "squeezenet1_1"
        path = data(f"backbones/{request.param}.{'pth' if squeezed else 'onnx'}")
        backbone, cut = open_backbone(request.param, path) if squeezed else open_backbone(path), None
        images = sample_images(data("calibration500"), (224, 224), 4)
    exported = export_backbone(backbone, cut, images)
    return exported, calibrate(exported, images, placement="shared-concat")


def _build(model, target):
    """Build a plan for GPUs of one compute capability, with any batch from the first to the last of BATCHES."""
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString()), [parser.get_error(place) for place in range(parser.num_errors)]
    images = network.get_input(0)
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *((batch, *tuple(images.shape)[1:]) for batch in BATCHES))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.messages
    types = {tensor.name: tensor.dtype for tensor in map(network.get_output, range(network.num_outputs))}
    return plan, types


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("body", "placement"), [("fp32", "conv-inputs"), ("fp16", "conv-inputs"), ("fp16", "shared-concat")]
)
def test_int8_graphs_build(exported, target, body, placement):
    graph = quantized_graph(*exported, "s8", placement, body)
    plan, types = _build(graph, target)
    assert plan.nbytes > 0
    assert types == {"features": trt.float32, "bits": trt.uint8}


@pytest.mark.parametrize("body", ["float32", "float16"])
def test_float_graphs_build(exported, body):
    graph = exported[0].graph
    plan, _ = _build(half_body(graph) if body == "float16" else graph, "SM89")
    assert plan.nbytes > 0
