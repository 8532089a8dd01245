"""What several tests share: real data where it is at hand, and small things where it is not."""

import json
import os
import sys
import warnings
from pathlib import Path

import array_checks
import chromium
import numpy as np
import onnx
import pytest
from cupy_fake import modules
from hypothesis import settings
from PIL import Image

array_checks.install()

from aurevoir.cache import cache_folder  # noqa: E402
from aurevoir.cli.bench import describe  # noqa: E402
from aurevoir.cli.main import main  # noqa: E402
from aurevoir.engine import child  # noqa: E402
from aurevoir.engine.runtimes import has_nvidia_driver  # noqa: E402

# In CI the examples are the same every time; elsewhere each run looks further.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Kernels are compiled once for all tests, and kept where the user's are.
if not os.environ.get("NUMBA_CACHE_DIR") and (folder := cache_folder()) is not None:
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("AUREVOIR_TEST_DATA", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items):
    if not has_nvidia_driver():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    """No test reads a time that is measured, so none waits for threads to settle."""
    monkeypatch.setattr("aurevoir.engine.timing.PAUSE", 0)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The record of checked engines that tests write is not the user's, and nothing is built once for two tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUREVOIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AUREVOIR_CACHE_SIZE", "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def one_child(own_cache):
    """One process runs what builds try in a child: one for each build would import the runtimes anew, for seconds."""
    with child.lasting_child(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("aurevoir.transfer.classifier.end_child", lambda: None)
        yield


@pytest.fixture
def own_children():
    """Builds start children as they do for users."""
    token = child._LASTING.set(None)
    yield
    child._LASTING.reset(token)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache that is on."""
    monkeypatch.setenv("AUREVOIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUREVOIR_CACHE_SIZE")
    return tmp_path / "cache"


@pytest.fixture
def cupy(monkeypatch):
    """A fake CuPy in place of the real one; Triton, which asks for a GPU, is out of it."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("aurevoir.kernels.backends.has_triton", lambda: False)
    return sys.modules["cupy"]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def _data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in the folder of test data (AUREVOIR_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def data():
    """A function from the name of a real data set or backbone to its path; skips where it is absent."""
    return _data


@pytest.fixture(scope="session")
def mobilenet(data) -> Path:
    return data("backbones/mobilenetv2.onnx")


@pytest.fixture(scope="session")
def resnet(data) -> Path:
    return data("backbones/resnet50v2_stage3.onnx")


def _write_onnx(net, path: Path) -> Path:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net.eval(),
            (torch.zeros(2, 3, 28, 28),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            optimize=False,
            verbose=False,
        )
    program.save(path)
    return path


@pytest.fixture(scope="session")
def write_onnx():
    """A function from a torch module for 28 x 28 images and a path to the ONNX file that it writes there."""
    return _write_onnx


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory, write_onnx) -> Path:
    """A small ONNX backbone: two convolutions with batch norms, a shortcut, 4 x 7 x 7 features."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
            self.block = nn.Conv2d(4, 4, 3, 1, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.stem(x)
            return x + self.norm(self.block(x))

    torch.manual_seed(0)
    net = Net().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return write_onnx(net, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="session")
def staged_onnx(tmp_path_factory, write_onnx) -> Path:
    """An ONNX backbone of three stages with two layers each: 28 x 28, 14 x 14 and 7 x 7 places."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    widths, layers = (3, 8, 16, 32), []
    for stage in range(3):
        layers += [nn.Conv2d(widths[stage], widths[stage + 1], 3, 1 if stage == 0 else 2, 1), nn.ReLU()]
        layers += [nn.Conv2d(widths[stage + 1], widths[stage + 1], 3, 1, 1), nn.ReLU()]
    return write_onnx(nn.Sequential(*layers[:-1]), tmp_path_factory.mktemp("onnx") / "staged.onnx")


@pytest.fixture(scope="session")
def written_by(tiny_onnx):
    """A function from an operator to the tensor that `tiny_onnx` has of it: its exporter names tensors as it likes."""
    nodes = onnx.load(tiny_onnx).graph.node
    return lambda kind: next(node.output[0] for node in nodes if node.op_type == kind)


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Twenty 28 x 28 images of smooth noise, uint8."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, size=(20, 7, 7, 3), dtype="uint8")
    return np.stack([np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)) for image in small])


@pytest.fixture
def class_folder(tmp_path) -> Path:
    """Three classes of ten small images each, told apart by colour."""
    random = np.random.default_rng(1)
    for place, name in enumerate(("blue", "green", "red")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(10):
            image = random.integers(0, 120, size=(40, 50, 3), dtype="uint8")
            image[..., 2 - place] += 120
            Image.fromarray(image).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium that shows pages; skips where there is none, see tools/browser.sh."""
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    opened = chromium.Chromium(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def bench(capsys):
    """Run a benchmark in this process; return (exit code, parsed stdout or None, what people read: text and stderr)."""

    def run(*arguments):
        code = main(["bench", *(str(argument) for argument in arguments), "--json"])
        out, err = capsys.readouterr()
        result = json.loads(out) if out.startswith("{") else None
        return code, result, err if result is None else f"{describe(result)}\n{err}"

    return run
