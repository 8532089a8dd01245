"""Safetensors files of arrays that may be larger than memory."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load

from aurevoir.schema import MalformedError
from aurevoir.transfer import arrays_file
from aurevoir.transfer.arrays_file import ArraysFile, loaded_arrays, mapped_arrays

ARRAYS = {
    "bits": np.arange(21, dtype="uint8").reshape(7, 3),
    "labels": np.arange(7) - 3,
    "loo_scores": np.linspace(0, 1, 14, dtype="float32").reshape(7, 2),
    "weights": np.linspace(1, 2, 7),
    "empty": np.empty((0, 4), "float32"),
}


def _mapped(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mapped_arrays(descriptor, path.stat().st_size)
    finally:
        os.close(descriptor)


@pytest.fixture
def content(monkeypatch):
    monkeypatch.setattr(arrays_file, "_BLOCK", 10)
    file = ArraysFile(ARRAYS)
    found = b"".join(map(bytes, file))
    assert len(found) == len(file)
    return found


def test_what_is_written_in_blocks_is_read_whole_and_as_maps(content, tmp_path):
    (tmp_path / "f").write_bytes(content)
    for found in (load(content), loaded_arrays(content), _mapped(tmp_path / "f")):
        assert set(found) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
            assert found[name].flags.aligned


def _with(content, change):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: each["bits"].update(shape=[7, 4]), "array 'bits' is strange"),
        (lambda each: each["bits"].update(shape=[-7, -3]), "array 'bits' is strange"),
        (lambda each: each["bits"].update(shape=[7, 3, *[1] * 100]), "array 'bits' is strange"),
        (lambda each: each["bits"].update(shape=7), "array 'bits' is strange"),
        (lambda each: each["bits"].update(dtype="Q8"), "array 'bits' is strange"),
        (lambda each: each["weights"].update(data_offsets=[8, 64]), "array 'weights' is strange"),
        (lambda each: each["weights"].update(data_offsets=[0, 2**70]), "is strange"),
        (lambda each: each["weights"].update(data_offsets="all"), "an array has no offsets"),
        (lambda each: each.update(weights=3), "an array has no offsets"),
        (lambda each: each.pop("bits"), "21 bytes are of no array"),
        (lambda each: each.pop("labels"), "is strange"),
    ],
)
def test_a_file_whose_header_does_not_tell_its_bytes_is_refused(content, tmp_path, change, said):
    (tmp_path / "f").write_bytes(_with(content, change))
    with pytest.raises(MalformedError, match=said):
        _mapped(tmp_path / "f")


def test_a_file_that_is_cut_is_refused(content, tmp_path):
    for end in (9, 100, len(content) - 1):
        (tmp_path / "f").write_bytes(content[:end])
        with pytest.raises(MalformedError):
            _mapped(tmp_path / "f")
