"""Weights files of all kinds, and files that are none."""

import argparse
import collections
import datetime
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aurevoir.engine.backbones.checkpoint import read_checkpoint
from aurevoir.errors import AurevoirError, UsageError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4, dtype=torch.float16)}


def refused(path):
    with pytest.raises(AurevoirError) as caught:
        read_checkpoint(path, "net")
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and "weights_only" not in message and "\x1b" not in message
    return message


def test_what_trainings_write_beside_weights_is_read(tmp_path):
    beside = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
        "time": datetime.datetime.now(datetime.UTC),
        "took": datetime.timedelta(hours=1),
        "best": np.float64(0.9),
        "worst": np.float32(0.1),
        "counted": np.int64(3),
        "last": collections.deque([1, 2]),
        "curve": np.arange(3.0),
        "meters": collections.defaultdict(list, loss=[1.0]),
        "classes": collections.OrderedDict(cat=0),
        "seen": {1, 2},
        "optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(2))]).state_dict(),
        "dtype": torch.float16,
    }
    torch.save({"model": STATE, **beside}, tmp_path / "checkpoint.pth")
    found = read_checkpoint(tmp_path / "checkpoint.pth", "net")
    assert torch.equal(found["model"]["a.weight"], STATE["a.weight"])
    assert found["args"].lr == 0.1 and found["best"] == 0.9 and found["meters"]["loss"] == [1.0]


def test_old_files_of_torch_and_safetensors_of_any_name_are_read(tmp_path):
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "named.bin")
    for name in ("old.pth", "named.bin"):
        assert torch.equal(read_checkpoint(tmp_path / name, "net")["a.weight"], STATE["a.weight"])


def test_an_index_of_shards_is_read(tmp_path):
    for name, value in STATE.items():
        save_file({name: value}, tmp_path / f"{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{name}.safetensors" for name in STATE}}))
    assert set(read_checkpoint(index, "net")) == set(STATE)
    index.write_text(json.dumps({"weight_map": {"a": "../a.weight.safetensors"}}))
    assert "which is not beside it" in refused(index)
    index.write_text("[]")
    assert "without the weight_map" in refused(index)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\n  <html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"\x1f\x8b\x08rest", "a gzip archive"),
        (b"PK\x03\x04 and no end", "truncated"),
        (b'\x10\0\0\0\0\0\0\0{"a":', "header"),
    ],
)
def test_what_holds_no_weights_is_told_apart(tmp_path, content, what):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert what in refused(path)


def test_archives_of_other_programs_are_told_apart(tmp_path, tiny_onnx):
    module = nn.Sequential(nn.Linear(2, 2))
    torch.jit.trace(module, torch.ones(1, 2)).save(tmp_path / "script.pt")
    assert "a TorchScript archive" in refused(tmp_path / "script.pt")
    torch.save(module, tmp_path / "module.pth")
    assert "a whole pickled module (torch.nn.modules." in refused(tmp_path / "module.pth")
    shutil.copy(tiny_onnx, tmp_path / "onnx.pth")
    assert "is an ONNX file" in refused(tmp_path / "onnx.pth")
    assert "is a folder" in refused(tmp_path)


def test_objects_are_named_and_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"model": STATE, "config": Evil()}, tmp_path / "evil.pth")
    assert "it holds objects (posix.mkdir)" in refused(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="nor an existing file"):
        read_checkpoint(tmp_path / "none.pth", "net")
