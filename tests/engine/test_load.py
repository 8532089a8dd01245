"""Engine files give the same engine back, also on another runtime, and are refused where it would be wrong."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from aurevoir import build_engine, load_engine
from aurevoir.archive import pack, unpack_bytes
from aurevoir.engine.assemble import assemble
from aurevoir.engine.engine import Engine
from aurevoir.engine.runtimes import on_torch
from aurevoir.errors import AurevoirError, UsageError


def unpack(path):
    return unpack_bytes(path.read_bytes(), path)


def test_a_file_gives_the_same_engine_back(exported, table, pixels, tmp_path):
    for precision in ("fp32", "int8"):
        engine = assemble(exported, precision, "openvino", table if precision == "int8" else None)
        engine.save(tmp_path / "e.engine")
        loaded = load_engine(tmp_path / "e.engine")
        assert loaded.manifest == engine.manifest
        assert (loaded.table is None) == (precision == "fp32")
        np.testing.assert_array_equal(loaded(pixels), engine(pixels))
        assert loaded.to_bytes() == engine.to_bytes()
        assert list(tmp_path.iterdir()) == [tmp_path / "e.engine"]


def test_a_file_runs_on_another_runtime(exported, table, pixels, tmp_path):
    assemble(exported, "int8", "openvino", table).save(tmp_path / "e.engine")
    other = load_engine(tmp_path / "e.engine", runtime="onnxruntime")
    assert other.runtime == "onnxruntime"
    assert (np.sign(other(pixels)) == np.sign(load_engine(tmp_path / "e.engine")(pixels))).mean() > 0.97
    with pytest.raises(UsageError, match="runtime 'torch' runs fp32, bf16"):
        load_engine(tmp_path / "e.engine", runtime="torch")


def test_a_part_of_another_engine_is_refused(exported, table, tmp_path):
    assemble(exported, "fp32").save(tmp_path / "a.engine")
    assemble(exported, "int8", table=table).save(tmp_path / "b.engine")
    parts = {**unpack(tmp_path / "a.engine"), "model.onnx": unpack(tmp_path / "b.engine")["model.onnx"]}
    (tmp_path / "c.engine").write_bytes(pack(parts))
    with pytest.raises(AurevoirError, match=r"part model.onnx does not match its manifest"):
        load_engine(tmp_path / "c.engine")


def test_int8_weights_that_would_overflow_here_are_refused(exported, table, pixels, tmp_path, monkeypatch):
    """Without VNNI, products of large weights are summed in 16 bits: what was built where there is VNNI is wrong."""
    wide, narrow = tmp_path / "wide.engine", tmp_path / "narrow.engine"
    for path, has in ((wide, True), (narrow, False)):
        monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda has=has: has)
        engine = assemble(exported, "int8", "onnxruntime", table)
        engine.save(path)
        assert engine.manifest.weight_levels == (127 if has else 63)
    assert load_engine(narrow).manifest.weight_levels == 63
    with pytest.raises(AurevoirError, match=r"wide.engine was built on a processor with.*beyond 63"):
        load_engine(wide)
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: True)
    assert load_engine(narrow).bits(pixels).shape == load_engine(wide).bits(pixels).shape


def test_a_limit_of_onednn_refuses_what_would_overflow_in_openvino_alone(exported, table, tmp_path, monkeypatch):
    monkeypatch.setattr("aurevoir.kernels.backends.numba.features.has_int8_dot_product", lambda: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for runtime in ("openvino", "onnxruntime"):
        assemble(exported, "int8", runtime, table).save(tmp_path / f"{runtime}.engine")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr("aurevoir.engine.runtimes.processor.platform.machine", lambda: "x86_64")
    assert load_engine(tmp_path / "onnxruntime.engine", trusted=True).manifest.weight_levels == 127
    with pytest.raises(AurevoirError, match="and openvino has none here: products of weights beyond 63 overflow"):
        load_engine(tmp_path / "openvino.engine", trusted=True)
    assert assemble(exported, "int8", "openvino", table).manifest.weight_levels == 63


def test_an_fp16_engine_of_a_float_graph_moves_to_torch_and_not_to_tensorrt(exported, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(on_torch, "precisions", lambda: ("fp32", "fp16", "bf16"))
    made = assemble(exported, "fp32", "torch", device="cpu")
    engine = Engine(replace(made.manifest, precision="fp16", runtime="openvino"), made.graph)
    engine.save(tmp_path / "e.engine")
    moved = load_engine(tmp_path / "e.engine", "cpu", "torch", trusted=True)
    assert (moved.runtime, moved.precision) == ("torch", "fp16")
    assert np.isfinite(moved(pixels[:4])).all()
    # As torch's were written once: a float graph is no float16 plan.
    Engine(replace(engine.manifest, runtime="torch"), made.graph).save(tmp_path / "old.engine")
    monkeypatch.setattr("aurevoir.engine.load.choose_runtime", lambda name, *rest: name)
    with pytest.raises(AurevoirError, match="whose fp16 graph tensorrt does not support"):
        load_engine(tmp_path / "old.engine", runtime="tensorrt")


def test_an_engine_file_of_the_schema_before_is_read(tiny_onnx, pixels, tmp_path):
    built = build_engine(tiny_onnx, precision="int8", calibration=pixels, runtime="onnxruntime", smoke=False)
    parts = built.parts()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    content = json.loads(built.manifest.to_json(digests))
    dtype = content.pop("activation_dtype")
    content |= {"schema": "aurevoir-engine/2", "dialect": {"int8": "s8", "uint8": "u8"}[dtype]}
    content["images_per_second"] = {"int8": 2.0, "fp32": 1.0}
    (tmp_path / "old.engine").write_bytes(pack({"manifest.json": json.dumps(content).encode(), **parts}))
    old = load_engine(tmp_path / "old.engine")
    assert old.manifest == built.manifest
    assert old.images_per_second == {"int8": 2.0, "fp32": 1.0}
    np.testing.assert_array_equal(old.bits(pixels), built.bits(pixels))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("manifest.json", b"{", "the manifest of .* is not JSON"),
        ("manifest.json", b"[]", "the manifest of .* is a list, not a JSON object"),
        ("manifest.json", b'{"schema": "aurevoir-engine/3"}', "the manifest of .* has wrong fields"),
        ("manifest.json", b'{"schema": "aurevoir-engine/9"}', "of schema 'aurevoir-engine/9'"),
        ("speeds.json", b"nothing", "the speeds of .* is not JSON"),
        ("speeds.json", b"[1]", "the speeds of .* is a list, not a JSON object"),
        ("speeds.json", b'{"int8": "fast"}', "'fast' of int8 is not a number"),
        ("speeds.json", b'{"int8": NaN}', "nan of int8 is not a number"),
    ],
)
def test_a_part_of_another_kind_is_named(exported, tmp_path, name, data, message):
    assemble(exported, "fp32").save(tmp_path / "e.engine")
    (tmp_path / "e.engine").write_bytes(pack(unpack(tmp_path / "e.engine") | {name: data}))
    with pytest.raises(AurevoirError, match=message):
        load_engine(tmp_path / "e.engine")


@pytest.mark.parametrize(
    "wrong",
    [{"stranger": 1}, {"input_shape": 5}, {"parts": 5}, {"mean": None}, {"activation_dtype": "", "dialect": ""}],
)
def test_a_manifest_with_other_fields_is_refused(exported, tmp_path, wrong):
    assemble(exported, "fp32").save(tmp_path / "e.engine")
    parts = unpack(tmp_path / "e.engine")
    content = json.loads(parts["manifest.json"]) | wrong
    (tmp_path / "e.engine").write_bytes(pack(parts | {"manifest.json": json.dumps(content).encode()}))
    with pytest.raises(AurevoirError, match="has wrong fields .*; build it again"):
        load_engine(tmp_path / "e.engine")
