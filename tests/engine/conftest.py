"""What the tests of engines share: a small backbone exported, calibrated, and computed by the reference."""

import numpy as np
import onnx
import pytest

from aurevoir.engine.assemble import assemble
from aurevoir.engine.backbone import open_backbone
from aurevoir.engine.calibrate import calibrate
from aurevoir.engine.engine import Engine
from aurevoir.engine.float_graph import export_backbone


@pytest.fixture(scope="session")
def exported(tiny_onnx):
    return export_backbone(open_backbone(tiny_onnx))


@pytest.fixture(scope="session")
def table(exported, pixels):
    return calibrate(exported, pixels, "max")


@pytest.fixture(scope="session")
def reference(exported, pixels):
    return assemble(exported, "fp32", "onnxruntime")(pixels)


@pytest.fixture(scope="session")
def branching(tmp_path_factory, write_onnx):
    """Signed and unsigned branches that meet twice, as in dense blocks and fire modules."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, 2, 1)
            self.pool = nn.MaxPool2d(2)
            self.one, self.two = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, 1, 1)
            self.squeeze, self.last = nn.Conv2d(32, 8, 1), nn.Conv2d(40, 24, 1)

        def forward(self, x):
            x = self.pool(self.stem(x))
            both = torch.cat([self.one(x), torch.relu(self.two(x))], 1)
            return self.last(torch.cat([both, self.squeeze(both)], 1))

    torch.manual_seed(0)
    return export_backbone(open_backbone(write_onnx(Net(), tmp_path_factory.mktemp("branching") / "net.onnx")))


@pytest.fixture
def of_one_row():
    """A function from an engine to one that returns the mean of a batch's features, one row."""

    def made(engine):
        model = onnx.load_from_string(engine.graph)
        last = next(node for node in model.graph.node if "features" in node.output)
        last.output[0] = "all"
        mean = onnx.helper.make_node("ReduceMean", ["all", "axis"], ["features"], keepdims=1)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axis"))
        model.graph.node.insert(list(model.graph.node).index(last) + 1, mean)
        return Engine(engine.manifest, model.SerializeToString(), device="cpu")

    return made
