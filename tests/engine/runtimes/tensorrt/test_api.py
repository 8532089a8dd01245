"""What our modules ask of NVIDIA's bindings is in each version of them."""

import ast
import json
from pathlib import Path

import pytest

API = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())


SOURCES = ("tensorrt_plan", "tensorrt_run", "tensorrt_calibrator", "on_tensorrt", "on_tensorrt_rtx")


CLASS_OF = {
    "trt": "",
    "builder": "Builder",
    "capability": "ComputeCapability",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "fault": "ParserError",
    "inspector": "EngineInspector",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "settings": "IRuntimeConfig",
    "timings": "ITimingCache",
    "_runtime": "Runtime",
}


class Asked(ast.NodeVisitor):
    """Finds what a source asks of one version that the version lacks, where it gets to in that version."""

    def __init__(self, api):
        self.api, self.missing, self.seen = api, [], 0

    def owner(self, node):
        """The class whose member a node is asked for, "" for the module, None for anything else."""
        name = getattr(node, "id", getattr(node, "attr", None))
        if isinstance(node, ast.Attribute) and self.owner(node.value) == "":
            return name
        return CLASS_OF.get(name)

    def lacks(self, owner, name):
        return owner is not None and name[0] != "_" and name not in self.api.get(owner, ())

    def visit_Attribute(self, node):
        owner = self.owner(node.value)
        self.seen += owner is not None
        if self.lacks(owner, node.attr):
            self.missing.append(f"{ast.unparse(node)} (line {node.lineno})")
        self.generic_visit(node)

    def known(self, test):
        """The truth of a test in this version, None where it is not one of hasattr alone."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.known(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            truths = [self.known(value) for value in test.values]
            ends = isinstance(test.op, ast.Or)
            return ends if ends in truths else None if None in truths else not ends
        if isinstance(test, ast.Call) and getattr(test.func, "id", None) == "hasattr":
            asked, name = test.args
            return not self.lacks(self.owner(asked), name.value)
        return None

    def block(self, statements):
        """Visit statements up to one that surely leaves."""
        for statement in statements:
            truth = self.known(statement.test) if isinstance(statement, ast.If) else None
            if truth is None:
                self.visit(statement)
                continue
            self.visit(statement.test)
            taken = statement.body if truth else statement.orelse
            self.block(taken)
            if taken and isinstance(taken[-1], ast.Return | ast.Raise):
                return

    def visit_FunctionDef(self, node):
        self.block(node.body)


def _missing(source, version):
    asked = Asked(API[version])
    asked.visit(ast.parse(source))
    return asked.missing


@pytest.mark.parametrize("version", API)
def test_our_modules_ask_for_what_each_version_has(root, version):
    assert set(API) == {"10.0.1", "10.16.1", "11.4.0", "rtx 1.7.1"}
    for name in SOURCES:
        assert not _missing((root / "engine" / "runtimes" / f"{name}.py").read_text(), version), name


def test_the_check_of_versions_finds_what_is_lacking(root):
    def missing(body, version="11.4.0"):
        return _missing(f"def f(self, trt, config):\n {body}", version)

    assert missing("config.int8_calibrator = 1") == ["config.int8_calibrator (line 2)"]
    assert not missing("config.int8_calibrator = 1", "10.16.1")
    assert missing("return trt.BuilderFlag.FP16") and missing("return self.trt.IInt8EntropyCalibrator2")
    assert not missing("if hasattr(trt, 'ComputeCapability'):\n  return trt.ComputeCapability.SM89")
    assert missing("if hasattr(trt, 'Builder'):\n  return trt.ComputeCapability")
    assert not missing("if not hasattr(trt, 'ComputeCapability'):\n  return\n trt.ComputeCapability.SM89")
    assert missing("if hasattr(trt, 'ComputeCapability'):\n  return\n trt.ComputeCapability.SM89")
    assert missing("if not config or not hasattr(trt, 'Builder'):\n  return\n trt.ComputeCapability")
    asked = Asked(API["11.4.0"])
    asked.visit(ast.parse((root / "engine" / "runtimes" / "tensorrt_plan.py").read_text()))
    assert asked.seen > 40


def test_the_written_api_is_the_installed_ones(rtx):
    known = API["rtx 1.7.1"]
    if rtx.__version__.startswith("1.7.1"):
        for name, members in known.items():
            assert set(members) <= set(dir(getattr(rtx, name) if name else rtx)), name
    assert len(known) > 20
