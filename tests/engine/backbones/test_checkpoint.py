"""Weights files of all kinds, and files that are none."""

import argparse
import collections
import contextlib
import datetime
import json
import os
import pathlib
import resource
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aurevoir.engine.backbones.checkpoint import read_checkpoint
from aurevoir.engine.backbones.pickles import is_plain
from aurevoir.engine.backbones.state_dict import find
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


class _Bomb:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _repacked(path, compression):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def test_an_archive_that_unfolds_is_refused_from_its_directory(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"a.weight": torch.zeros(20_000_000)}, path)
    _repacked(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "unfolds to 76." in refused(path)
    np.savez_compressed(tmp_path / "weights.npz", a=np.zeros(10_000_000))
    assert "unfolds to 76." in refused(tmp_path / "weights.npz")


def test_members_that_lie_over_each_other_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"a.weight": torch.zeros(100_000)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    sizes = largest.file_size.to_bytes(4, "little") * 2
    place = data.rindex(sizes)
    data[place : place + 8] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(data)
    assert "unfolds to 2.0 GiB" in refused(path)


@pytest.mark.parametrize(
    "state",
    [
        {"a": torch.zeros(1).expand(2**40)},
        {"a": torch.empty(2**40, device="meta")},
        {"a": torch.sparse_coo_tensor([[0]], [1.0], (2**40,))},
        {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)},
    ],
    ids=["expanded", "meta", "sparse", "quantized"],
)
def test_tensors_of_huge_shapes_take_no_memory_and_fit_nothing(tmp_path, state):
    torch.save(state, tmp_path / "huge.pth")
    found = find({"a": torch.zeros(2)}, read_checkpoint(tmp_path / "huge.pth", "net"))
    assert not found.tensors


@pytest.mark.parametrize(
    "bomb",
    [
        _Bomb(list, range(2**33)),
        _Bomb(set, range(2**33)),
        _Bomb(np.dtype, "U100000000"),
        _Bomb(np.ndarray, (2**33,), "O"),
        _Bomb(bytearray, 2**36),
    ],
    ids=["list", "set", "text", "objects", "bytes"],
)
def test_what_a_pickle_builds_from_nothing_is_bounded(tmp_path, bomb, monkeypatch):
    """In this process or another, no file of some bytes takes more than its limit."""
    monkeypatch.setattr("aurevoir.engine.backbones.pickles._BASE", 1 << 30)
    monkeypatch.setenv("AUREVOIR_MEMORY", "100MB")
    torch.save({"a": torch.ones(2), "b": bomb}, tmp_path / "bomb.pth")
    assert not is_plain(tmp_path / "bomb.pth")
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    with contextlib.suppress(AurevoirError):
        read_checkpoint(tmp_path / "bomb.pth", "net")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own < 200 << 10
    # That of all children before is the least that can be told here.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(children, 2 << 20)


def test_plain_state_dicts_need_no_process_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("aurevoir.engine.backbones.pickles.run_limited", lambda *given: pytest.fail("a process is run"))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    states = [
        module.state_dict(),
        {"model": module.state_dict(), "epoch": 3, "lr": 0.1},
        dict(module.named_parameters()),
    ]
    for number, state in enumerate(states):
        path = tmp_path / f"{number}.pth"
        torch.save(state, path)
        assert is_plain(path)
        read_checkpoint(path, "net")
    torch.save({"a": _Bomb(collections.OrderedDict, [("b", 1)])}, tmp_path / "ordered.pth")
    assert not is_plain(tmp_path / "ordered.pth")


def test_an_index_that_names_itself_and_files_of_holes_are_refused(tmp_path):
    index = tmp_path / "model.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.index.json"}}))
    assert "another index" in refused(index)
    index.write_text(json.dumps({"weight_map": {"a": "a" * 300}}))
    with pytest.raises(UsageError, match="nor an existing file"):
        read_checkpoint(index, "net")
    index.write_text("[" * 100_000)
    assert "a JSON file without the weight_map" in refused(index)
    save_file({"a": torch.ones(2)}, tmp_path / "holes.safetensors")
    with (tmp_path / "holes.safetensors").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(AurevoirError, match="is mostly empty"):
        read_checkpoint(tmp_path / "holes.safetensors", "net")
