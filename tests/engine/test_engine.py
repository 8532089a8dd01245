"""Engines take images of any batch length, array library and thread, and nothing else."""

import threading

import numpy as np
import onnx
import pytest

from aurevoir.engine.assemble import assemble
from aurevoir.engine.engine import Engine
from aurevoir.errors import AurevoirError, UsageError


def test_other_array_libraries_are_taken(exported, pixels):
    import torch

    engine = assemble(exported, "fp32", "openvino")
    np.testing.assert_array_equal(engine.bits(torch.from_numpy(pixels)), engine.bits(pixels))
    np.testing.assert_array_equal(engine.bits(pixels[:, :, ::-1]), engine.bits(pixels[:, :, ::-1].copy()))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 28, 28, 3), "float32"), np.zeros((1, 3, 28, 28), "uint8"), np.zeros((28, 28, 3), "uint8")]
)
def test_other_dtypes_and_shapes_are_refused(exported, images):
    with pytest.raises(UsageError, match=r"this engine takes uint8 of shape \(batch, 28, 28, 3\)"):
        assemble(exported, "fp32")(images)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "torch"])
def test_another_number_of_rows_than_of_images_is_an_error_at_every_call(exported, pixels, name):
    engine = assemble(exported, "fp32", name, device="cpu")
    model = onnx.load_from_string(engine.graph)
    last = next(node for node in model.graph.node if "features" in node.output)
    last.output[0] = "all"
    mean = onnx.helper.make_node("ReduceMean", ["all", "axis"], ["features"], keepdims=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axis"))
    model.graph.node.insert(list(model.graph.node).index(last) + 1, mean)
    broken = Engine(engine.manifest, model.SerializeToString(), device="cpu")
    assert broken(pixels[:1]).shape == (1, engine.features)
    for _ in range(2):
        with pytest.raises(AurevoirError, match=r"returned 1 rows for \d+ images: a batch size is fixed"):
            broken(pixels)


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_images_on_a_gpu_are_refused_by_what_reads_host_memory(exported, pixels, monkeypatch, name):
    # No GPU is needed to see which way they go.
    monkeypatch.setattr("aurevoir.engine.engine.on_gpu", lambda images: True)
    with pytest.raises(
        UsageError, match=f"are on a GPU, and this engine runs on 'cpu' by '{name}'.*or load the engine"
    ):
        assemble(exported, "fp32", name, device="cpu")(pixels)


@pytest.mark.gpu
def test_torch_engines_read_cuda_arrays_in_place(exported, pixels):
    import torch

    engine = assemble(exported, "fp32", "torch")
    assert engine.device == "cuda"
    images = torch.from_numpy(pixels).cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        features = engine(images)
        assert features.is_cuda
        np.testing.assert_allclose(features.cpu().numpy(), engine(pixels), atol=1e-5)
    # The same from a CUDA graph, and of every size.
    many = np.concatenate([pixels] * 30)
    for count in (20, 600, 600, 130, 3):
        np.testing.assert_array_equal(
            engine.bits(many[:count]), engine.bits(torch.from_numpy(many[:count]).cuda()).cpu()
        )
        np.testing.assert_allclose(engine(many[:count]), np.resize(engine(pixels), (count, engine.features)), atol=1e-5)


def test_threads_share_an_engine(exported, pixels):
    engine = assemble(exported, "fp32", "openvino")
    expected, wrong = engine.bits(pixels), []

    def work():
        wrong.extend(1 for _ in range(20) if not np.array_equal(engine.bits(pixels), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
