"""Fits to more images than their memory holds: refused before the work, or done in files, with the same model."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import suppress

import numpy as np
import pytest

from aurevoir import OpticalClassifier, build_engine, load
from aurevoir.engine.backbone import open_backbone
from aurevoir.errors import AurevoirError, BudgetError, SaveError
from aurevoir.images import batches
from aurevoir.images.sources import class_folders
from aurevoir.transfer import kept_bits, model, rows
from aurevoir.transfer.rows import is_mapped
from aurevoir.work import Work

SMALL = 64 << 10
"""A budget that holds the ridge of 30 images, and not their bits of `wide`: 784 bytes each."""


@pytest.fixture(scope="module")
def wide(staged_onnx):
    """A cut of many features."""
    return next(cut.name for cut in open_backbone(staged_onnx, "default", None, 0).cuts() if cut.features == 6272)


@pytest.fixture
def options(staged_onnx, wide):
    return {"backbone": staged_onnx, "cut": wide, "projection": "hadamard", "n_components": 20, "smoke": False}


@pytest.fixture
def unreadable(monkeypatch):
    """No image may be decoded."""

    def opened(path, *_):
        raise AssertionError(f"{path} was decoded")

    monkeypatch.setattr(batches, "decode", opened)


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_of_files_is_that_of_memory(class_folder, options, tmp_path, monkeypatch):
    data = class_folders(class_folder)
    half, rest = slice(0, None, 2), slice(1, None, 2)
    made = []
    for share in (rows.SHARE, 1 << 40):
        monkeypatch.setattr(rows, "SHARE", share)
        each = OpticalClassifier(**options).fit(data.paths[half], data.labels[half])
        tested = each.embed_labelled(data.paths[rest], data.labels[rest])
        each.refit_on(each.training_ + tested).save(tmp_path / str(len(made)))
        made.append(each)
        assert [is_mapped(bits) for bits in (tested.bits, each.training_.bits)] == [share == 1 << 40] * 2
    whole, files = (_bytes(tmp_path / name) for name in "01")
    assert whole == files
    monkeypatch.setattr(model, "SHARE", 1 << 40)
    loaded = load(tmp_path / "0")
    assert is_mapped(loaded.training_.bits)
    assert not loaded.familiarity(data.paths).p_values.min() < 1 / 31
    loaded.refit(remove=[0, 7])
    made[0].refit(remove=[0, 7])
    assert is_mapped(loaded.training_.bits)
    np.testing.assert_array_equal(loaded.scores(data.paths), made[0].scores(data.paths))
    assert len(loaded.training_) == len(data.paths) - 2


def test_a_large_file_of_training_images_is_checked_too(class_folder, options, tmp_path, monkeypatch):
    OpticalClassifier(**options).fit(class_folder).save(tmp_path / "model")
    monkeypatch.setattr(model, "SHARE", 1 << 40)
    path = tmp_path / "model" / "training.safetensors"
    content = path.read_bytes()
    for changed in (content[:-1], content + b"\0", content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        path.write_bytes(changed)
        with pytest.raises(AurevoirError, match="has changed since it was saved"):
            load(tmp_path / "model").training_  # noqa: B018


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_ridge_that_does_not_fit_is_refused_before_an_image_is_decoded(class_folder, options, precision):
    classifier = OpticalClassifier(**options, precision=precision, memory_budget="1KiB")
    with pytest.raises(BudgetError, match=r"memory budget is 1\.0 KiB"):
        classifier.fit(class_folder)


@pytest.mark.usefixtures("unreadable")
def test_a_ridge_that_does_not_fit_a_built_engine_is_refused(class_folder, staged_onnx, wide):
    engine = build_engine(staged_onnx, wide, smoke=False)
    with pytest.raises(BudgetError, match=r"memory budget is 1\.0 KiB"):
        OpticalClassifier(engine=engine, memory_budget="1KiB").fit(class_folder)


@pytest.mark.usefixtures("unreadable")
def test_the_refit_that_follows_is_planned_too(class_folder, options):
    classifier = OpticalClassifier(**options, memory_budget="20KiB")
    assert classifier.expect(0)._expected.images == 0
    with pytest.raises(BudgetError):
        classifier.expect(10**9, refits=True).fit(class_folder)


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize(("place", "said"), [("work", "work"), (None, "TMPDIR"), ("out", "model keeps")])
def test_a_disk_that_is_too_small_is_refused_before_an_image_is_decoded(
    class_folder, options, tmp_path, monkeypatch, place, said
):
    usage = namedtuple("Usage", "total used free")
    small = {"work": tmp_path / "work", "out": tmp_path, None: rows.temporary_folder()}[place]
    monkeypatch.setattr(
        rows.shutil, "disk_usage", lambda folder: usage(1 << 40, 0, 1000 if str(folder) == str(small) else 1 << 40)
    )
    work = tmp_path / "work" if place == "work" else None
    if work is not None:
        # What another program puts there is no part of the bits.
        with Work(work):
            (work / "film").touch()
        os.truncate(work / "film", 1 << 30)
    # The work folder keeps all bits, whether or not they fit memory.
    classifier = OpticalClassifier(**options, memory_budget=SMALL if work is None else None, work=work)
    with pytest.raises(SaveError, match=rf"{said}.*KiB.*|KiB.*{said}.*") as caught:
        classifier.expect(0, out=tmp_path / "model").fit(class_folder)
    assert "1000 bytes are free" in str(caught.value)


def test_what_was_done_before_the_disk_was_full_is_kept(class_folder, options, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kept_bits, "BLOCK", 8)
    fit = {**options, "work": tmp_path / "work", "memory_budget": SMALL, "verbose": True}
    whole = OpticalClassifier(**options).fit(class_folder)
    monkeypatch.setattr("aurevoir.engine.engine.Engine.batch_size", 4)
    written = []

    def pwrite(descriptor, data, offset):
        written.append(offset)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, data, offset)

    original = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(rows.os, "pwrite", pwrite)
        with pytest.raises(SaveError, match="is full"):
            OpticalClassifier(**fit).fit(class_folder)
    capsys.readouterr()
    resumed = OpticalClassifier(**fit).fit(class_folder)
    assert "the bits of 16 of 30 images" in capsys.readouterr().err
    np.testing.assert_array_equal(resumed.training_.bits, whole.training_.bits)


def test_a_killed_fit_leaves_no_file_and_continues(class_folder, staged_onnx, wide, tmp_path):
    command = [sys.executable, "-m", "aurevoir", "fit", class_folder, "--backbone", staged_onnx, "--cut", wide]
    command += ["--projection", "none", "--memory", str(SMALL), "--work", tmp_path / "work", "--quiet"]
    (temporary := tmp_path / "tmp").mkdir()
    run = {"env": {**os.environ, "TMPDIR": str(temporary)}, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    random = np.random.default_rng(int(time.time()))
    with subprocess.Popen([*map(str, command), "--out", str(tmp_path / "model")], **run) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(2, 5))
        process.send_signal(signal.SIGKILL)
    # What is prepared for a first inference, the next fit deletes.
    assert not [path for path in temporary.rglob("*") if path.is_file() and ".aurevoir-" not in str(path)]
    for out in ("model", "again"):
        subprocess.run([*map(str, command), "--out", str(tmp_path / out)], check=True, **run)
    assert _bytes(tmp_path / "model") == _bytes(tmp_path / "again")
    assert is_mapped(
        OpticalClassifier(staged_onnx, cut=wide, projection="none", memory_budget=SMALL)
        .fit(class_folder)
        .training_.bits
    )
