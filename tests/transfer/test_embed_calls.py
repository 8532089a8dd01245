"""Outputs come in the order of the images, whatever runs at the same time, and what fails ends everything."""

import threading
import time

import numpy as np
import pytest

from aurevoir.engine.build import build_engine
from aurevoir.engine.engine import Engine
from aurevoir.errors import AurevoirError
from aurevoir.images import batches as batches_module
from aurevoir.images import decoded as decoded_module
from aurevoir.images.batches import ImageArray
from aurevoir.images.decode import decode
from aurevoir.transfer.embed import embed, embed_blocks
from aurevoir.transfer.estimator import OpticalClassifier

PIXELS = np.random.default_rng(0).integers(0, 256, (22, 2, 3, 3), "uint8")


class _Engine:
    """An engine whose first call of each pair ends last, once as many calls as it takes have run at the same time."""

    batch_size, output_types = 4, {"bits": ((2,), "uint8")}

    def __init__(self, calls, fails_at=None, waits=False):
        self.calls_at_once, self.fails_at, self.waits = calls, fails_at, waits
        self.threads, self.running, self.most = set(), 0, 0
        self._lock, self._number = threading.Condition(), 0

    def checked_outputs(self, names):
        return names

    def run(self, pixels, outputs):
        with self._lock:
            number, self._number = self._number, self._number + 1
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.get_ident())
            self._lock.notify_all()
            self._lock.wait_for(lambda: not self.waits or self.most == self.calls_at_once, 10)
        if number == self.fails_at:
            raise AurevoirError("the runtime fails")
        time.sleep(0.02 * (number % 2 == 0))
        with self._lock:
            self.running -= 1
        return {"bits": pixels.reshape(len(pixels), -1)[:, :2] + np.uint8(1)}


def _expected():
    return PIXELS.reshape(len(PIXELS), -1)[:, :2] + np.uint8(1)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_calls_at_the_same_time_give_their_outputs_in_the_order_of_the_images(calls):
    engine = _Engine(calls, waits=True)
    indices, values = embed(engine, ImageArray(PIXELS))
    np.testing.assert_array_equal(indices, np.arange(len(PIXELS)))
    np.testing.assert_array_equal(values["bits"], _expected())
    assert engine.most == calls


def test_one_call_after_another_is_made_by_the_thread_that_asks():
    # What runs on a GPU belongs to a thread's device and stream.
    engine = _Engine(1)
    embed(engine, ImageArray(PIXELS))
    assert engine.threads == {threading.get_ident()}


def test_a_block_comes_while_at_most_the_other_calls_compute_the_images_after_it():
    read, images = [], ImageArray(PIXELS)

    class Images:
        def batches(self, size):
            for indices, pixels in images.batches(size):
                read.extend(indices.tolist())
                yield indices, pixels

    for calls in (1, 2, 3):
        read.clear()
        engine, found = _Engine(calls, waits=True), []
        for indices, values in embed_blocks(engine, Images(), ("bits",), 8):
            assert read[-1] <= indices[-1] + (calls - 1) * engine.batch_size
            found.append(values["bits"])
        assert engine.most == calls
        assert list(map(len, found)) == [8, 8, 6]
        np.testing.assert_array_equal(np.concatenate(found), _expected())


@pytest.mark.parametrize("calls", [1, 2])
def test_an_error_of_a_call_is_raised_and_no_thread_stays(calls):
    with pytest.raises(AurevoirError, match="the runtime fails"):
        embed(_Engine(calls, fails_at=2), ImageArray(PIXELS))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_computes_the_same_in_calls_at_the_same_time(tiny_onnx, monkeypatch, precision):
    pixels = np.random.default_rng(1).integers(0, 256, (83, 28, 28, 3), "uint8")
    engine = build_engine(tiny_onnx, precision=precision, runtime="openvino", calibration=pixels, size=28, smoke=False)
    assert engine.calls_at_once > 1
    several = embed(engine, ImageArray(pixels), ("bits", "pooled"))[1]
    monkeypatch.setattr(Engine, "calls_at_once", 1)
    for name, values in embed(engine, ImageArray(pixels), ("bits", "pooled"))[1].items():
        np.testing.assert_array_equal(several[name], values)


def test_a_fit_decodes_each_file_once_and_learns_the_same_without_memory_for_that(
    class_folder, tiny_onnx, monkeypatch, tmp_path
):
    paths = []

    def counting(path, *how):
        paths.append(str(path))
        return decode(path, *how)

    for module in (decoded_module, batches_module):
        monkeypatch.setattr(module, "decode", counting)
    options = {"precision": "int8", "runtime": "openvino", "projection": "exact", "smoke": False}
    shared = OpticalClassifier(tiny_onnx, **options, normalization="data").fit(class_folder)
    assert sorted(paths) == sorted(shared.training_.paths)
    paths.clear()
    # A share of nothing: normalization, calibration and embedding each decode.
    monkeypatch.setattr(decoded_module, "SHARE", 2**63)
    alone = OpticalClassifier(tiny_onnx, **options, normalization="data").fit(class_folder)
    assert sorted(paths) == sorted(3 * shared.training_.paths)
    for name, classifier in (("shared", shared), ("alone", alone)):
        classifier.save(tmp_path / name)
    for path in (tmp_path / "shared").iterdir():
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()
