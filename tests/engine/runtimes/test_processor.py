"""What the processor offers for int8: as the runtime on it sees it, and as its products show."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurevoir.engine.runtimes import compile_graph, takes_unsigned, weight_levels
from aurevoir.engine.runtimes.processor import (
    NAMES,
    describe_int8,
    has_int8_dot_product,
    instruction_sets,
    isa_limit,
    saturates,
)

FEATURES = "aurevoir.kernels.backends.numba.features.get_host_cpu_features"


@pytest.fixture
def processor(monkeypatch):
    """Let the processor be of an architecture and have some instruction sets, by LLVM's names."""

    def make(machine, *names, **environment):
        monkeypatch.setattr("aurevoir.engine.runtimes.processor.platform.machine", lambda: machine)
        monkeypatch.setattr(FEATURES, lambda: {name: name in names for name in (*NAMES, "sse4.1")})
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(
    ("machine", "names", "levels", "unsigned"),
    [
        ("x86_64", ("avx2",), 63, False),
        ("x86_64", ("avx2", "avx512f"), 63, False),
        ("x86_64", ("avx2", "avxvnni"), 127, True),
        ("x86_64", ("avx2", "avx512f", "avx512vnni"), 127, True),
        ("x86_64", ("avx2", "avx512f", "avx512vnni", "amx-int8"), 127, True),
        ("AMD64", ("avx2",), 63, False),
        # ARM's products are widened before they are added, dot product or none.
        ("aarch64", (), 127, False),
        ("aarch64", ("dotprod",), 127, True),
        ("arm64", ("dotprod", "i8mm"), 127, True),
    ],
)
def test_levels_of_weights_are_those_that_cannot_saturate(processor, machine, names, levels, unsigned):
    processor(machine, *names)
    for runtime in ("openvino", "onnxruntime"):
        assert (weight_levels(runtime), takes_unsigned(runtime)) == (levels, unsigned)
        assert saturates(runtime) == (levels == 63)
    # NVIDIA's sum in 32 bits, and torch computes no int8.
    assert {weight_levels(runtime) for runtime in ("tensorrt", "tensorrt-rtx", "torch")} == {127}


@pytest.mark.parametrize(
    ("limit", "names", "has"),
    [
        ("AVX2", ("avx512vnni", "avxvnni"), False),
        ("avx512_core", ("avx512vnni",), False),
        ("SSE41", ("avx512vnni",), False),
        ("AVX2_VNNI", ("avx512vnni",), False),
        ("AVX2_VNNI", ("avx512vnni", "avxvnni"), True),
        ("AVX512_CORE_VNNI", ("avx512vnni",), True),
        ("AVX512_CORE_AMX", ("avx512vnni", "amx-int8"), True),
        ("ALL", ("avx512vnni",), True),
        ("nonsense", ("avx512vnni",), True),
        ("ALL", (), False),
    ],
)
@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limit_of_onednn_is_openvinos_alone(processor, variable, limit, names, has):
    processor("x86_64", *names, **{variable: limit})
    assert has_int8_dot_product("openvino") == has
    assert has_int8_dot_product("onnxruntime") == bool(names)
    assert weight_levels("openvino") == (127 if has else 63)


def test_the_first_limit_counts(processor):
    processor("x86_64", "avx512vnni", ONEDNN_MAX_CPU_ISA="ALL", DNNL_MAX_CPU_ISA="AVX2")
    assert (isa_limit(), saturates("openvino")) == (None, False)


def test_what_a_processor_means_for_int8_is_said(processor):
    processor("x86_64", "avx2", "avx512vnni", "amx-int8")
    assert "cannot saturate: engines have all 127 levels" in describe_int8("openvino")
    found = instruction_sets()
    assert {name for name, there in found.items() if there} == {"avx2", "avx512_vnni", "amx_int8"}
    assert "dotprod" not in found
    processor("x86_64", "avx2", "avx512vnni", ONEDNN_MAX_CPU_ISA="AVX2")
    assert describe_int8("openvino").startswith(
        "ONEDNN_MAX_CPU_ISA or DNNL_MAX_CPU_ISA is avx2: no VNNI: pairs of int8"
    )
    assert "63 levels" in describe_int8("openvino")
    assert "127 levels" in describe_int8("onnxruntime")
    processor("aarch64", "dotprod", "bf16")
    assert instruction_sets() == {"dotprod": True, "i8mm": False, "bf16": True}


SIDE, CHANNELS = 8, 64


def _graph(levels):
    """A convolution of uint8 by int8, as engines have it, all of whose products are the largest there are."""
    weights = np.full((CHANNELS, CHANNELS, 3, 3), levels, "int8")
    constants = {
        "one": np.float32(1 / 255),
        "zero": np.uint8(0),
        "weights": weights,
        "scale": np.full(CHANNELS, 1 / 127, "float32"),
        "none": np.zeros(CHANNELS, "int8"),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["nchw"], "nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "one"], ["x"], "scaled"),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["weights", "scale", "none"], ["wd"], "wdq", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["y"], "conv", kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["y"], ["features"], "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, CHANNELS])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", CHANNELS * (SIDE - 2) ** 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def _errors():
    """The relative error of the convolution on white images, by levels of weights."""
    images = np.full((2, SIDE, SIDE, CHANNELS), 255, "uint8")
    found = {}
    for levels in (127, 63):
        features = compile_graph("openvino", _graph(levels), "int8")(images)[0]
        # bfloat16 between the layers has 8 bits.
        found[levels] = float(np.abs(features / (CHANNELS * 9 * levels / 127) - 1).max())
    return found


def _in_a_child(**environment):
    """The errors, and the levels that builds there have, in a process under an environment."""
    code = (
        "import sys, json; sys.path[:0] = json.loads(sys.argv[1])\n"
        "import importlib.util as u; s = u.spec_from_file_location('t', sys.argv[2]); m = u.module_from_spec(s)\n"
        "s.loader.exec_module(m)\n"
        "print(json.dumps([m._errors(), m.weight_levels('openvino')]))"
    )
    command = [sys.executable, "-c", code, json.dumps(sys.path), __file__]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    errors, levels = json.loads(done.stdout.splitlines()[-1])
    return {int(each): value for each, value in errors.items()}, levels


def test_products_of_the_levels_that_builds_here_have_do_not_saturate():
    pytest.importorskip("openvino")
    assert _errors()[weight_levels("openvino")] < 0.01


@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE"])
def test_products_saturate_without_vnni_and_those_of_few_levels_do_not(limit):
    """The processor without VNNI is emulated: oneDNN, which OpenVINO runs on, is kept from it."""
    pytest.importorskip("openvino")
    errors, levels = _in_a_child(ONEDNN_MAX_CPU_ISA=limit)
    assert levels == 63
    assert errors[63] < 0.01
    if errors[127] < 0.01:
        pytest.skip("this OpenVINO computes int8 without 16-bit sums under a limit of oneDNN's instruction sets")
    assert errors[127] > 0.1


def test_every_name_of_an_instruction_set_is_llvms():
    from llvmlite.binding import get_host_cpu_features

    known = get_host_cpu_features()
    here = [name for name in NAMES if name.startswith(("avx", "amx"))] if "avx" in known else ["dotprod"]
    assert set(here) <= set(known)


def test_the_graph_is_one_that_engines_have():
    onnx.checker.check_model(onnx.load_from_string(_graph(127)), full_check=True)
