"""A fit that is interrupted anywhere and run again gives the model of one without interruption, byte for byte."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from aurevoir import OpticalClassifier
from aurevoir.errors import UsageError
from aurevoir.images import batches
from aurevoir.images.batches import ImageArray, ImageFiles
from aurevoir.images.decode import UnreadableImageError
from aurevoir.images.procedural import write_class_folders
from aurevoir.kept import sealed, unsealed
from aurevoir.transfer import kept_bits
from aurevoir.transfer.embed import embed
from aurevoir.transfer.kept_bits import KeptBits
from aurevoir.work import Work


class _Engine:
    """Outputs that tell an image and the batch that it was in; counts what it is given."""

    features, batch_size, runtime, device, calls_at_once = 16, 4, "fake", "cpu", 1

    def __init__(self):
        self.output_types = {"bits": ((2,), "uint8"), "pooled": ((3,), "float32")}
        self.seen, self.stop_after = 0, None

    def to_bytes(self):
        return b"engine"

    def checked_outputs(self, names):
        return names

    def run(self, pixels, outputs):
        if self.stop_after is not None and self.seen >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(pixels)
        alone = pixels.reshape(len(pixels), -1).sum(axis=1)
        found = np.stack([alone, np.full(len(pixels), pixels.sum()), alone / 3], axis=1)
        every = {"bits": found[:, :2].astype("uint8"), "pooled": found.astype("float32")}
        return {name: every[name] for name in outputs}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(kept_bits, "BLOCK", 8)


@pytest.fixture
def paths(tmp_path):
    found = [*write_class_folders(tmp_path / "photos", 15, 24, 0).paths]
    for index in (3, 4, 11, 29):
        found[index].write_text("no image")
    return found


def _embedded(engine, images, folder, outputs=("bits", "pooled")):
    if folder is None:
        indices, values = embed(engine, images, outputs)
    else:
        with Work(folder) as work:
            kept = KeptBits(work, "train", engine, images, outputs)
            indices, values = embed(engine, images, outputs, kept=kept)
    return indices, *values.values()


def _same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("small_blocks")
def test_interrupted_after_any_batch_the_bits_are_the_same(paths, tmp_path):
    whole = ImageFiles(paths, (24, 24))
    expected = _embedded(_Engine(), whole, None)
    for stop in range(0, len(paths), 12):
        engine, images = _Engine(), ImageFiles(paths, (24, 24))
        engine.stop_after = stop
        with suppress(KeyboardInterrupt):
            _embedded(engine, images, tmp_path / f"work{stop}")
        engine, images = _Engine(), ImageFiles(paths, (24, 24))
        _same(_embedded(engine, images, tmp_path / f"work{stop}"), expected)
        assert engine.seen <= len(expected[0]) - stop // 8 * 8
        assert images.skipped == whole.skipped
    engine = _Engine()
    _same(_embedded(engine, ImageFiles(paths, (24, 24)), tmp_path / "work0"), expected)
    assert not engine.seen


@pytest.mark.usefixtures("small_blocks")
def test_other_outputs_are_not_taken_for_these(paths, tmp_path):
    images = ImageFiles(paths, (24, 24))
    _embedded(_Engine(), images, tmp_path / "work", ("bits",))
    engine = _Engine()
    _same(_embedded(engine, images, tmp_path / "work"), _embedded(_Engine(), images, None))
    assert engine.seen


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("change", ["content", "mended", "deleted", "order", "added", "removed"])
def test_a_changed_image_is_never_mixed_with_old_bits(change, paths, tmp_path):
    _embedded(_Engine(), ImageFiles(paths, (24, 24)), tmp_path / "work")
    status = paths[20].stat()
    if change == "content":
        # Of the same size and time.
        shutil.copy(paths[21], tmp_path / "other")
        paths[20].write_bytes((tmp_path / "other").read_bytes())
        os.utime(paths[20], ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mended":
        shutil.copy(paths[20], paths[3])
    elif change == "deleted":
        paths[9].unlink()
    elif change == "order":
        paths[:2] = paths[1::-1]
    elif change == "added":
        paths.append(paths[0])
    else:
        paths.pop()
    engine = _Engine()
    found = _embedded(engine, ImageFiles(paths, (24, 24)), tmp_path / "work")
    _same(found, _embedded(_Engine(), ImageFiles(paths, (24, 24)), None))
    assert engine.seen
    assert change not in ("content", "added", "removed") or engine.seen < len(found[0])


def _changed(content, **arrays):
    with np.load(io.BytesIO(content)) as found:
        arrays = {**found, **arrays}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-30],
        lambda content: _changed(content, described=np.frombuffer(b"[" * 100_000, "uint8")),
        lambda content: _changed(content, described=np.frombuffer(b'{"start": 0}', "uint8")),
        lambda content: _changed(content, bits=np.zeros((6, 3), "uint8")),
        lambda content: _changed(content, pooled=np.zeros((6, 3), "float64")),
        lambda content: _changed(content, indices=np.arange(6) - 1),
        lambda content: _changed(content, indices=np.array("x")),
    ],
)
def test_a_block_that_is_whole_and_none_is_not_taken_over(paths, tmp_path, change):
    images, work, engine = ImageFiles(paths, (24, 24)), tmp_path / "work", _Engine()
    expected = _embedded(engine, images, work)
    (first,) = work.glob("*-000000.kept")
    first.write_bytes(sealed(change(unsealed(first.read_bytes()))))
    engine = _Engine()
    _same(_embedded(engine, images, work), expected)
    assert engine.seen


@pytest.mark.usefixtures("small_blocks")
def test_what_changes_while_it_is_worked_on_is_not_kept(paths, tmp_path):
    class Changing(_Engine):
        def run(self, pixels, outputs):
            if self.seen == 4:
                shutil.copy(paths[20], paths[0])
            return super().run(pixels, outputs)

    _embedded(Changing(), ImageFiles(paths, (24, 24)), tmp_path / "work")
    _same(
        _embedded(_Engine(), ImageFiles(paths, (24, 24)), tmp_path / "work"),
        _embedded(_Engine(), ImageFiles(paths, (24, 24)), None),
    )


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_could_not_be_read_for_a_while_is_read_again(paths, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        read = batches.decode

        def failing(path, *how):
            if path == paths[13]:
                raise UnreadableImageError("input/output error")
            return read(path, *how)

        patch.setattr(batches, "decode", failing)
        _embedded(_Engine(), ImageFiles(paths, (24, 24)), tmp_path / "work")
    found = _embedded(_Engine(), ImageFiles(paths, (24, 24)), tmp_path / "work")
    assert 13 in found[0]


@pytest.mark.usefixtures("small_blocks")
def test_arrays_of_pixels_are_kept_too(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 5, 5, 3), dtype="uint8")
    expected = _embedded(_Engine(), ImageArray(pixels), tmp_path / "work")
    engine = _Engine()
    _same(_embedded(engine, ImageArray(pixels), tmp_path / "work"), expected)
    assert not engine.seen
    pixels[17] ^= 1
    found = _embedded(engine, ImageArray(pixels), tmp_path / "work")
    _same(found, _embedded(_Engine(), ImageArray(pixels), None))
    assert engine.seen == 14


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("small_blocks")
def test_a_fit_interrupted_in_any_stage_continues(class_folder, tiny_onnx, tmp_path, monkeypatch, capsys):
    options = {"precision": "int8", "runtime": "openvino", "projection": "exact", "smoke": False}
    OpticalClassifier(tiny_onnx, **options).fit(class_folder).save(tmp_path / "whole")
    stages = {
        "engine.build.calibrate": [],
        "engine.build.assemble": [],
        "transfer.classifier.embed": ["the calibration table"],
        "transfer.classifier.fit_readout": ["the engine"],
    }
    work = tmp_path / "work"
    for name, expected in stages.items():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"aurevoir.{name}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            OpticalClassifier(tiny_onnx, **options, work=work, verbose=True).fit(class_folder)
        shown = capsys.readouterr().err.splitlines()
        assert [line.rpartition(": ")[2] for line in shown if line.startswith("taken over from")] == expected
    resumed = OpticalClassifier(tiny_onnx, **options, work=work, verbose=True).fit(class_folder)
    assert "the bits of 30 of 30 images" in capsys.readouterr().err
    resumed.save(tmp_path / "resumed")
    assert _bytes(tmp_path / "resumed") == _bytes(tmp_path / "whole")
    other = OpticalClassifier(tiny_onnx, **options | {"method": "max"}, work=work, verbose=True).fit(class_folder)
    assert "taken over" not in capsys.readouterr().err
    assert other.engine_.to_bytes() != resumed.engine_.to_bytes()
    assert len(list(work.glob("engine-*"))) == len(list(work.glob("table-*"))) == 1


def test_a_killed_fit_continues_to_the_same_model(tiny_onnx, tmp_path):
    write_class_folders(tmp_path / "photos", 30, 64, 0)
    command = [sys.executable, "-m", "aurevoir", "fit", str(tmp_path / "photos"), "--backbone", str(tiny_onnx)]
    command += ["--precision", "int8", "--runtime", "openvino", "--projection", "exact"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    work, random = tmp_path / "work", np.random.default_rng(int(time.time()))
    for _ in range(2):
        with subprocess.Popen(
            [*command, "--out", str(tmp_path / "model"), "--work", str(work)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(1, 5))
            process.send_signal(signal.SIGKILL)
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "model"), "--work", str(work)], check=True, capture_output=True, text=True
    )
    assert _bytes(tmp_path / "model") == _bytes(tmp_path / "whole"), done.stderr
    assert not [path for path in (*work.iterdir(), *tmp_path.iterdir()) if path.name.startswith(".aurevoir-")]


def test_a_work_folder_where_it_would_be_in_the_way_is_refused(class_folder, tiny_onnx, tmp_path, monkeypatch, capsys):
    from aurevoir.cli.main import main

    monkeypatch.chdir(tmp_path)
    for work in ("model/work", "model", class_folder / "work"):
        assert main(["fit", str(class_folder), "--out", "model", "--work", str(work)]) == 2
        assert "give a folder outside it" in capsys.readouterr().err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UsageError, match="is not a work folder"):
        OpticalClassifier(tiny_onnx, work="notes").fit(class_folder)
